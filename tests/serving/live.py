"""A real server on a free port, and clients that are as rude as it takes."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from braid.serving.guard import Guard
from braid.serving.keys import Keys
from braid.serving.limits import Limits
from braid.serving.logs import Lines
from braid.serving.metrics import Metrics
from braid.serving.running import Server

KEY = "an-old-key-that-is-long-enough"


@dataclass
class Live:
    """A server that runs."""

    port: int
    metrics: Metrics
    log: io.StringIO

    def ask(self, method: str, path: str, body=None, key: str | None = KEY, **headers):
        """Return status, headers and body of an answer; None sends no key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        heads = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            heads["authorization"] = f"Bearer {key}"
        with contextlib.closing(connection):
            connection.request(method, path, body, heads)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def socket(self, receives: int | None = None) -> socket.socket:
        """Return a connection; `receives` bounds the bytes that it holds unread."""
        one = socket.socket()
        if receives is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        one.settimeout(10)
        one.connect(("127.0.0.1", self.port))
        return one

    def lines(self, event: str = "request") -> list[dict]:
        """Return the log's lines of an event."""
        found = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in found if line["event"] == event]

    def line(self, request: str, event: str = "request") -> dict:
        """Return the one line of a request, which may be written after its answer."""
        until = time.monotonic() + 5
        while not (found := [x for x in self.lines(event) if x["request"] == request]):
            assert time.monotonic() < until
            time.sleep(0.01)
        (one,) = found
        return one


def end(one: socket.socket) -> bytes:
    """Return all that comes until the connection ends."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := one.recv(65536):
            data += piece
    return data


def error(body: bytes) -> dict:
    """Return what an error object says; it has no other form."""
    (name, told), *rest = json.loads(body).items()
    assert name == "error" and not rest
    assert set(told) == {"message", "type", "param", "code"} and told["message"]
    return told


@contextlib.contextmanager
def served(app, keys=(KEY,), limits=None, open_paths=(), **options):
    """Serve an application behind a guard, in a thread."""
    metrics, log = Metrics(), io.StringIO()
    logger = logging.Logger("braid.serving")
    handler = logging.StreamHandler(log)
    handler.setFormatter(Lines())
    logger.addHandler(handler)
    guard = Guard(app, known(*keys), limits or Limits(), metrics, logger, open_paths=open_paths)
    with running(guard, **options) as port:
        yield Live(port, metrics, log)


@contextlib.contextmanager
def running(app, **options) -> Iterator[int]:
    """Run a server in a thread, and return its port."""
    options = {"drain": lambda: None, "idle": lambda: True, **options}
    server = Server(app, host="127.0.0.1", port=0, **options)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def known(*keys: str) -> Keys:
    """Return keys that are given in words."""
    return Keys(tuple(hashlib.sha256(key.encode()).digest() for key in keys))
