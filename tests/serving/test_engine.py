"""The engine: requests come and go between passes, and none of them can hurt another."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from braid import Hole
from braid.errors import BraidError
from braid.generation import Job
from braid.serving.engine import Engine, Room
from braid.serving.limits import Limits
from braid.serving.refusals import Refusal
from braid.serving.wishes import Filling, Preview, Wish, Written
from tests.laws import models

pipe = functools.cache(models.pipeline)


@contextmanager
def engine(paradigm: str = "transfusion", **room: int) -> Iterator[Engine]:
    made = Engine(pipe(paradigm), Room(**room))
    made.start()
    try:
        yield made
    finally:
        made.close()


def work(seed: int = 0, steps: int = 2, **options):
    return pipe("transfusion").prepare(["row", Hole("image")], seed=seed, steps=steps, **options)


class Gate:
    """Keeps the engine within a pass until it is opened."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self) -> Job[str]:
        def run(transform) -> str:
            self.entered.set()
            assert self.open.wait(10)
            return "opened"

        return Job(run, 1)


def until(what) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_each_gets_what_it_gets_alone():
    with engine(rows=4) as one:
        futures = [one.submit(lambda s=s: work(s, 1 + s % 3, n=1 + s % 2), 60) for s in range(9)]
        made = [f.result(60) for f in futures]
    model = pipe("transfusion")
    for s, results in enumerate(made):
        alone = model(["row", Hole("image")], seed=s, steps=1 + s % 3, n=1 + s % 2)
        assert [p[1].tobytes() for p in results] == [p[1].tobytes() for p in alone]


def test_a_mistake_is_its_own():
    def wrong() -> Job:
        raise BraidError("no such thing")

    def fails(transform) -> None:
        raise ZeroDivisionError

    with engine() as one:
        unread, broken = one.submit(wrong, 60), one.submit(lambda: Job(fails, 1), 60)
        good = one.submit(work, 60)
        with pytest.raises(BraidError, match="no such thing"):
            unread.result(60)
        with pytest.raises(ZeroDivisionError):
            broken.result(60)
        assert len(good.result(60)) == 1


def test_those_who_wait_and_are_alike_begin_as_one_batch():
    gate, rows = Gate(), []
    model = pipe("transfusion")
    hook = model.braid.transformer.blocks[0].register_forward_hook(
        lambda _m, given, _o: rows.append(len(given[0]))
    )
    with engine(rows=4) as one:
        held = one.submit(gate, 60)
        assert gate.entered.wait(10)
        alike = [one.submit(lambda s=s: work(s, 3), 60) for s in range(3)]
        other = one.submit(lambda: work(9, 2), 60)
        gate.open.set()
        made = [f.result(60) for f in alike]
        assert held.result(60) and other.result(60)
        until(lambda: one.idle)
        assert one.cost == one.running == one.waiting == 0
    hook.remove()
    assert max(rows) == 3, "three rows of one call"
    for s, (parts,) in enumerate(made):
        assert parts[1].tobytes() == model(["row", Hole("image")], seed=s, steps=3)[1].tobytes()


def test_one_of_a_batch_may_leave_or_fail_and_the_others_stay():
    def broken(frame) -> None:
        raise ZeroDivisionError

    gate = Gate()
    with engine() as one:
        one.submit(gate, 60)
        assert gate.entered.wait(10)
        left = one.submit(lambda: work(0, 3), 60)
        wrong = one.submit(lambda: work(1, 3, watch=broken), 60)
        good = one.submit(lambda: work(2, 3), 60)
        threading.Timer(0.05, gate.open.set).start()
        with pytest.raises(ZeroDivisionError):
            wrong.result(60)
        left.cancel()
        alone = pipe("transfusion")(["row", Hole("image")], seed=2, steps=3)
        assert good.result(60)[0][1].tobytes() == alone[1].tobytes()
        until(lambda: one.idle)


def test_requests_that_cannot_be_joined_run_alone(monkeypatch):
    def fails(works):
        raise MemoryError

    gate = Gate()
    with engine() as one:
        monkeypatch.setattr(one.pipe, "joined", fails)
        one.submit(gate, 60)
        assert gate.entered.wait(10)
        alike = [one.submit(lambda s=s: work(s, 3), 60) for s in range(3)]
        gate.open.set()
        assert all(len(f.result(60)) == 1 for f in alike)
        until(lambda: one.idle)


def test_one_too_many_is_refused_and_all_others_are_served():
    gate = Gate()
    with engine(requests=3) as one:
        held = one.submit(gate, 60)
        assert gate.entered.wait(10)
        waiting = [one.submit(work, 60) for _ in range(3)]
        with pytest.raises(Refusal) as e:
            one.submit(work, 60)
        assert e.value.status == 429 and e.value.retry and one.waiting == 3
        gate.open.set()
        assert held.result(60) == "opened" and all(f.result(60) for f in waiting)
        until(lambda: one.idle)
        assert one.cost == one.running == one.waiting == 0


def test_requests_together_cost_no_more_than_allowed_but_one_alone_may():
    gate = Gate()
    cost = work().cost
    with engine(cost=cost) as one:
        held = one.submit(gate, 60)
        assert gate.entered.wait(10)
        two = [one.submit(lambda: work(n=2), 60), one.submit(work, 60)]
        gate.open.set()
        held.result(60)
        assert two[0].result(60), "of twice the cost"
        with pytest.raises(Refusal) as e:
            two[1].result(60)
        assert e.value.status == 429


@pytest.mark.parametrize("begun", [True, False])
def test_what_nobody_waits_for_ends_before_the_next_pass(begun):
    gate, calls = Gate(), []

    def watch(frame) -> None:
        calls.append(1)
        if len(calls) == 2:
            gate.entered.set()
            assert gate.open.wait(10)

    with engine() as one:
        future = one.submit(lambda: work(steps=100, watch=watch if begun else None), 60)
        if begun:
            assert gate.entered.wait(10)
        assert future.cancel()
        gate.open.set()
        until(lambda: one.idle)
        assert len(calls) <= 3 and one.running == 0
        assert one.submit(work, 60).result(60)


def test_what_runs_goes_on_while_many_are_read():
    gate, calls, seen = Gate(), [], []

    def watch(frame) -> None:
        calls.append(1)
        gate.entered.set()
        assert gate.open.wait(10)

    def slow() -> Job:
        seen.append(len(calls))
        time.sleep(0.06)
        return work()

    with engine() as one:
        long = one.submit(lambda: work(steps=100_000, watch=watch), 60)
        assert gate.entered.wait(10)
        others = [one.submit(slow, 60) for _ in range(4)]
        gate.open.set()
        for other in others:
            other.result(60)
        long.cancel()
    assert len(set(seen)) > 1


def test_what_takes_too_long_is_given_up():
    with engine() as one:
        late = one.submit(lambda: work(steps=100_000), 0.2)
        with pytest.raises(Refusal) as e:
            late.result(60)
        assert e.value.status == 504
        until(lambda: one.idle)
        assert one.submit(work, 60).result(60)


def test_an_engine_that_drains_finishes_what_it_has():
    gate = Gate()
    with engine() as one:
        held, queued = one.submit(gate, 60), one.submit(work, 60)
        assert gate.entered.wait(10)
        one.drain()
        with pytest.raises(Refusal) as e:
            one.submit(work, 60)
        assert e.value.status == 503 and not one.ready and not one.idle
        gate.open.set()
        assert held.result(60) == "opened" and queued.result(60)
        until(lambda: one.idle)


def test_an_engine_that_closes_tells_who_still_waits():
    gate = Gate()
    with engine() as one:
        one.submit(gate, 60)
        assert gate.entered.wait(10)
        left = one.submit(lambda: work(steps=100_000), 60)
        threading.Timer(0.1, gate.open.set).start()
    with pytest.raises(Refusal) as e:
        left.result(0)
    assert e.value.status == 503


def test_room_is_for_somebody():
    with pytest.raises(BraidError, match="rows 0 must be at least 1"):
        Room(rows=0)


def test_what_was_told_is_not_told_again_where_a_batch_is_tried_one_by_one():
    """A text and then a picture; a mate of the batch fails at the picture."""
    model, told = pipe("mmada"), []
    parts = ["row", Hole("text", 4), Hole("image")]
    wish = Wish(parts, seed=1, steps=4, stream=True, previews=3)
    filling = Filling(wish, model, Limits(), told.append)

    def broken(frame) -> None:
        if frame.part == 2:
            raise ZeroDivisionError

    gate = Gate()
    with engine("mmada") as one:
        one.submit(gate, 60)
        assert gate.entered.wait(10)
        ours = one.submit(filling.prepare, 60)
        theirs = one.submit(lambda: model.prepare(parts, seed=2, steps=4, watch=broken), 60)
        threading.Timer(0.05, gate.open.set).start()
        with pytest.raises(ZeroDivisionError):
            theirs.result(60)
        (made,) = ours.result(60)
    written = [e for e in told if isinstance(e, Written)] + filling.rest(0, made)
    assert "".join(e.text for e in written) == made[1]
    calls = [e.call for e in told if isinstance(e, Preview)]
    assert calls == [2, 4, 6]
