"""The server's process: slow clients are cut, and a stop lets running requests finish."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from braid.serving.extra import H11Protocol, h11, uvicorn
from braid.serving.guard import ABORT, FULL
from braid.serving.refusals import invalid

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_HEAD_BYTES = 16 * 1024


class Server(uvicorn.Server):
    """Serves an application until a signal stops it.

    The first SIGTERM or SIGINT calls `drain`; the socket keeps listening, so that probes are
    answered, until nothing runs or the time is over, and the process then ends with exit code 0.
    The second signal ends it at once, as that signal does by default.

    Arguments:
        app: of ASGI, a `Guard`.
        host: name or address to bind to.
        port: to bind to.
        drain: refuses new work with 503 from now on and makes readiness 503; called once, within
            the event loop.
        idle: returns whether no work is left that was accepted.
        shutdown_seconds: that running requests have after the first signal.
        head_seconds: that a client has for the head of a request.
        keep_alive_seconds: that a connection stays open between requests.
        write_seconds: that a client has to read the end of an answer.
        concurrency: of connections; a request on one more is refused with 503, but for probes.
            None sets no limit.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        drain: Callable[[], None],
        idle: Callable[[], bool],
        shutdown_seconds: float = 30.0,
        head_seconds: float = 5.0,
        keep_alive_seconds: int = 5,
        write_seconds: float = 30.0,
        concurrency: int | None = None,
    ) -> None:
        def protocol(**options: Any) -> _Protocol:
            return _Protocol(head_seconds, write_seconds, concurrency, **options)

        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=protocol,  # pyright: ignore[reportArgumentType]
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            # the log has the address that is connected, not one that a header claims
            proxy_headers=False,
            timeout_keep_alive=keep_alive_seconds,
            h11_max_incomplete_event_size=_HEAD_BYTES,
        )
        super().__init__(config)
        self._drain, self._idle = drain, idle
        self._shutdown_seconds = shutdown_seconds
        self._signalled = False
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take note of a signal; `drain` is left to the loop, which may be within its lock now."""
        if self._signalled:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._signalled = True
        if not self.started:  # nothing was accepted
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether to exit; called ten times a second."""
        if self._signalled and self._deadline is None:
            self._deadline = time.monotonic() + self._shutdown_seconds
            self._drain()
        if self._deadline is not None:
            # an answer may still be on its way when the work for it is done
            done = self._idle() and not self.server_state.tasks
            self.should_exit |= done or time.monotonic() >= self._deadline
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        """Close the socket, and cancel what the time did not suffice for."""
        left = 0.0 if self._deadline is None else self._deadline - time.monotonic()
        self.config.timeout_graceful_shutdown = max(1, math.ceil(left))
        await super().shutdown(sockets)


class _Protocol(H11Protocol):
    """A connection that is cut when its client is too slow.

    uvicorn limits neither the time for a request's head nor that for reading the end of an answer;
    the body and the rest of the answer are the guard's.
    """

    def __init__(
        self, head_seconds: float, write_seconds: float, concurrency: int | None, **options: Any
    ) -> None:
        super().__init__(**options)
        self._guarded: ASGIApp = self.app  # pyright: ignore[reportAttributeAccessIssue]
        self.app = self._serve  # pyright: ignore[reportAttributeAccessIssue]
        self._head_seconds, self._write_seconds = head_seconds, write_seconds
        self._concurrency = math.inf if concurrency is None else concurrency
        self._head: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore
        """Wait for a head from now on."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head from its first byte on."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        for timer in (self._head, self._end):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, with the error object."""
        refusal = invalid("the request is not valid HTTP", code="invalid_http")
        body = json.dumps(refusal.body()).encode("ascii")
        head = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        events = (
            h11.Response(status_code=400, headers=head, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self._close()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection without requests."""
        super().timeout_keep_alive_handler()
        self._close()

    def _watch_head(self) -> None:
        """Have the connection cut in time if a head is not complete."""
        waits = self.conn.their_state is h11.IDLE
        if waits and self._head is None:
            self._head = self.loop.call_later(self._head_seconds, self.transport.abort)
        elif not waits and self._head is not None:
            self._head.cancel()
            self._head = None

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; what serves it can cut the connection."""
        if self._end is not None:
            self._end.cancel()
        full = len(self.connections) > self._concurrency
        scope["extensions"] = {ABORT: self.transport.abort, FULL: full}
        try:
            await self._guarded(scope, receive, send)
        finally:
            self._end_in_time()

    def _close(self) -> None:
        """Close the connection when its client has read all, or at the latest in time."""
        self.transport.close()
        self._end_in_time()

    def _end_in_time(self) -> None:
        """Look after a while whether the connection is closed and its client has read all."""
        if self._end is not None:
            self._end.cancel()
        self._end = self.loop.call_later(self._write_seconds, self._abort_closing)

    def _abort_closing(self) -> None:
        """Cut a connection that was closed and whose client does not read the rest."""
        if self.transport.is_closing():
            self.transport.abort()
