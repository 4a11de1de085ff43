"""The packages that only a server needs, imported in one place."""

from __future__ import annotations

from braid.errors import BraidError

try:
    import anyio.to_thread
    import fastapi as fastapi
    import fastapi.exceptions
    import h11 as h11
    import prometheus_client as prometheus_client
    import python_multipart as python_multipart
    import sse_starlette
    import starlette.concurrency
    import starlette.datastructures
    import starlette.exceptions
    import starlette.requests
    import starlette.responses
    import uvicorn as uvicorn
    import uvicorn.protocols.http.h11_impl
except ImportError as e:
    raise BraidError(
        f'a server needs {e.name}, which is not installed; run: pip install "braid-models[serve]"'
    ) from e

CapacityLimiter = anyio.CapacityLimiter
run_in_thread = anyio.to_thread.run_sync
FastAPI = fastapi.FastAPI
HTTPException = starlette.exceptions.HTTPException
RequestValidationError = fastapi.exceptions.RequestValidationError
EventSourceResponse = sse_starlette.EventSourceResponse
Request = starlette.requests.Request
Response = starlette.responses.Response
UploadFile = starlette.datastructures.UploadFile
run_in_threadpool = starlette.concurrency.run_in_threadpool
H11Protocol = uvicorn.protocols.http.h11_impl.H11Protocol
