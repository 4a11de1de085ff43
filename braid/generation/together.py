"""Generations of unlike documents that share the transformer's passes.

Each runs as if it were alone, until it asks for the transformer; once all have asked, one pass
answers all. So token by token decoding, refinement in steps, documents of other forms and numbers
of steps advance together, and a job that has ended makes room for the next. `Passes` takes jobs and
gives them up between any two passes, as a server needs; `together` runs a list of them to its end.
"""

from __future__ import annotations

import contextvars
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from braid.generation.context import Transform
from braid.rules import Visible
from braid.transformer import Call, Past, Transformer

if TYPE_CHECKING:
    import greenlet

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Job(Generic[T]):
    """A generation that is to run beside others.

    Attributes:
        run: does it, with what it is given in the transformer's place.
        rows: how many rows it has.
        cost: what it takes: tokens that its calls read.
    """

    run: Callable[[Transform], T]
    rows: int
    cost: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class Ended(Generic[T]):
    """What became of a job.

    Attributes:
        job: which.
        result: what it gave; None where it failed.
        error: what it raised, or None.
    """

    job: Job[T]
    result: T | None = None
    error: Exception | None = None


@dataclass(frozen=True, eq=False)
class _Asking(Generic[T]):
    """A job that waits for the transformer's answer."""

    job: Job[T]
    begun: greenlet.greenlet
    call: Call

    def end(self) -> None:
        """End what the job has entered now, not later; no caller is left to hear that it fails."""
        try:
            self.begun.throw()
        except Exception:
            log.warning("a job failed while it was given up", exc_info=True)


class Passes(Generic[T]):
    """Jobs that share the transformer's passes; any may join or leave between two of them.

    All its methods belong to one thread.
    """

    def __init__(self, transformer: Transformer, rows: int) -> None:
        """Make passes without jobs.

        Args:
            transformer: what jobs share.
            rows: most rows in a pass; a job that has more runs by itself.
        """
        self.transformer, self.rows = transformer, rows
        self._queue: deque[Job[T]] = deque()
        self._asking: deque[_Asking[T]] = deque()

    def __len__(self) -> int:
        """Return how many jobs have not ended."""
        return len(self._queue) + len(self._asking)

    @property
    def busy(self) -> int:
        """Rows of the jobs that have begun."""
        # a copy: others may look while this thread goes on
        return sum(one.job.rows for one in tuple(self._asking))

    def add(self, job: Job[T]) -> None:
        """Let a job begin as soon as there is room, after those before it."""
        self._queue.append(job)

    def drop(self, job: Job[T]) -> None:
        """Give a job up; one that has ended stays so."""
        if job in self._queue:
            self._queue.remove(job)
        for one in [one for one in self._asking if one.job is job]:
            self._asking.remove(one)
            one.end()

    def close(self) -> None:
        """Give all jobs up."""
        self._queue.clear()
        while self._asking:
            self._asking.popleft().end()

    @torch.no_grad()
    def advance(self) -> list[Ended[T]]:
        """Begin the jobs for which there is room, make one pass, and return the jobs that ended."""
        ended: list[Ended[T]] = []
        busy = self.busy
        while self._queue and (not self._asking or busy + self._queue[0].rows <= self.rows):
            job = self._queue.popleft()
            ended += self._start(job)
            busy += job.rows
        for answer in self._answers([one.call for one in self._asking]):
            one = self._asking.popleft()  # each after the other: an interruption leaves the rest
            ended += self._go_on(one.job, one.begun, answer)
        return ended

    def _start(self, job: Job[T]) -> list[Ended[T]]:
        import greenlet  # switches between jobs without threads, each of which has a pool in torch

        begun = greenlet.greenlet(job.run)
        begun.gr_context = contextvars.copy_context()
        return self._go_on(job, begun, _ask)

    def _go_on(self, job: Job[T], begun: greenlet.greenlet, given: Any) -> list[Ended[T]]:
        """Let a job run until it asks or ends; an exception for an answer is raised in it."""
        try:
            said = begun.throw(given) if isinstance(given, Exception) else begun.switch(given)
        except Exception as e:
            return [Ended(job, error=e)]
        if begun.dead:
            return [Ended(job, said)]
        self._asking.append(_Asking(job, begun, said))
        return []

    def _answers(self, calls: Sequence[Call]) -> Sequence[Any]:
        """Return what each call gives, or the exception that it raises.

        Where a pass fails, each call is made by itself: the others survive it.
        """
        if len(calls) > 1:
            try:
                return self.transformer.together(calls)
            except Exception:
                log.warning("a shared pass failed; its calls are made one by one", exc_info=True)
                return [answer for call in calls for answer in self._answers([call])]
        try:
            return [
                self.transformer(c.x, c.position, c.visible, c.past, c.condition) for c in calls
            ]
        except Exception as e:
            return [e]


def _ask(
    x: Tensor,
    position: Tensor,
    visible: Visible,
    past: Sequence[Past] | None = None,
    condition: Tensor | None = None,
) -> tuple[Tensor, list[Past]]:
    """Stand in the transformer's place: hand the call to whoever runs the job."""
    import greenlet

    runner = greenlet.getcurrent().parent
    assert runner is not None, "a job runs in a greenlet of its own"
    return runner.switch(Call(x, position, visible, past, condition))


@torch.no_grad()
def together(transformer: Transformer, jobs: Sequence[Job[T]], rows: int) -> list[T]:
    """Run jobs side by side, in their order, and return what each gave.

    Args:
        transformer: what they share.
        jobs: at least one.
        rows: most rows in a pass; a job that has more runs by itself.

    Raises:
        Exception: what a job raises, at once; the others are given up.
    """
    if len(jobs) == 1:
        return [jobs[0].run(transformer)]
    passes: Passes[T] = Passes(transformer, rows)
    for job in jobs:
        passes.add(job)
    results: dict[Job[T], Any] = {}
    try:
        while passes:
            for ended in passes.advance():
                if ended.error is not None:
                    raise ended.error
                results[ended.job] = ended.result
    finally:
        passes.close()
    return [results[job] for job in jobs]
