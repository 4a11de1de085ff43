"""The paths of the server: each reads a request, hands it to the engine and sends the answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from braid import __version__
from braid.errors import BraidError
from braid.generation import Job
from braid.parts import Parts
from braid.serving import page
from braid.serving.answers import encoded, install, refusal_of
from braid.serving.asked import Asked, Reply, Served, dumps, read_json
from braid.serving.audio import Spoken, Transcribed
from braid.serving.chat import Completion
from braid.serving.engine import Engine
from braid.serving.extra import (
    CapacityLimiter,
    EventSourceResponse,
    FastAPI,
    Request,
    Response,
    UploadFile,
    run_in_thread,
    run_in_threadpool,
)
from braid.serving.images import Drawing
from braid.serving.logs import LOGGER
from braid.serving.measuring import Embedding, Measuring, Scoring
from braid.serving.metrics import CONTENT_TYPE, Metrics
from braid.serving.native import Generation
from braid.serving.refusals import Refusal, busy, invalid, unavailable
from braid.serving.wishes import Filling, Preview, Written, memory, used

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")

log = logging.getLogger(LOGGER)

_PING_SECONDS = 15

_READERS = 32
"""Requests that are read at a time; of their pictures and sounds, fewer are decoded."""

_MOST_HELD = 1 << 30
"""Bytes that the pictures and sounds of all requests under way may take."""


class Routes:
    """Serves one model.

    Attributes:
        engine: that runs it.
        served: what requests are read against.
        metrics: that count.
    """

    def __init__(self, engine: Engine, served: Served, metrics: Metrics) -> None:
        self.engine, self.served, self.metrics = engine, served, metrics
        self.began = int(time.time())
        self._readers = CapacityLimiter(_READERS)
        self._held = 0
        self._asked: dict[str, set[Future[Any]]] = {}

    def app(self) -> FastAPI:
        """Return the application; a `Guard` has to stand before it."""
        app = FastAPI(
            title="braid",
            version=__version__,
            docs_url=None,  # their pages load scripts from elsewhere
            redoc_url=None,
            redirect_slashes=False,  # a redirect would echo the client's Host
        )
        for path in ("/livez", "/health"):
            app.get(path)(self.alive)
        app.get("/readyz")(self.ready)
        app.get("/metrics")(self.count)
        app.get("/v1/models")(self.models)
        app.get("/v1/models/{name:path}")(self.model)
        app.post("/v1/generate")(self.generate)
        app.post("/v1/chat/completions")(self.chat)
        app.post("/v1/images/generations")(self.draw)
        app.post("/v1/images/edits")(self.edit)
        app.post("/v1/audio/speech")(self.speak)
        app.post("/v1/audio/transcriptions")(self.transcribe)
        app.post("/v1/embeddings")(self.embed)
        app.post("/v1/score")(self.score)
        app.post("/v1/requests/{id}/cancel")(self.cancel)
        page.install(app)
        install(app)
        return app

    async def alive(self) -> Response:
        """Say that the process answers."""
        return _json({"status": "ok"})

    async def ready(self) -> Response:
        """Say whether new work is taken."""
        if not self.engine.ready:
            raise unavailable("this server takes no new work now; try again later", "not_ready")
        return _json({"status": "ok", "waiting": self.engine.waiting})

    async def count(self) -> Response:
        """Tell Prometheus what was counted."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def models(self) -> Response:
        """Tell what is served."""
        return _json({"object": "list", "data": [self._about()]})

    async def model(self, name: str) -> Response:
        """Tell of one model."""
        self.served.check_name(name)
        return _json(self._about())

    def _about(self) -> dict[str, Any]:
        strands = self.served.pipe.braid.strands
        modalities = {
            name: {
                "process": type(strand.process).__name__ if strand.process else None,
                "tokens": list(strand.modality.shape),
            }
            for name, strand in strands.items()
        }
        return {
            "id": self.served.name,
            "object": "model",
            "created": self.began,
            "owned_by": "braid",
            "modalities": modalities,
            "limits": asdict(self.served.limits),
        }

    async def generate(self, request: Request) -> Response:
        """Fill the holes of a document of any modalities."""
        return await self._fill(request, Generation.read)

    async def chat(self, request: Request) -> Response:
        """Answer in a conversation."""
        return await self._fill(request, Completion.read)

    async def draw(self, request: Request) -> Response:
        """Draw pictures of a prompt."""
        return await self._fill(request, Drawing.read)

    async def speak(self, request: Request) -> Response:
        """Read a text aloud."""
        return await self._fill(request, Spoken.read)

    async def edit(self, request: Request) -> Response:
        """Change a picture, complete it or refine it."""
        fields, files = await self._form(request)
        images = files.get("image", []) + files.get("image[]", [])
        masks = files.get("mask", [])
        if len(masks) > 1:
            raise _twice("mask")
        mask = masks[0] if masks else None
        read = lambda: Drawing.edit(fields, images, mask, self.served)  # noqa: E731
        return await self._answer(request, await self._read(read))

    async def transcribe(self, request: Request) -> Response:
        """Write down what was said."""
        fields, files = await self._form(request)
        if len(files.get("file", [])) != 1:
            raise invalid("a transcription needs one sound; send it as the form's `file`", "file")
        read = lambda: Transcribed.read(fields, files["file"][0], self.served)  # noqa: E731
        return await self._answer(request, await self._read(read))

    async def embed(self, request: Request) -> Response:
        """Return where texts lie among the model's hidden vectors."""
        return await self._measure(request, Embedding.read)

    async def score(self, request: Request) -> Response:
        """Return how likely each part of a document is."""
        return await self._measure(request, Scoring.read)

    async def cancel(self, request: Request, id: str) -> Response:
        """End the requests with this x-request-id that came with the same key."""
        found = self._asked.get(_name(request, id))
        if not found:
            raise Refusal(404, f"no request {id[:64]!r} is under way", code="request_not_found")
        for future in list(found):
            future.cancel()
        return _json({"id": id, "object": "request", "cancelled": True})

    async def _fill(
        self, request: Request, read: Callable[[dict[str, Any], Served], Asked]
    ) -> Response:
        content = await request.body()
        depth = self.served.limits.depth
        asked = await self._read(lambda: read(read_json(content, depth), self.served))
        return await self._answer(request, asked)

    async def _measure(
        self, request: Request, read: Callable[[dict[str, Any], Served], Measuring]
    ) -> Response:
        content = await request.body()
        depth = self.served.limits.depth
        asked = await self._read(lambda: read(read_json(content, depth), self.served))
        bytes_held = sum(map(memory, asked.documents))
        found = await self._result(request, self._submit(request, asked.prepare, bytes_held))
        return _reply(asked.answer(found))

    async def _read(self, read: Callable[[], T]) -> T:
        """Read a request in a thread, few at a time."""
        return await run_in_thread(read, limiter=self._readers)

    async def _form(self, request: Request) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
        """Return a form's fields and its files."""
        fields: dict[str, Any] = {}
        files: dict[str, list[bytes]] = {}
        most = self.served.limits.pictures + 1
        try:
            async with request.form(max_files=most, max_fields=64) as form:
                for name, value in form.multi_items():
                    if isinstance(value, UploadFile):
                        files.setdefault(name, []).append(await value.read())
                    elif name in fields:
                        raise _twice(name)
                    else:
                        fields[name] = value
        except UnicodeError as e:  # of the charset that the client has chosen
            raise invalid("the form's charset does not fit it; send UTF-8", code="bad_body") from e
        return fields, files

    async def _answer(self, request: Request, asked: Asked) -> Response:
        asked.wish.check(self.served.limits)
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Written | Preview | None] = asyncio.Queue()

        def tell(event: Written | Preview) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        filling = Filling(asked.wish, self.served.pipe, self.served.limits, tell)
        future = self._submit(request, filling.prepare, memory(asked.wish.parts))
        if not asked.stream:
            results = self._counted(filling, await self._result(request, future))
            usage = used(asked.wish.parts, results)
            return _reply(await run_in_threadpool(lambda: asked.answer(results, usage)))
        _when_done(future, lambda: events.put_nowait(None))
        first = await _unless_left(request, future, events.get())
        if first is None:  # it ended before there was anything to say: perhaps in a refusal
            await self._result(request, future)
        said = self._stream(request, asked, filling, future, events, first)
        return _Streamed(said, future)

    async def _stream(
        self,
        request: Request,
        asked: Asked,
        filling: Filling,
        future: Future[list[Parts]],
        events: asyncio.Queue[Written | Preview | None],
        first: Written | Preview | None,
    ) -> AsyncIterator[dict[str, str]]:
        """Yield what is sent: an answer's pieces, and its end."""
        try:
            event = first
            while event is not None:
                for piece in await run_in_threadpool(lambda e: [*asked.piece(e)], event):
                    yield {"data": piece}
                event = await events.get()
            results = self._counted(filling, _outcome(future))
            for i, parts in enumerate(results):
                for rest in filling.rest(i, parts):
                    for piece in asked.piece(rest):
                        yield {"data": piece}
            usage = used(asked.wish.parts, results)
            for piece in await run_in_threadpool(lambda: [*asked.end(results, usage)]):
                yield {"data": piece}
        except Exception as e:  # the answer has begun: its end says what went wrong
            state = request.scope["state"]
            refusal, _ = refusal_of(e, state["request"])
            state["refused"] = refusal  # the guard counts and tells it
            if refusal is not e:
                log.exception("a stream failed", extra={"fields": {"request": state["request"]}})
            yield {"data": encoded(refusal).decode()}

    def _submit(
        self, request: Request, prepare: Callable[[], Job[T]], bytes_held: int
    ) -> Future[T]:
        if self._held and self._held + bytes_held > _MOST_HELD:
            raise busy(
                f"the pictures and sounds of the requests under way take {self._held} bytes, and "
                f"these {bytes_held}, of at most {_MOST_HELD}; try again later"
            )
        future = self.engine.submit(prepare, self.served.limits.seconds)
        id = _name(request, request.scope["state"]["request"])
        self._asked.setdefault(id, set()).add(future)
        self._held += bytes_held
        _when_done(future, lambda: self._forget(id, future, bytes_held))
        return future

    def _forget(self, id: str, future: Future[Any], bytes_held: int) -> None:
        self._held -= bytes_held
        if future.cancelled():
            self.metrics.cancelled.inc()
        left = self._asked.get(id, set())
        left.discard(future)
        if not left:
            self._asked.pop(id, None)

    async def _result(self, request: Request, future: Future[T]) -> T:
        """Return what the engine gives; a client that leaves ends the work."""
        done = asyncio.Event()
        _when_done(future, done.set)
        await _unless_left(request, future, done.wait())
        return _outcome(future)

    def _counted(self, filling: Filling, made: list[Parts]) -> list[Parts]:
        """Return the results as they are answered."""
        results = [filling.of(parts) for parts in made]
        self.metrics.results.inc(len(results))
        self.metrics.tokens.inc(used(filling.wish.parts, results)["completion_tokens"])
        self.metrics.calls.inc(results[0].calls)
        return results


class _Streamed(EventSourceResponse):
    """A stream; where it ends early, since its client has left, the work ends, too."""

    def __init__(self, said: AsyncIterator[dict[str, str]], future: Future[Any]) -> None:
        super().__init__(said, ping=_PING_SECONDS, sep="\n")
        self.future = future

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what is said."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.future.cancel()


def _name(request: Request, id: str) -> str:
    """Return the name of a request among those of its key, of which only the digest is kept."""
    key = hashlib.sha256(request.headers.get("authorization", "").encode()).hexdigest()
    return f"{key} {id}"


def _when_done(future: Future[Any], do: Callable[[], object]) -> None:
    """Do something in the event loop when a future is done."""
    loop = asyncio.get_running_loop()

    def soon(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended, and nobody waits
            loop.call_soon_threadsafe(do)

    future.add_done_callback(soon)


async def _unless_left(request: Request, future: Future[Any], waiting: Awaitable[T]) -> T:
    """Wait for something about a future, which ends where the client leaves.

    Raises:
        Refusal: the client has left.
    """
    work, left = asyncio.ensure_future(waiting), asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise _cancelled()
        return work.result()
    finally:
        left.cancel()
        if not work.done():  # or this request was cancelled itself
            work.cancel()
            future.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _outcome(future: Future[T]) -> T:
    """Return what a finished future gives.

    Raises:
        Refusal: of a document that is wrong, or that was cancelled.
    """
    if future.cancelled():
        raise _cancelled()
    try:
        return future.result()
    except BraidError as e:
        raise invalid(str(e)) from e


def _cancelled() -> Refusal:
    return Refusal(499, "the request was cancelled", code="cancelled")


def _twice(name: str) -> Refusal:
    return invalid(f"the form has {name[:40]!r} twice; send it once", name[:40])


def _json(content: Any) -> Response:
    return Response(dumps(content), media_type="application/json")


def _reply(reply: Reply) -> Response:
    return Response(reply.content, media_type=reply.type)
