"""What every request passes, whatever its route: a key, the limits of its body, the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

from braid.serving.answers import encoded, refusal_of
from braid.serving.keys import loopback
from braid.serving.metrics import METHODS
from braid.serving.refusals import Refusal, busy, unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from braid.serving.keys import Keys
    from braid.serving.limits import Limits
    from braid.serving.metrics import Metrics

# extensions of ASGI that our server offers
ABORT = "braid.abort"  # ends a connection without waiting for its reader
FULL = "braid.full"  # whether more connections are open than there should be
PROBES = ("/livez", "/readyz", "/health")
_IDENTITY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LINGER = 1.0
_MOST_HELD = 1 << 28  # bytes of the bodies of all requests under way
_GONE = 499  # what others log, too, for a client that left before an answer
_OWN = (b"x-request-id", b"x-content-type-options", b"cache-control")


class Guard:
    """An ASGI application around another; it is the outermost.

    Every path needs a key, but for the probes and what else is open. The body is read to its end
    before the application is called: one that is too large or too slow never reaches a route, and
    no route can answer it otherwise. What the application sends is passed on piece by
    piece. WebSockets are denied.

    Arguments:
        app: what is guarded; with FastAPI, `answers.install` was called on it.
        keys: that are asked for.
        limits: of the body, and of the time to read and to write.
        metrics: that count.
        log: one line for each request, and the traceback of each failure, whose message may quote
            a request; prompts, queries, headers and keys are in no other line.
        open_paths: what is read without a key, besides the probes.
        local: only this machine reaches the server, by one of the names that it has there.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        limits: Limits,
        metrics: Metrics,
        log: logging.Logger,
        *,
        open_paths: Sequence[str] = (),
        local: bool = False,
    ) -> None:
        self.app, self.keys, self.limits, self.local = app, keys, limits, local
        self.metrics, self.log = metrics, log
        self.open = (*PROBES, *open_paths)
        self.held = 0  # bytes of all bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection's request."""
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)


class _Exchange:
    """One request and its answer.

    Attributes:
        status: of the answer, None before it starts.
        received: bytes of the body.
        sent: bytes of the answer's body.
        whole: the body was read to its end.
        complete: the answer was sent to its end.
        gone: the client left, or was cut off.
        closes: the connection ends with the answer.
    """

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard, self.scope = guard, scope
        self._from, self._to = receive, send
        self.begun = time.monotonic()
        self.heads: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            self.heads.setdefault(name.lower(), []).append(value)
        self.identity = self._identity()
        self.state = scope["state"] = {**scope.get("state", {}), "request": self.identity}
        self.status: int | None = None
        self.received = self.sent = 0
        self.body: bytes | None = None
        self.whole = not (self._length() or b"transfer-encoding" in self.heads)
        self.complete = self.gone = self.closes = False
        self.extensions: dict[str, Any] = scope.get("extensions") or {}

    async def run(self) -> None:
        """Check the request, have it answered and tell of it."""
        try:
            self._authenticate()
            self._refuse_beyond_room()
            self.body = await self._read()
            if self.body is not None:
                await self.guard.app(self.scope, self._receive, self._send)
        except Exception as e:
            if not self.gone:
                await self._answer(e)
            elif not isinstance(e, OSError):  # which only says that nobody reads
                fields = {"fields": {"request": self.identity}}
                self.guard.log.warning("failed without a client", exc_info=e, extra=fields)
        finally:
            self.guard.held -= self.received
            self._tell()

    def _identity(self) -> str:
        """Return the request's name: the client's, where it is harmless."""
        given = self.heads.get(b"x-request-id", [])
        text = given[0].decode("latin-1") if len(given) == 1 else ""
        return text if _IDENTITY.fullmatch(text) else uuid.uuid4().hex

    def _length(self) -> int:
        """Return how long the body is said to be, in bytes; what is no length is too long."""
        lengths = [
            int(text) if text.isdigit() and len(text) < 20 else self.guard.limits.body_bytes + 1
            for text in self.heads.get(b"content-length", [])
        ]
        return max(lengths, default=0)

    def _open(self) -> bool:
        """Return whether the request is one of the few that need no key.

        The path must be one of them to the letter, as it was sent and as the router reads it: what
        is spelt otherwise is not open, whatever it would lead to.
        """
        scope, root = self.scope, self.scope.get("root_path", "")
        path = scope["path"]
        raw = scope.get("raw_path")
        return (
            scope["method"] == "GET"
            and path in [root + name for name in self.guard.open]
            and (raw is None or raw == path.encode())
        )

    def _authenticate(self) -> None:
        """Refuse a request without a key; every wrong key has the same answer."""
        if self._open():
            return
        if not self.guard.keys:
            self._refuse_other_sites()
            return
        given = self.heads.get(b"authorization", [])
        header = given[0].decode("latin-1") if len(given) == 1 else None
        if not self.guard.keys.allows(header):
            raise Refusal(
                401,
                "this server needs a key; send the header authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
            )

    def _refuse_other_sites(self) -> None:
        """Refuse what a page of another site has the user's browser send to a server without keys.

        Such a page says where it comes from; one whose name was made to lead to this machine asks
        for that name.
        """
        host = self._one(b"host")
        origin = self._one(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise _foreign(f"a page of {origin[:100]!r}")
        if self.guard.local and host is not None and not loopback(_named(host)):
            raise _foreign(f"a request for the host {host[:100]!r}")

    def _one(self, name: bytes) -> str | None:
        """Return a header that is given once; of several, all in one."""
        given = self.heads.get(name)
        return None if given is None else b",".join(given).decode("latin-1")

    def _refuse_beyond_room(self) -> None:
        """Refuse a request on one connection too many; a probe tells of the server, and passes."""
        if self.extensions.get(FULL) and not self._open():
            self.closes = True
            raise unavailable("too many connections are open; try again", "too_many_connections", 1)

    async def _read(self) -> bytes | None:
        """Return the body, or None if the client left before its end."""
        # whoever needs no key has nothing to send
        most = 0 if self._open() else self.guard.limits.body_bytes
        if self._length() > most:
            raise _too_large(most)
        body = bytearray()  # a list of its pieces would be far larger, were each of one byte
        left = self.guard.limits.body_seconds - (time.monotonic() - self.begun)
        try:
            async with asyncio.timeout(left):
                while True:
                    message = await self._from()
                    if message["type"] == "http.disconnect":
                        self.gone = True
                        return None
                    piece = message.get("body", b"")
                    self.received += len(piece)
                    self.guard.held += len(piece)
                    if self.received > most:
                        raise _too_large(most)
                    if self.guard.held > max(_MOST_HELD, most):
                        raise busy("the requests under way fill the memory for them; try again")
                    body += piece
                    if not message.get("more_body", False):
                        self.whole = True
                        return bytes(body)
        except TimeoutError:
            raise Refusal(
                408,
                f"the body did not arrive within {self.guard.limits.body_seconds:g} s; send it "
                "again at once",
                code="body_timeout",
            ) from None

    async def _receive(self) -> Message:
        """Give the application the body in one piece, then what the client does."""
        if self.gone:
            return {"type": "http.disconnect"}
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._from()
        if message["type"] == "http.disconnect" and not self.complete:
            self.gone = True
        return message

    async def _send(self, message: Message) -> None:
        """Pass on a piece of the answer, as long as the client reads.

        Raises:
            OSError: it does not.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            heads = [(n, v) for n, v in message.get("headers", []) if n.lower() not in _OWN]
            ours = (self.identity.encode(), b"nosniff", b"no-store")
            message = {**message, "headers": [*heads, *zip(_OWN, ours, strict=True)]}
        try:
            async with asyncio.timeout(self.guard.limits.write_seconds):
                await self._to(message)
        except TimeoutError:
            self._cut()
            raise OSError("the client does not read") from None
        if message["type"] == "http.response.body":
            self.sent += len(message.get("body", b""))
            self.complete = not message.get("more_body", False) and not self.gone

    def _cut(self) -> None:
        """End the connection; the application sees that the client is gone."""
        self.gone = True
        abort = self.extensions.get(ABORT)
        if abort is not None:
            abort()

    async def _answer(self, error: Exception) -> None:
        """Answer an error, if nothing was answered so far."""
        refusal, head = refusal_of(error, self.identity)
        if refusal.status == 500:
            fields = {"fields": {"request": self.identity}}
            self.guard.log.error("failed", exc_info=error, extra=fields)
        self.state["refused"] = refusal
        if self.status is not None:  # the server ends what is incomplete, which the client sees
            return
        body = encoded(refusal)
        head |= {"content-type": "application/json", "content-length": str(len(body))}
        if self.closes or not self.whole:
            head["connection"] = "close"
        heads = [(name.encode(), value.encode("latin-1")) for name, value in head.items()]
        with contextlib.suppress(OSError):
            await self._send(
                {"type": "http.response.start", "status": refusal.status, "headers": heads}
            )
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            if not self.whole and refusal.status != 408:
                await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        """Throw away for a moment what the client still sends.

        A connection that is closed with unread bytes is reset, and the client may lose the answer.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while (await self._from()).get("more_body", False):
                    pass

    def _tell(self) -> None:
        """Count the request and write its line."""
        seconds = time.monotonic() - self.begun
        # what a route raises when nobody reads is no refusal
        refusal: Refusal | None = None if self.gone else self.state.get("refused")
        if refusal is not None:
            self.guard.metrics.refused(refusal.code)
        status = _GONE if self.status is None else self.status
        method = self.scope["method"] if self.scope["method"] in METHODS else "other"
        route = getattr(self.scope.get("route"), "path", None)
        self.guard.metrics.request(route, method, status, seconds)
        fields = {
            "request": self.identity,
            "method": method,
            "route": route or "other",
            "status": status,
            "code": None if refusal is None else refusal.code,
            "seconds": round(seconds, 4),
            "received": self.received,
            "sent": self.sent,
            "complete": self.complete,
            "client": (self.scope.get("client") or ("unknown",))[0],
        }
        self.guard.log.info("request", extra={"fields": fields})


def _named(host: str) -> str:
    """Return the name or address in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _foreign(what: str) -> Refusal:
    return Refusal(
        403,
        f"{what} is not served without a key; open this server by localhost, or start it with a "
        "key",
        kind="permission_error",
        code="foreign_site",
    )


def _too_large(most: int) -> Refusal:
    """Return the refusal of a body that is too large."""
    message = f"the body has more than {most} bytes; send less"
    return Refusal(413, message, code="body_too_large")
