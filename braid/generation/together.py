"""Generations of unlike documents that share the transformer's passes.

Each runs as if it were alone, until it asks for the transformer; once all have asked, one pass
answers all. So token by token decoding, refinement in steps, documents of other forms and numbers
of steps advance together, and a job that has ended makes room for the next.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from braid.generation.context import Transform
from braid.rules import Visible
from braid.transformer import Call, Past, Transformer

T = TypeVar("T")


@dataclass(frozen=True)
class Job(Generic[T]):
    """A generation that is to run beside others.

    Attributes:
        run: does it, with what it is given in the transformer's place.
        rows: how many rows it has.
    """

    run: Callable[[Transform], T]
    rows: int


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
    import greenlet  # switches between jobs without threads, each of which torch would give a pool

    here = greenlet.getcurrent()

    def ask(
        x: Tensor,
        position: Tensor,
        visible: Visible,
        past: Sequence[Past] | None = None,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, list[Past]]:
        return here.switch(Call(x, position, visible, past, condition))

    results: list[Any] = [None] * len(jobs)
    queue = deque(enumerate(jobs))
    started: list[greenlet.greenlet] = []
    waiting: list[tuple[int, greenlet.greenlet, Call]] = []

    def start(i: int, job: Job[T]) -> None:
        begun = greenlet.greenlet(job.run)
        begun.gr_context = contextvars.copy_context()
        started.append(begun)
        go_on(i, begun, ask)

    def go_on(i: int, job: greenlet.greenlet, *given: object) -> None:
        said = job.switch(*given)
        if job.dead:
            results[i] = said
        else:
            waiting.append((i, job, said))

    try:
        while queue or waiting:
            busy = sum(jobs[i].rows for i, _, _ in waiting)
            while queue and (not waiting or busy + queue[0][1].rows <= rows):
                i, job = queue.popleft()
                start(i, job)
                busy += job.rows
            asked, waiting = waiting, []
            answers = transformer.together([call for _, _, call in asked]) if asked else []
            for (i, begun, _), answer in zip(asked, answers, strict=True):
                go_on(i, begun, answer)
    finally:
        for begun in started:  # where one failed: what others have entered ends here, not later
            if not begun.dead:
                begun.throw()
    return results
