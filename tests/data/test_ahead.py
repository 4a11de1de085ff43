"""Values come in order from a thread or from processes; no death, error or hang goes unnoticed."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from braid.data.ahead import ahead
from braid.data.parcel import sealed, unsealed
from braid.errors import BraidError
from tests.laws import models

WORKERS = [0, 1, 3]


def waits_at(number: int, seconds: float = 60.0) -> Callable[[int], int]:
    """Return a function that hangs at a number."""

    def make(n: int) -> int:
        if n == number:
            time.sleep(seconds)
        return n

    return make


def fails_at(number: int, error: Exception) -> Callable[[int], int]:
    """Return a function that meets an error at a number."""

    def make(n: int) -> int:
        if n == number:
            raise error
        return n

    return make


def eventually(holds: Callable[[], bool], seconds: float = 3.0) -> bool:
    """Return whether something holds before long."""
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Claim that a test leaves neither processes nor threads, without any collecting of garbage."""
    gc.collect()
    threads = threading.active_count()
    gc.disable()
    yield
    gc.enable()
    assert multiprocessing.active_children() == []
    assert eventually(lambda: threading.active_count() <= threads), threading.enumerate()


@pytest.mark.parametrize("workers", WORKERS)
def test_values_come_in_order(workers):
    values = ahead(lambda n: (n, torch.arange(n)), workers)
    got = list(itertools.islice(values, 20))
    values.close()
    assert [n for n, _ in got] == list(range(20))
    assert all(torch.equal(x, torch.arange(n)) for n, x in got)


@pytest.mark.parametrize("workers", WORKERS)
def test_global_random_numbers_are_not_touched(workers):
    before = torch.get_rng_state()
    values = ahead(lambda n: n, workers)
    next(values)
    values.close()
    assert torch.equal(before, torch.get_rng_state())


def test_one_value_is_computed_ahead():
    made: list[int] = []
    values = ahead(lambda n: made.append(n) or n)
    assert next(values) == 0
    time.sleep(0.1)
    values.close()
    assert made == [0, 1]


def test_a_worker_has_one_thread_and_is_prepared():
    state: list[str] = []
    values = ahead(
        lambda n: (torch.get_num_threads(), list(state)), 1, prepare=lambda: state.append("ready")
    )
    assert next(values) == (1, ["ready"])
    values.close()
    assert state == []


@pytest.mark.parametrize("workers", WORKERS)
def test_a_request_to_stop_ends_a_wait(workers):
    asked = threading.Event()
    values = ahead(waits_at(1, 1.0), workers, stopped=asked.is_set)
    assert next(values) == 0
    asked.set()
    began = time.monotonic()
    assert next(values, None) is None
    assert time.monotonic() - began < 5


def test_what_is_ready_comes_in_spite_of_a_request_to_stop():
    values = ahead(lambda n: n, stopped=lambda: True)
    first = next(values, None)
    while first is None:  # not even the first was ready
        values = ahead(lambda n: n, stopped=lambda: True)
        first = next(values, None)
    time.sleep(0.2)
    assert next(values) == 1
    values.close()


@pytest.mark.parametrize("workers", WORKERS)
def test_a_wait_has_an_end(workers):
    values = ahead(waits_at(0, 1.0), workers, seconds=0.3)
    with pytest.raises(BraidError, match=r"no data came for 0.3 s; look for a disk"):
        next(values)


def test_a_dead_worker_is_noticed():
    values = ahead(lambda n: n, 2)
    next(values)
    victim = multiprocessing.active_children()[0]
    os.kill(victim.pid or 0, signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(BraidError) as error:
        for _ in values:
            pass
    assert time.monotonic() - began < 5
    for part in ("data worker", f"process {victim.pid}", "SIGKILL", "lower data.workers"):
        assert part in str(error.value)


def test_a_worker_that_dies_while_it_is_waited_for_is_noticed():
    values = ahead(waits_at(1), 1)
    next(values)
    (victim,) = multiprocessing.active_children()
    threading.Timer(0.3, os.kill, (victim.pid, signal.SIGKILL)).start()
    began = time.monotonic()
    with pytest.raises(BraidError, match="was ended by SIGKILL"):
        next(values)
    assert time.monotonic() - began < 5


def test_workers_leave_signals_to_their_parent():
    values = ahead(lambda n: n, 1)
    next(values)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(worker.pid or 0, number)
    assert [next(values) for _ in range(8)] == list(range(1, 9))
    values.close()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("error", [BraidError("half of the rows are bad"), KeyError("x")])
def test_an_error_in_a_worker_names_it(workers, error):
    values = ahead(fails_at(4, error), workers)
    assert [next(values) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(BraidError, match=r"^data worker \d: .*(half of the rows are bad|x)") as e:
        next(values)
    assert "raise error" in str(e.value.__cause__)


def test_an_error_in_a_thread_is_raised_as_it_is():
    values = ahead(fails_at(1, KeyError("x")))
    next(values)
    with pytest.raises(KeyError):
        next(values)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_files_do_not_pile_up():
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    values = ahead(lambda n: torch.zeros(n), 1)
    next(values)
    values.close()
    before = files()
    for _ in range(5):
        values = ahead(lambda n: torch.zeros(n), 2)
        got = list(itertools.islice(values, 40))
        values.close()
        del got
    assert eventually(lambda: files() <= before), files() - before


def test_closing_does_not_wait_for_a_worker_that_hangs():
    values = ahead(waits_at(1), 2)
    next(values)
    began = time.monotonic()
    values.close()
    assert time.monotonic() - began < 4


ORPHANS = """
import os, signal, time
from braid.data.ahead import ahead
values = ahead(lambda n: os.getpid(), 2)
print(*{next(values) for _ in range(6)}, flush=True)
{end}
"""


def alive(pid: int) -> bool:
    """Return whether a process runs, and is not only remembered."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "pass", "1 / 0"])
def test_no_worker_outlives_its_parent(end):
    script = ORPHANS.replace("{end}", end)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    assert eventually(lambda: not any(map(alive, pids)), 5.0)


def test_a_parcel_holds_every_bit():
    braid = models.build("fudoki")
    batch = models.packed(braid, [[models.pair(braid, "image")], [models.pair(braid, "text")]])
    values = [batch, torch.tensor(1.5), torch.empty(0, 3), torch.tensor([True, False]), "words"]
    got = unsealed(sealed(values))
    assert got[4] == "words"
    for a, b in zip(got[1:4], values[1:4], strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)
    for name in batch.tokens:
        assert torch.equal(got[0].tokens[name], batch.tokens[name])
        assert torch.equal(got[0].layout.slots[name], batch.layout.slots[name])
    assert torch.equal(got[0].layout.position, batch.layout.position)
    assert got[0].layout.solid is batch.layout.solid
    assert len({x.untyped_storage().data_ptr() for x in got[0].tokens.values()}) == 1
