"""The whole server in this process: the embedded model, its engine, the routes and the guard."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import io
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import braid
from braid.pipeline import Pipeline
from braid.serving.asked import Served
from braid.serving.engine import Engine, Room
from braid.serving.guard import Guard
from braid.serving.keys import Keys
from braid.serving.limits import Limits
from braid.serving.logs import Lines
from braid.serving.metrics import Metrics
from braid.serving.routes import Routes
from tests.serving.live import running

STEPS = 2
"""Network calls of a hole where a request names none."""


@functools.cache
def mini() -> Pipeline:
    """Return the embedded model, whose samplers take few steps."""
    pipe = braid.load("mini")
    for strand in pipe.braid.strands.values():
        if strand.sampler is not None:
            strand.sampler = dataclasses.replace(strand.sampler, steps=STEPS)
    return pipe


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body's JSON."""
        return json.loads(self.body)

    def events(self) -> list[str]:
        """Return the data of a stream's events."""
        lines = self.body.decode().splitlines()
        return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


@dataclass
class Whole:
    """A server that runs."""

    port: int
    engine: Engine
    pipe: Pipeline
    log: io.StringIO

    def ask(
        self, path: str, body: Any = None, method: str = "POST", timeout: float = 60, **headers: str
    ) -> Answer:
        """Return the answer; what is no bytes is sent as JSON."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        heads = {name.replace("_", "-"): value for name, value in headers.items()}
        one = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(one):
            one.request(method, path, content, heads)
            answer = one.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())

    def get(self, path: str) -> Answer:
        """Return the answer to GET."""
        return self.ask(path, method="GET")

    def settled(self) -> bool:
        """Return whether nothing is under way, and nothing is left of what was."""
        engine = self.engine
        return engine.idle and not engine.cost and not engine.waiting and not engine.running


@contextlib.contextmanager
def whole(
    room: Room | None = None, limits: Limits | None = None, pipe: Pipeline | None = None
) -> Iterator[Whole]:
    """Serve a model."""
    pipe, limits = pipe or mini(), limits or Limits()
    engine, metrics, log = Engine(pipe, room or Room()), Metrics(), io.StringIO()
    metrics.watch(
        waiting=lambda: engine.waiting, cost=lambda: engine.cost, running=lambda: engine.running
    )
    logger = logging.Logger("braid.serving")
    handler = logging.StreamHandler(log)
    handler.setFormatter(Lines())
    logger.addHandler(handler)
    app = Routes(engine, Served(pipe, "mini", limits), metrics).app()
    guard = Guard(app, Keys(), limits, metrics, logger)
    engine.start()
    try:
        with running(guard, drain=engine.drain, idle=lambda: engine.idle) as port:
            yield Whole(port, engine, pipe, log)
    finally:
        engine.close()


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.005)
