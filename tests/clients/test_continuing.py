"""Texts are scored and continued as the model itself scores and continues them."""

from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional as F

from braid import Hole, Pipeline
from braid.clients.continuing import Continuing, Wish, _Cut
from braid.errors import BraidError
from braid.layout import Span, pack
from braid.randomness import derive
from tests.laws import models

WRITERS = [p for p in models.NAMES if "text" in models.drawn(p)]
CAUSAL = [p for p in WRITERS if models.build(p).strand("text").causal]
PAIRS = [("row", " two"), ("row", " one and a column"), ("a column", " of row"), ("", "row")]


@functools.cache
def pipe(paradigm: str) -> Pipeline:
    """Return a pipeline of random weights."""
    return models.pipeline(paradigm)


def close(a, b) -> bool:
    """Return whether numbers agree but for rounding."""
    return torch.allclose(torch.tensor(a).double(), torch.tensor(b).double(), rtol=1e-4)


def of(paradigm: str, **options) -> Continuing:
    """Return a model that continues texts."""
    return Continuing(pipe(paradigm), **options)


def readable(paradigm: str, turns: bool) -> list[tuple[str, str]]:
    """Return the pairs that can be scored: one text has to fill the blocks in which it is written.

    Turns are padded.
    """
    process = pipe(paradigm).braid.strand("text").process
    if turns or process.causal or process.block(99) == 99:
        return PAIRS
    return [pair for pair in PAIRS if pair[0]]


def values(model: Continuing, pairs=PAIRS) -> list[float]:
    """Return the log-likelihoods of pairs."""
    return [one.nats for one in model.likelihoods(pairs)]


@pytest.mark.parametrize("paradigm", WRITERS)
def test_turns_are_scored_as_the_pipeline_chooses(paradigm):
    candidates = ["two", "one and a column", "row"]
    choice = pipe(paradigm).choose(["row"], candidates, times=4, seed=3)
    mine = values(
        of(paradigm, turns=True, times=4, seed=3, greedy=False), [("row", c) for c in candidates]
    )
    assert close(mine, [-n for n in choice.nats])


@pytest.mark.parametrize("paradigm", CAUSAL)
def test_one_text_is_scored_by_its_symbols_after_the_cut(paradigm):
    strand = pipe(paradigm).braid.strand("text")
    for context, rest in PAIRS:
        ids = torch.tensor(strand.modality.symbols(context + rest))
        cut = len(strand.modality.symbols(context)) if context else 0
        batch = pack([[[Span("text", ids)]]], pipe(paradigm).braid.placements, twins=False)
        with torch.no_grad():
            logits = pipe(paradigm).braid(
                {"text": ids}, {"text": torch.ones(len(ids))}, batch.layout
            )
        each = F.log_softmax(logits["text"], -1).gather(1, ids[:, None])[:, 0]
        likeliest = bool((logits["text"].argmax(-1) == ids)[cut:].all())
        (one,) = of(paradigm).likelihoods([(context, rest)])
        assert close(one.nats, float(each[cut:].sum()))
        assert one.greedy == likeliest


@pytest.mark.parametrize("paradigm", CAUSAL)
def test_parts_of_a_text_add_up(paradigm):
    model = of(paradigm)
    (whole,) = model.rolling(["row two and a column"])
    (first,) = model.rolling(["row two"])
    (second,) = values(model, [("row two", " and a column")])
    assert close(whole, first + second)


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("paradigm", WRITERS)
def test_what_a_text_is_batched_with_changes_nothing(paradigm, turns):
    alone, together = (of(paradigm, rows=rows, turns=turns, times=2, steps=2) for rows in (1, 8))
    pairs = readable(paradigm, turns)
    assert close(values(alone, pairs), values(together, pairs))
    assert [x.greedy for x in alone.likelihoods(pairs)] == [
        x.greedy for x in together.likelihoods(pairs)
    ]
    contexts = [context for context, _ in PAIRS]
    wishes = [Wish(4, temperature=0.8)] * len(PAIRS)
    assert alone.texts(contexts, wishes) == together.texts(contexts, wishes)


@pytest.mark.parametrize("paradigm", WRITERS)
def test_continuations_of_one_context_share_times_and_noise(paradigm):
    a, b = values(of(paradigm, times=2, greedy=False), [PAIRS[0], PAIRS[0]])
    assert close(a, b)


@pytest.mark.parametrize("paradigm", WRITERS)
def test_what_the_model_writes_is_greedy_and_another_text_is_not(paradigm):
    model = of(paradigm, times=1, steps=2)
    text = pipe(paradigm).braid.strand("text").modality
    found = 0
    keys = derive(torch.zeros(1, dtype=torch.int64), model.seed, "greedy")  # a flow begins in noise
    for context in ("row", "column", "a", "two", "one", "and", "of", "row one", "row two"):
        (tokens,) = model._write([torch.tensor(text.symbols(context))], 1, keys, 0.0, None)
        made = text.decode(tokens)
        if made and text.symbols(context + made) == [*text.symbols(context), *tokens.tolist()]:
            found += 1
            one, other = model.likelihoods(
                [(context, made), (context, "Q" if made != "Q" else "Z")]
            )
            assert one.greedy
            assert not other.greedy
    assert found or paradigm not in CAUSAL


def test_it_can_leave_greed_out():
    model = of("mmada", times=1, greedy=False)
    assert not any(one.greedy for one in model.likelihoods(PAIRS))


@pytest.mark.parametrize("paradigm", WRITERS)
def test_turns_are_continued_as_the_pipeline_continues_them(paradigm):
    sampler = pipe(paradigm).braid.strand("text").sampler
    (made,) = of(paradigm, turns=True, steps=2).texts(["row two"], [Wish(8)])
    steps = 2 if hasattr(sampler, "steps") else None
    direct = pipe(paradigm)(["row two", Hole("text", 8)], temperature=0.0, steps=steps)[1]
    if type(sampler).__name__ in ("NextToken", "Confidence"):  # the others draw at any temperature
        assert made == direct
    assert isinstance(made, str)


def test_a_stop_ends_a_text_and_the_work():
    model, calls = of("showo"), []
    (full,) = model.texts(["row"], [Wish(24)])
    stop = full[3:5]
    hook = pipe("showo").braid.transformer.register_forward_hook(lambda *_: calls.append(1))
    try:
        (cut,) = model.texts(["row"], [Wish(24, (stop, "never there"))])
        few, _ = len(calls), calls.clear()
        model.texts(["row"], [Wish(24)])
    finally:
        hook.remove()
    assert cut == full[: full.index(stop)]
    assert few < len(calls)


def test_a_long_text_is_scored_in_windows_and_a_long_context_is_cut():
    model = of("showo", length=4)
    ids = pipe("showo").braid.strand("text").modality.symbols("row two and a column of it")
    assert len(ids) > 8
    total = 0.0
    for first in range(0, len(ids), 4):
        last = min(first + 4, len(ids))
        given, scored = ids[max(0, last - 4) : first], ids[first:last]
        document = [Span("text", torch.tensor(scored))]
        if given:
            document.insert(0, Span("text", torch.tensor(given), target=False))
        from braid.generation import nats

        total -= float(nats(pipe("showo").braid, [document]).value)
    assert close(model.rolling(["row two and a column of it"])[0], total)
    short, long = "a column of it", "row two and a column of it"
    symbols = pipe("showo").braid.strand("text").modality.symbols
    cut = of("showo", length=len(symbols(short)))
    assert close(values(cut, [(long, " it")]), values(cut, [("x " + long, " it")]))
    assert not close(values(of("showo"), [(long, " it")]), values(cut, [(long, " it")]))


def test_a_seed_fixes_what_is_drawn():
    wishes = [Wish(8, temperature=1.0)] * 2
    a, b, c = (of("showo", seed=s).texts(["row", "row"], wishes) for s in (0, 0, 1))
    assert a == b != c
    assert a[0] != a[1]


@pytest.mark.parametrize("option", ["times", "rows", "length", "steps"])
def test_options_below_one_are_refused(option):
    with pytest.raises(BraidError, match=f"{option} 0 must be at least 1"):
        of("showo", **{option: 0})


@pytest.mark.parametrize("paradigm", ["showo", "mmada"])
def test_a_context_is_never_dropped_to_make_room_for_what_is_written(paradigm):
    model = of(paradigm, length=24, steps=1)
    with pytest.raises(BraidError, match="24 tokens to write leave no room for a context in a len"):
        model.texts(["", "row"], [Wish(24)] * 2)
    assert len(model.texts([""], [Wish(24)])) == 1
    with pytest.raises(BraidError, match="48 tokens to write .* length of 24; write fewer"):
        model.texts([""], [Wish(48)])


@pytest.mark.parametrize("turns", [False, True])
def test_an_empty_continuation_is_refused(turns):
    with pytest.raises(BraidError, match="empty"):
        of("showo", turns=turns).likelihoods([("row", "")])


def test_a_text_that_fills_no_blocks_is_refused():
    with pytest.raises(BraidError, match="does not fill the blocks of 2 .* use turns"):
        of("blockdiff").likelihoods([("", "QQQ")])


def test_only_what_follows_the_context_is_scored_in_blocks():
    text = pipe("blockdiff").braid.strand("text").modality
    seen, scored = (torch.tensor(text.symbols(t)) for t in ("row one", " two and"))
    assert len(scored) % 2
    (*given, last) = of("blockdiff")._document(_Cut(seen, scored))
    assert [s.target for s in given] == [False]
    assert torch.equal(torch.cat([given[0].tokens, last.tokens]), torch.cat([seen, scored]))
    assert torch.equal(last.tokens[last.target], scored)
