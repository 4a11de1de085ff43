"""Unlike documents advance together, and each comes out as it does alone."""

from __future__ import annotations

import contextvars
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from braid import Hole
from braid.errors import BraidError
from braid.generation import Job, Passes, together
from braid.transformer import Call, Transformer, TransformerConfig
from tests.laws import models
from tests.laws.test_generation import given, pipe, same

BLOCKS = [
    {},
    {"adaln": True},
    {"key_heads": 2, "heads": 4, "qk_norm": "heads"},
    {"norm_order": "post", "bias": True, "attention_bias": True},
]


@contextmanager
def passes(transformer: nn.Module) -> Iterator[list[int]]:
    """Count the tokens of each pass."""
    seen: list[int] = []
    hook = transformer.register_forward_hook(
        lambda _m, given, _o: seen.append(given[0].shape[0] * given[0].shape[1])
    )
    yield seen
    hook.remove()


def unlike(paradigm: str) -> tuple[list, dict[str, list]]:
    """Return documents of several forms, with options of their own."""
    names = models.drawn(paradigm)
    documents = [[*given(paradigm, name, s), Hole(name)] for s in range(3) for name in names]
    documents.append([*given(paradigm, names[-1]), Hole(names[-1]), Hole(names[0])])
    n = len(documents)
    return documents, {
        "steps": [2 + i % 3 for i in range(n)],
        "guidance": [(1.0, 2.0)[i % 2] for i in range(n)],
        "temperature": [(1.0, 0.0)[i // 2 % 2] for i in range(n)],
    }


@pytest.mark.parametrize("rows", [256, 3])
@pytest.mark.parametrize("paradigm", models.NAMES)
def test_unlike_documents_share_passes_and_come_out_as_alone(paradigm, rows):
    documents, options = unlike(paradigm)
    seeds = list(range(20, 20 + len(documents)))
    alone = []
    transformer = pipe(paradigm).braid.transformer
    with passes(transformer) as apart:
        for i, document in enumerate(documents):
            mine = {name: values[i] for name, values in options.items()}
            alone.append(pipe(paradigm)(document, seed=seeds[i], **mine))
    with passes(transformer) as joined:
        done = pipe(paradigm).batch(documents, seeds=seeds, rows=rows, **options)
    for one, other in zip(done, alone, strict=True):
        assert all(same(a, b) for a, b in zip(one[-2:], other[-2:], strict=True))
        assert one.calls >= other.calls
    assert len(joined) < len(apart) / (1.5 if rows == 256 else 1)


@pytest.mark.parametrize("options", BLOCKS, ids=str)
def test_calls_in_one_pass_are_those_in_several(options):
    torch.manual_seed(0)
    config = TransformerConfig(**{"width": 32, "depth": 2, "heads": 2, **options})
    transformer = Transformer(config).double().eval()
    with torch.no_grad():
        for p in transformer.parameters():
            p.add_(0.2 * torch.randn_like(p))

    def call(rows: int, n: int, before: int) -> Call:
        x = torch.randn(rows, n, 32, dtype=torch.float64)
        position = torch.randint(0, 9, (rows, n, 3))
        told = torch.randn_like(x) if config.adaln else None
        past, visible = None, None
        if before:
            old, place = torch.randn(rows, before, 32).double(), torch.zeros(rows, before, 3).long()
            seen = torch.randn_like(old) if config.adaln else None
            past = transformer(old, place, None, None, seen)[1]
            visible = torch.rand(rows, n, before + n) < 0.7
            visible[..., 0] = True
        return Call(x, position, visible, past, told)

    with torch.no_grad():
        calls = [call(3, 1, 5), call(2, 7, 0), call(1, 4, 2), call(1, 1, 9)]
        for mine, (hidden, present) in zip(calls, transformer.together(calls), strict=True):
            alone, kept = transformer(
                mine.x, mine.position, mine.visible, mine.past, mine.condition
            )
            torch.testing.assert_close(hidden, alone, rtol=1e-12, atol=1e-12)
            for ours, theirs in zip(present, kept, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def tiny() -> Transformer:
    torch.manual_seed(0)
    return Transformer(TransformerConfig(width=32, depth=2, heads=2)).eval()


@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_as_many_rows_as_allowed_advance_and_the_next_takes_a_free_place(most):
    transformer, running, peaks = tiny(), set(), []

    def job(i: int, passes: int) -> Job[int]:
        def run(transform) -> int:
            running.add(i)
            for _ in range(passes):
                peaks.append(len(running))
                transform(torch.randn(1, 2, 32), torch.zeros(1, 2, 3).long(), None)
            running.remove(i)
            return i

        return Job(run, 1)

    counts = [1, 4, 2, 3]
    with passes(transformer) as seen:
        jobs = [job(i, n) for i, n in enumerate(counts)]
        assert together(transformer, jobs, most) == list(range(4))
    assert max(peaks) == min(most, 4)
    assert sum(seen) == 2 * sum(counts)
    assert len(seen) == {1: 10, 2: 6, 3: 4, 9: 4}[most]


def test_a_mistake_in_one_ends_all_and_nothing_is_left_running():
    closed = []

    @torch.no_grad()
    def run(transform) -> None:
        try:
            for _ in range(5):
                transform(torch.randn(1, 2, 32), torch.zeros(1, 2, 3).long(), None)
        finally:
            closed.append(1)

    def wrong(transform) -> None:
        transform(torch.randn(1, 2, 32), torch.zeros(1, 2, 3).long(), None)
        raise BraidError("wrong")

    with pytest.raises(BraidError, match="wrong") as kept:
        together(tiny(), [Job(run, 1), Job(wrong, 1), Job(run, 1)], 9)
    assert len(closed) == 2 and torch.is_grad_enabled()
    del kept
    gc.collect()
    assert torch.is_grad_enabled()


def test_jobs_see_what_their_caller_set():
    told, seen = contextvars.ContextVar("told", default="nothing"), []
    told.set("something")
    together(tiny(), [Job(lambda _: seen.append(told.get()), 1)] * 3, 9)
    assert seen == ["something"] * 3


def test_a_kept_past_keeps_nothing_of_the_others():
    transformer = tiny()
    few, many = (Call(torch.randn(1, n, 32), torch.zeros(1, n, 3).long(), None) for n in (2, 500))
    with torch.no_grad():
        past = transformer.together([few, many])[0][1]
    assert all(x.untyped_storage().nbytes() == x.nbytes for kv in past for x in kv)


def test_options_for_each_document_are_as_many_as_documents():
    document = ["a cat", Hole("image")]
    with pytest.raises(BraidError, match="2 steps for 1 documents"):
        pipe("fudoki").batch([document], steps=[3, 4])
    with pytest.raises(BraidError, match="steps 0 must be at least 1"):
        pipe("fudoki").batch([document, document], steps=[3, 0])
    with pytest.raises(BraidError, match="steps '4' is no number"):
        pipe("fudoki").batch([document], steps="4")
    one, two = pipe("fudoki").batch([document] * 2, seeds=[0, 0], guidance=np.array([1.0, 3.0]))
    assert not same(one[1], two[1])
    with pytest.raises(BraidError, match="guidance -1"):
        pipe("fudoki").batch([document, document], guidance=[1, -1])
    assert pipe("fudoki").batch([]) == []


def asks(times: int, fails: bool = False):
    """Return a job's work: it asks for the transformer so often, and then ends or fails."""

    def run(transform) -> int:
        for _ in range(times):
            transform(torch.randn(1, 2, 32), torch.zeros(1, 2, 3).long(), None)
        if fails:
            raise BraidError("wrong")
        return times

    return run


def test_a_job_that_fails_fails_alone():
    passes = Passes(tiny(), 9)
    jobs = [Job(asks(3), 1), Job(asks(1, fails=True), 1), Job(asks(2), 1)]
    for job in jobs:
        passes.add(job)
    ended = {}
    while passes:
        ended |= {e.job: e for e in passes.advance()}
    assert [ended[j].result for j in jobs] == [3, None, 2]
    assert str(ended[jobs[1]].error) == "wrong"


def test_a_call_that_no_pass_survives_fails_alone(caplog):
    def run(transform) -> None:
        transform(torch.randn(1, 2, 31), torch.zeros(1, 2, 3).long(), None)  # of another width

    passes, good, bad = Passes(tiny(), 9), Job(asks(2), 1), Job(run, 1)
    for job in (bad, good):
        passes.add(job)
    ended = {}
    while passes:
        ended |= {e.job: e for e in passes.advance()}
    assert ended[good].result == 2
    assert isinstance(ended[bad].error, RuntimeError)
    assert [x.message for x in caplog.records] == [
        "a shared pass failed; its calls are made one by one"
    ]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_job_that_is_dropped_ends_there_and_makes_room(after):
    closed = []

    def run(transform) -> None:
        try:
            asks(5)(transform)
        finally:
            closed.append(1)

    passes, dropped, queued, other = (
        Passes(tiny(), 1),
        Job(run, 1),
        Job(asks(9), 1),
        Job(asks(1), 1),
    )
    for job in (dropped, queued, other):
        passes.add(job)
    for _ in range(after):
        assert passes.advance() == []
    passes.drop(dropped)
    passes.drop(queued)
    assert len(passes) == 1 and passes.busy == 0 and closed == [1] * (after > 0)
    ended = []
    while passes:
        ended += passes.advance()
    assert [e.job for e in ended] == [other]
    passes.drop(other)  # it has ended, and stays so


def test_a_job_may_join_at_any_time():
    passes, first, late = Passes(tiny(), 9), Job(asks(3), 1), Job(asks(1), 1)
    passes.add(first)
    passes.advance()
    passes.add(late)
    order = []
    while passes:
        order += [e.job for e in passes.advance()]
    assert order == [late, first]
