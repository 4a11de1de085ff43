"""Under load every answer is the one that its request gets alone, and nothing is left behind."""

from __future__ import annotations

import base64
import contextlib
import gc
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from braid import Hole, Part
from braid.generation import Job
from braid.modalities import sounds
from braid.serving import media, routes
from braid.serving.engine import Engine, Room
from braid.serving.limits import Limits
from braid.serving.refusals import Refusal
from tests.serving.live import error
from tests.serving.whole import Answer, Whole, mini, until, whole

WORDS = ["a red circle", "a blue square", "two boats", "a green star on a hill", "one two three"]
LONG = {"parts": [{"type": "hole", "modality": "image"}], "steps": 200}


class Wanted:
    """A request, and what it should give."""

    def __init__(self, number: int) -> None:
        rng = random.Random(number)
        self.kind = rng.choice(["draw", "read", "speak", "images", "embed"])
        self.text, self.seed, self.n = rng.choice(WORDS), rng.randrange(1000), rng.choice((1, 1, 2))
        self.steps, self.guidance = rng.choice((1, 2, 3, 5)), rng.choice((1.0, 1.0, 2.5))
        self.stream = rng.random() < 0.4
        levels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        self.picture = Image.fromarray(levels)

    def options(self) -> dict[str, Any]:
        return {"seed": self.seed, "steps": self.steps, "guidance": self.guidance}

    def asked(self, live: Whole) -> list[Any]:
        """Return the results of the server."""
        given: dict[str, Any] = {"type": "text", "text": self.text}
        if self.kind == "embed":
            told = live.ask("/v1/embeddings", {"input": self.text})
            return [np.asarray(told.json()["data"][0]["embedding"])]
        if self.kind == "speak":
            said = live.ask("/v1/audio/speech", {"input": self.text, **self.options()})
            return [sounds.decode(said.body, "answer")]
        if self.kind == "images":
            body = {"prompt": self.text, "n": self.n, "stream": self.stream, **self.options()}
            told = live.ask("/v1/images/generations", body)
            if self.stream:
                events = [json.loads(event) for event in told.events()]
                return [opened(event["b64_json"]) for event in events]
            return [opened(one["b64_json"]) for one in told.json()["data"]]
        if self.kind == "read":
            file = io.BytesIO()
            self.picture.save(file, "PNG")
            given = {"type": "image", "image": base64.b64encode(file.getvalue()).decode()}
        hole = {"type": "hole", "modality": "text" if self.kind == "read" else "image"}
        body = {"parts": [given, hole], "n": self.n, "stream": self.stream, **self.options()}
        told = live.ask("/v1/generate", body)
        if self.stream:
            *pieces, whole_answer, done = told.events()
            assert done == "[DONE]"
            results = json.loads(whole_answer)["results"]
            if self.kind == "read":
                for i, result in enumerate(results):
                    mine = [p["text"] for p in map(json.loads, pieces) if p["result"] == i]
                    assert "".join(mine) == result["parts"][0]["text"]
        else:
            results = told.json()["results"]
        parts = [result["parts"][0] for result in results]
        if self.kind == "read":
            return [part["text"] for part in parts]
        return [opened(part["image"].partition(",")[2]) for part in parts]

    def alone(self) -> list[Any]:
        """Return the results of the pipeline."""
        pipe = mini()
        if self.kind == "embed":
            return [pipe.embed([self.text]).numpy()]
        if self.kind == "speak":
            return [pipe([self.text, Hole("audio")], **self.options())[1]]
        hole = Hole("text" if self.kind == "read" else "image")
        given = Part("image", self.picture) if self.kind == "read" else self.text
        return [parts[1] for parts in pipe([given, hole], n=self.n, **self.options())]


def opened(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def same(a: Any, b: Any) -> bool:
    """Return whether two results agree, up to the rounding of passes of other sizes."""
    if isinstance(a, str):
        return a == b
    if isinstance(a, np.ndarray):
        return a.shape == b.shape and np.allclose(a, b, atol=1e-3)
    if isinstance(a, Image.Image):
        difference = np.asarray(a).astype(int) - np.asarray(b).astype(int)
        return a.size == b.size and int(np.abs(difference).max()) <= 2
    return a.rate == b.rate and np.allclose(a.samples, b.samples, atol=1e-3)


@contextlib.contextmanager
def probing(live: Whole) -> Iterator[list[float]]:
    """Ask for the server's health and metrics all the time, and note how long health takes."""
    spent: list[float] = []
    stop = threading.Event()
    statuses: set[int] = set()

    def probe() -> None:
        while not stop.is_set():
            begun = time.monotonic()
            statuses.add(live.get("/health").status)
            spent.append(time.monotonic() - begun)
            statuses.add(live.get("/metrics").status)
            time.sleep(0.005)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield spent
    finally:
        stop.set()
        thread.join(60)
        assert statuses == {200}


def load(clients: int, requests: int) -> None:
    """Ask from many clients at once, each its next when the last one is answered."""
    wanted = [Wanted(number) for number in range(requests)]
    with whole(Room(rows=16)) as live, ThreadPoolExecutor(clients) as pool:
        with probing(live) as spent:
            found = list(pool.map(lambda one: one.asked(live), wanted))
        assert live.settled()
    wrong = []
    for one, results in zip(wanted, found, strict=True):
        alone = one.alone()
        if len(alone) != len(results) or not all(map(same, alone, results)):
            wrong.append(vars(one))
    assert not wrong
    p99 = statistics.quantiles(spent, n=100)[98]
    print(f"health under load: median {1e3 * statistics.median(spent):.1f} ms, p99 {1e3 * p99:.1f}")
    assert p99 < 1.0


def test_every_answer_is_the_one_that_its_request_gets_alone():
    load(clients=12, requests=40)


@pytest.mark.slow
def test_hundreds_of_answers_are_those_that_their_requests_get_alone():
    load(clients=64, requests=500)


def head(body: bytes, path: str = "/v1/generate", length: int | None = None) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: a\r\nx-request-id: mine\r\n"
        f"content-length: {len(body) if length is None else length}\r\n\r\n"
    ).encode() + body


def sent(live: Whole, data: bytes) -> socket.socket:
    one = socket.create_connection(("127.0.0.1", live.port), timeout=30)
    one.sendall(data)
    return one


@pytest.fixture
def live() -> Iterator[Whole]:
    with whole(Room(2, 16, cost=10**9), Limits(steps=100_000)) as live:
        yield live


FOREVER = LONG | {"steps": 100_000}


def test_clients_that_vanish_leave_nothing_behind(live):
    body = json.dumps(FOREVER).encode()
    streamed = json.dumps(FOREVER | {"stream": True, "previews": 16}).encode()
    for content in (body, streamed):
        clients = [sent(live, head(content)) for _ in range(5)]  # some of them in the queue
        until(lambda: live.engine.running == 2 and live.engine.waiting == 3)
        for one in clients:
            one.close()
        until(live.settled)
    within = json.dumps(FOREVER | {"stream": True, "previews": 16, "steps": 1000}).encode()
    one = sent(live, head(within))
    read_until(one, b"generation.preview")
    one.close()
    until(live.settled)
    one = sent(live, head(b'{"parts"', length=1000))
    one.close()
    assert live.ask("/v1/generate", LONG | {"steps": 2}).status == 200
    assert live.settled()


def read_until(one: socket.socket, word: bytes) -> None:
    """Read what comes until a word is in it."""
    found = b""
    while word not in found:
        piece = one.recv(65536)
        assert piece, "the stream ended"
        found += piece


def test_a_request_is_cancelled_by_its_name(live):
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(live.ask, "/v1/generate", FOREVER | {"n": 2}, x_request_id=name)
            for name in ("one", "two", "two")
        ]
        until(lambda: live.engine.running == 2 and live.engine.waiting == 2)
        assert live.ask("/v1/requests/two/cancel").status == 200
        assert [one.result(30).status for one in asked[1:]] == [499, 499]
        assert not asked[0].done()
        assert live.ask("/v1/requests/one/cancel").status == 200
        assert error(asked[0].result(30).body)["code"] == "cancelled"
    until(live.settled)
    assert live.ask("/v1/requests/one/cancel").status == 404


def test_a_stream_that_ends_early_is_told_of(live):
    body = json.dumps(FOREVER | {"stream": True, "previews": 16, "steps": 200}).encode()
    with contextlib.closing(sent(live, head(body))) as one:
        read_until(one, b"generation.preview")
        assert live.ask("/v1/requests/mine/cancel").status == 200
        read_until(one, b'"code": "cancelled"')
    lines = lambda: [json.loads(line) for line in live.log.getvalue().splitlines()]  # noqa: E731
    until(lambda: [x["code"] for x in lines() if x.get("request") == "mine"] == ["cancelled"])
    assert 'braid_refusals_total{code="cancelled"} 1.0' in live.get("/metrics").body.decode()


@pytest.mark.slow
def test_what_overflows_is_refused_quickly_and_the_rest_is_finished():
    with whole(Room(rows=2, requests=6), Limits(seconds=120)) as live:
        spent: list[float] = []

        def ask(number: int) -> Answer:
            begun = time.monotonic()
            body = LONG | {"steps": 40, "seed": number}
            answer = live.ask("/v1/generate", body, timeout=120)
            spent.append(time.monotonic() - begun if answer.status == 429 else 0.0)
            return answer

        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(ask, range(40)))
        served = [a for a in answers if a.status == 200]
        refused = [a for a in answers if a.status == 429]
        assert len(served) + len(refused) == 40 and len(served) >= 8 and len(refused) >= 10
        for one in refused:
            assert 1 <= int(one.headers["retry-after"]) <= 60
            assert error(one.body)["code"] == "queue_full"
        assert max(spent) < 5
        seeds = {a.json()["seed"] for a in served}
        assert len(seeds) == len(served)
        until(live.settled)


def test_cost_overflows_too_but_one_request_alone_is_taken(live):
    with whole(Room(cost=1000), Limits(steps=100_000)) as small, ThreadPoolExecutor(1) as pool:
        alone = pool.submit(small.ask, "/v1/generate", FOREVER, x_request_id="a")
        until(lambda: small.engine.running == 1)
        answer = small.ask("/v1/generate", LONG)
        assert answer.status == 429 and int(answer.headers["retry-after"]) >= 1
        small.ask("/v1/requests/a/cancel")
        assert alone.result(30).status == 499
        until(small.settled)


def test_a_deadline_ends_what_runs_and_what_waits():
    with whole(Room(1, cost=10**9), Limits(steps=100_000, seconds=0.7)) as live:
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: live.ask("/v1/generate", FOREVER), range(3)))
        assert [a.status for a in answers] == [504] * 3
        until(live.settled)
        assert live.ask("/v1/generate", LONG | {"steps": 2}).status == 200


def drawing(seed: int, steps: int = 3) -> Any:
    return mini().prepare(["a boat", Hole("image")], seed=seed, steps=steps)


def test_jobs_that_fail_or_will_not_end_hurt_nobody_else():
    def fails(transform: Any) -> None:
        inner = drawing(0).run
        calls = iter(range(2))

        def counted(*given: Any, **named: Any) -> Any:
            if next(calls, None) is None:
                raise RuntimeError("in the middle")
            return transform(*given, **named)

        inner(counted)

    def misused(transform: Any) -> None:
        transform("this", "is", "no", "call", "at all")

    def stubborn(transform: Any) -> None:
        try:
            drawing(0, steps=100_000).run(transform)
        finally:
            raise RuntimeError("fails when it is given up")

    engine = Engine(mini())
    engine.start()
    try:
        good = [engine.submit(lambda s=s: drawing(s, 6), 60) for s in range(3)]
        bad = [engine.submit(lambda run=run: Job(run, 1), 60) for run in (fails, misused)]
        given_up = engine.submit(lambda: Job(stubborn, 1), 60)
        late = engine.submit(lambda: Job(stubborn, 1), 0.2)
        with pytest.raises(RuntimeError, match="in the middle"):
            bad[0].result(30)
        with pytest.raises(Exception, match="."):
            bad[1].result(30)
        with pytest.raises(Refusal, match="longer than"):
            late.result(30)
        given_up.cancel()
        until(lambda: engine.idle)
        for seed, future in enumerate(good):
            alone = mini()(["a boat", Hole("image")], seed=seed, steps=6)
            assert same(future.result(30)[0][1], alone[1])
        last = engine.submit(lambda: Job(stubborn, 1), 60)
        until(lambda: engine.running == 1)
    finally:
        engine.close()
    with pytest.raises(Refusal, match="stopped"):
        last.result(1)


def test_an_engine_whose_pass_fails_starts_again(live, monkeypatch):
    """The pass itself is broken, so that the engine has to begin anew."""
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(live.ask, "/v1/generate", FOREVER) for _ in range(3)]
        until(lambda: live.engine.running == 2)
        passes = live.engine._passes
        monkeypatch.setattr(passes, "_asking", None)  # what nothing expects
        answers = [one.result(30) for one in asked]
    for answer in answers:
        assert answer.status == 503 and error(answer.body)["code"] == "engine_failed"
        assert int(answer.headers["retry-after"]) >= 1
    until(lambda: live.get("/readyz").status == 200)
    assert live.ask("/v1/generate", LONG | {"steps": 2}).status == 200
    assert live.settled()


def test_a_measurement_keeps_nobody_waiting_and_ends_when_it_is_given_up():
    body = {"parts": [{"type": "text", "text": "a red circle " * 20}] * 30, "times": 16}
    with whole() as live, ThreadPoolExecutor(1) as pool:
        score = pool.submit(live.ask, "/v1/score", body, x_request_id="score")
        until(lambda: live.engine.running == 1)
        drawn = live.ask("/v1/generate", LONG | {"steps": 3}, timeout=30)
        assert drawn.status == 200 and not score.done()
        live.ask("/v1/requests/score/cancel")
        assert score.result(30).status == 499
        until(live.settled)


def test_measurements_in_shared_passes_are_those_made_alone():
    texts = ["a red circle", "two boats on a green sea", "one"]
    with whole() as live, ThreadPoolExecutor(6) as pool:
        bodies = [{"parts": [{"type": "text", "text": t}], "times": 3, "seed": 5} for t in texts]
        scores = pool.map(lambda body: live.ask("/v1/score", body).json()["scores"], bodies)
        vectors = live.ask("/v1/embeddings", {"input": texts}).json()["data"]
        for text, (score,), vector in zip(texts, scores, vectors, strict=True):
            (alone,) = mini().score([text], 3, 5)
            assert score["nats"] == pytest.approx(float(alone.value.sum()), rel=1e-4)
            assert np.allclose(vector["embedding"], mini().embed([text]).numpy(), atol=1e-4)


def large() -> bytes:
    """Return a picture's file that is small, and large when it is decoded."""
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000), "navy").save(file, "PNG")
    return file.getvalue()


def read_body() -> bytes:
    picture = {"type": "image", "image": base64.b64encode(large()).decode()}
    parts = [picture, {"type": "hole", "modality": "text"}]
    return json.dumps({"parts": parts, "steps": 1}).encode()


def test_few_pictures_are_decoded_at_a_time(monkeypatch):
    inside, most, lock = 0, 0, threading.Lock()
    decode = media.picture

    def watched(*given: Any) -> Any:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        try:
            return decode(*given)
        finally:
            with lock:
                inside -= 1

    monkeypatch.setattr(media, "picture", watched)
    body = read_body()
    with whole() as live, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: live.ask("/v1/generate", body), range(12)))
    assert {a.status for a in answers} == {200}
    assert 1 < most <= 4


@pytest.mark.slow
def test_pictures_of_waiting_requests_take_no_more_memory_than_there_is(monkeypatch):
    monkeypatch.setattr(routes, "_MOST_HELD", 4 * 12_000_000)
    body = read_body()
    with whole(Room(1, cost=10**9), Limits(steps=100_000)) as live, ThreadPoolExecutor(9) as pool:
        held = pool.submit(live.ask, "/v1/generate", FOREVER, x_request_id="a")
        until(lambda: live.engine.running == 1)
        asked = [pool.submit(live.ask, "/v1/generate", body) for _ in range(8)]
        until(lambda: sum(one.done() for one in asked) == 4)
        refused = [one.result() for one in asked if one.done()]
        assert {one.status for one in refused} == {429}
        assert all(error(one.body)["code"] == "queue_full" for one in refused)
        live.ask("/v1/requests/a/cancel")
        assert held.result(30).status == 499
        assert sum(one.result(30).status == 200 for one in asked) == 4
        assert live.ask("/v1/generate", body).status == 200  # all of it was given back


def resident() -> float:
    """Return this process's memory in MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("requests", [80, 600], ids=["some", "many"])
def test_memory_does_not_grow(requests):
    with whole() as live, ThreadPoolExecutor(6) as pool:

        def some(first: int, count: int) -> None:
            list(pool.map(lambda i: Wanted(i % 50).asked(live), range(first, first + count)))

        some(0, 50)
        before = resident()
        some(50, requests)
        grown = resident() - before
        assert live.settled() and live.engine.idle
    print(f"memory grew by {grown:.1f} MiB over {requests} requests")
    assert grown < 40


@contextlib.contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the command, and yield it and its port."""
    command = [sys.executable, "-m", "braid", "serve", "mini", "--port", "0", *options]
    one = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        assert one.stdout is not None
        line = one.stdout.readline()
        yield one, int(line.split(";")[0].rpartition(":")[2])
    finally:
        one.kill()
        one.communicate()


@pytest.mark.slow
def test_a_stop_under_load_loses_nothing_that_was_accepted():
    with process("--rows", "4") as (one, port), ThreadPoolExecutor(12) as pool:
        live = Whole(port, Engine(mini()), mini(), io.StringIO())
        statuses: list[int | None] = []

        def client(number: int) -> None:
            while not statuses or statuses[-1] == 200:
                body = LONG | {"steps": 30, "stream": number % 2 == 0, "seed": number}
                try:
                    answer = live.ask("/v1/generate", body)
                except OSError:  # no longer listening: nothing was accepted
                    return
                if answer.status == 200 and number % 2 == 0:
                    assert answer.events()[-1] == "[DONE]"
                statuses.append(answer.status)

        clients = [pool.submit(client, number) for number in range(10)]
        until(lambda: len(statuses) >= 3)
        one.send_signal(signal.SIGTERM)
        for running in clients:
            running.result(60)
        one.communicate(timeout=30)
        assert one.returncode == 0
        assert set(statuses) <= {200, 503} and statuses.count(200) >= 10
