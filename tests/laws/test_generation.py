"""Laws of generation: a seed fixes a result in any batch; what is held stays; it can be stopped."""

from __future__ import annotations

import functools
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image as PIL

from braid import Hole, Part, Pipeline
from braid.braid import Braid
from braid.errors import BraidError
from braid.generation import (
    CachedContext,
    Frame,
    Generated,
    Known,
    Opening,
    RereadContext,
    generate,
)
from braid.layout import Document, Span
from braid.randomness import Keys
from braid.samplers import Confidence, suitable
from tests.laws import models

CAPTIONS = ("row two", "column", "a row of three dots, unseen")


@functools.cache
def pipe(paradigm: str) -> Pipeline:
    """Return a pipeline of random weights."""
    return models.pipeline(paradigm)


def picture(seed: int = 0) -> PIL.Image:
    """Return a 4x4 picture of black and white."""
    bits = np.random.default_rng(seed).integers(0, 2, (4, 4))
    return PIL.fromarray((bits * 255).astype(np.uint8))


def given(paradigm: str, name: str, seed: int = 0) -> list:
    """Return what stands before a hole of a modality: texts differ in length from seed to seed."""
    if name != "text":
        return [CAPTIONS[seed % len(CAPTIONS)]]
    strands = pipe(paradigm).braid.strands
    return [
        Part("image" if "image" in strands else "vision", picture(seed)),
        *(["to"] * (seed % 2)),
    ]


def same(a: object, b: object) -> bool:
    """Compare raw parts; a grey level of a continuous picture may round the other way."""
    if isinstance(a, str):
        return a == b
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max()) <= 1


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_a_seed_gives_the_same_result_in_any_batch(paradigm, name, guidance):
    documents = [[*given(paradigm, name, seed), Hole(name)] for seed in range(4)]
    options = {"guidance": guidance, "steps": 3, "temperature": 1.0}
    together = pipe(paradigm).batch(documents, seeds=[5, 6, 7, 8], **options)
    for document, seed, result in zip(documents, (5, 6, 7, 8), together, strict=True):
        alone = pipe(paradigm)(document, seed=seed, **options)
        assert same(alone[-1], result[-1])


@pytest.mark.parametrize("options", [{"threshold": 0.3}, {"threshold": 0.3, "size_of_block": 3}])
@pytest.mark.parametrize(
    ("paradigm", "name"),
    [(p, n) for p, n in models.CASES if Confidence.suits(models.build(p).strand(n).process)],
)
def test_rows_that_take_unlike_numbers_of_steps_are_as_alone(paradigm, name, options):
    documents = [[*given(paradigm, name, seed), Hole(name)] for seed in range(4)]
    how = {"sampler": {"kind": "confidence", **options}, "temperature": 1.0}
    together = pipe(paradigm).batch(documents, seeds=[5, 6, 7, 8], **how)
    for document, seed, result in zip(documents, (5, 6, 7, 8), together, strict=True):
        assert same(pipe(paradigm)(document, seed=seed, **how)[-1], result[-1])


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_the_size_of_a_batch_changes_nothing(paradigm, name):
    documents = [[*given(paradigm, name, 2 * seed), Hole(name)] for seed in range(5)]
    whole, split = (
        pipe(paradigm).batch(documents, steps=3, temperature=1.0, rows=rows) for rows in (5, 2)
    )
    assert all(same(a[-1], b[-1]) for a, b in zip(whole, split, strict=True))


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_fewer_results_are_the_first_of_more(paradigm, name):
    document = [*given(paradigm, name), Hole(name)]
    one, four = (pipe(paradigm)(document, n=n, seed=3, steps=3, temperature=1.0) for n in (1, 4))
    assert same(one[0][-1], four[0][-1])
    assert same(pipe(paradigm)(document, seed=3, steps=3, temperature=1.0)[-1], four[0][-1])
    assert not all(same(four[0][-1], other[-1]) for other in four[1:])


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_another_seed_gives_another_result(paradigm, name):
    document = [*given(paradigm, name), Hole(name)]
    out = [pipe(paradigm)(document, seed=s, steps=3, temperature=1.0)[-1] for s in range(4)]
    assert not all(same(out[0], other) for other in out[1:])


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_the_context_does_not_change_a_result(paradigm, name):
    braid = models.stirred(models.experiment(paradigm, "rule=spans"), torch.float32)
    before, last = models.pair(braid, name)
    parts = [Known(before.modality, [before.tokens]), Opening(name, last.shape)]
    cached, reread = (
        generate(braid, parts, Keys.of(0, 1).key, make_context=make).tokens[-1]
        for make in (CachedContext, RereadContext)
    )
    torch.testing.assert_close(cached, reread, rtol=0, atol=1e-3)


def documents_with_two_holes(paradigm: str) -> list:
    """Return a document whose second hole reads what the first was filled with."""
    names = models.drawn(paradigm)
    return [*given(paradigm, names[-1]), Hole(names[-1]), Hole(names[0])]


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_two_holes_are_filled_one_after_the_other(paradigm):
    document = documents_with_two_holes(paradigm)
    together = pipe(paradigm).batch([document, document], seeds=[1, 2], steps=3, temperature=1.0)
    alone = pipe(paradigm)(document, seed=2, steps=3, temperature=1.0, trajectory=True)
    assert all(same(a, b) for a, b in zip(together[1][-2:], alone[-2:], strict=True))
    assert [f.part for f in alone.trajectory] == sorted(f.part for f in alone.trajectory)


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_held_tokens_stay_bit_identical(paradigm, name):
    if name != "text":
        keep, draft = np.array([[True] * 4] * 2 + [[False] * 4] * 2), picture(1)
    else:
        keep, draft = np.array([True, True, False, False]), "row"
    shape = 4 if name == "text" else None
    modality = pipe(paradigm).braid.strand(name).modality
    if name == "text" and pipe(paradigm).braid.strand(name).causal:
        shape = len(modality.encode(draft))
        keep = keep[:shape]
    out = pipe(paradigm)(
        [*given(paradigm, name), Hole(name, shape, draft=draft, keep=keep)],
        trajectory=True,
        steps=3,
    )
    tokens = modality.canvas(modality.encode(draft), pipe(paradigm).braid.strand(name).causal)
    held = torch.from_numpy(keep) if name == "text" else torch.tensor([True, True, False, False])
    for frame in out.trajectory:
        at = slice(frame.first, frame.first + frame.state.shape[1])
        for seen in (frame.state[0], frame.belief[0]):
            assert torch.equal(seen[held[at]], tokens[at][held[at]])
    if name != "text":
        assert np.array_equal(np.asarray(out[-1])[:2], np.asarray(draft)[:2])


@pytest.mark.parametrize(("paradigm", "name"), models.PARALLEL)
def test_what_is_not_held_is_drawn_anew(paradigm, name):
    if name == "text":
        hole = Hole(name, draft="row", keep=np.array([True, False, False, False]))
    else:
        hole = Hole(name, draft=picture(1), keep=np.array([[True, False], [False, False]]))
    out = [pipe(paradigm)([hole], seed=s, steps=3, temperature=1.0)[0] for s in range(4)]
    assert not all(same(out[0], other) for other in out[1:])


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_a_callback_that_returns_false_stops_and_gives_the_belief(paradigm, name):
    beliefs = []

    def stop(call: int, state: torch.Tensor, belief: torch.Tensor) -> bool:
        beliefs.append(belief)
        return call < 1

    out = pipe(paradigm)([*given(paradigm, name), Hole(name)], callback=stop, steps=5)
    assert out.stopped
    assert out.calls == len(beliefs) == 2
    strand = pipe(paradigm).braid.strand(name)
    if strand.process.block(4) == 4:  # the belief is of the whole part
        assert same(out[-1], strand.modality.decode(beliefs[-1][0], strand.modality.shape))


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_what_an_interruption_leaves_untouched_stays_a_hole(paradigm):
    document = [*documents_with_two_holes(paradigm), "row one"]
    out = pipe(paradigm)(document, callback=lambda *_: False)
    first, second = (i for i, part in enumerate(document) if isinstance(part, Hole))
    assert out.calls == 1
    assert not isinstance(out[first], Hole)
    assert out[second] is document[second]
    assert out[-1] == "row one"


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_a_callback_that_returns_nothing_changes_nothing(paradigm, name):
    document = [*given(paradigm, name), Hole(name)]
    calls = []
    watched = pipe(paradigm)(document, callback=lambda *a: calls.append(a[0]), steps=3)
    assert same(watched[-1], pipe(paradigm)(document, steps=3)[-1])
    assert calls == list(range(watched.calls))
    assert not watched.stopped


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_a_trajectory_has_a_frame_for_every_call(paradigm, name):
    out = pipe(paradigm)([*given(paradigm, name), Hole(name)], trajectory=True, steps=3)
    assert len(out.trajectory) == out.calls > 0
    assert all(f.part == len(out) - 1 and len(f.state) == 1 for f in out.trajectory)
    for a, b in pairwise(out.trajectory):
        assert a.first < b.first or a.time < b.time
    assert pipe(paradigm)([*given(paradigm, name), Hole(name)]).trajectory == []


SAMPLED = [(p, m, s) for p, m in models.PARALLEL for s in suitable(pipe(p).braid.strand(m).process)]


@pytest.mark.parametrize(("paradigm", "name", "sampler"), SAMPLED)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_steps_are_network_calls(paradigm, name, sampler, steps):
    document = [*given(paradigm, name), Hole(name)]
    out = pipe(paradigm)(document, sampler=sampler, steps=steps, trajectory=True)
    blocks = len({f.first for f in out.trajectory})
    each = 2 * steps - 1 if sampler == "heun" else steps  # Heun looks at both ends of a step
    n = out.trajectory[0].state[0].numel()  # symbols are uncovered at least one at a time
    assert out.calls == blocks * (min(each, n) if sampler == "confidence" else each)


@pytest.mark.parametrize(("paradigm", "name"), sorted({*models.CASES} - {*models.PARALLEL}))
def test_next_tokens_take_a_call_each(paradigm, name):
    out = pipe(paradigm)([*given(paradigm, name), Hole(name)], steps=2, trajectory=True)
    assert [f.first for f in out.trajectory] == list(range(out.calls))
    assert out.calls <= 4


@pytest.mark.parametrize(("paradigm", "name"), models.PARALLEL)
def test_a_draft_is_refined_from_its_time_on(paradigm, name):
    draft = "row two" if name == "text" else picture()
    shape = len(pipe(paradigm).spans([draft])[0].tokens) if name == "text" else None
    out = pipe(paradigm)([Hole(name, shape, draft=draft, start=0.75)], steps=4, trajectory=True)
    assert out.trajectory[0].time == 0.75
    near = pipe(paradigm)([Hole(name, shape, draft=draft, start=0.999)], steps=1, trajectory=True)
    clean = pipe(paradigm).spans([draft])[0].tokens
    state = torch.cat([f.state[0] for f in near.trajectory])
    clean = clean[: len(state)]  # blocks end with the text
    assert torch.isclose(state.double(), clean.double(), atol=0.1).double().mean() > 0.7


def test_a_draft_of_next_tokens_is_not_refined():
    with pytest.raises(BraidError, match="generated token by token, so a draft"):
        pipe("chameleon")([Hole("image", draft=picture(), start=0.5)])


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_guidance_zero_reads_no_other_part(paradigm, name):
    documents = [[*given(paradigm, name, s), Hole(name)] for s in (0, 2) for _ in range(4)]
    options = {"seeds": [0, 1, 2, 3] * 2, "steps": 3, "temperature": 1.0}
    free = [p[-1] for p in pipe(paradigm).batch(documents, guidance=0.0, **options)]
    bound = [p[-1] for p in pipe(paradigm).batch(documents, guidance=9.0, **options)]
    assert all(same(a, b) for a, b in zip(free[:4], free[4:], strict=True))
    assert not all(same(a, b) for a, b in zip(bound[:4], bound[4:], strict=True))


@pytest.mark.parametrize(
    ("paradigm", "name"), [(p, n) for p, n in models.CASES if "image" in models.drawn(p)]
)
def test_guidance_zero_reads_no_part_that_was_filled_before(paradigm, name):
    built = pipe(paradigm).braid
    other = "image" if name == "text" else "text"
    hole = {n: models.pair(built, n)[1] for n in (name, other)}
    first = hole[other].tokens.expand(4, *hole[other].tokens.shape)
    drafts = first, first.roll(1, dims=1) if first.is_floating_point() else (first + 1) % 2
    keep = torch.ones(first.shape[:2]).bool()

    def second(draft: torch.Tensor, guidance: float) -> torch.Tensor:
        parts = [Opening(other, hole[other].shape, draft, keep), Opening(name, hole[name].shape)]
        out = generate(built, parts, Keys.of(0, 4).key, guidance=guidance)
        assert torch.equal(out.tokens[0], draft[:, : out.tokens[0].shape[1]])
        return out.tokens[1]

    free, bound = ([second(d, weight) for d in drafts] for weight in (0.0, 9.0))
    assert free[0].shape == free[1].shape
    torch.testing.assert_close(free[0], free[1])
    assert bound[0].shape != bound[1].shape or not torch.allclose(bound[0], bound[1])


@pytest.mark.parametrize(
    "paradigm", [p for p, m in models.CASES if m == "text" and "image" in models.drawn(p)]
)
def test_a_row_whose_text_has_ended_writes_no_more(paradigm):
    built = pipe(paradigm).braid
    text, end = built.strand("text").modality, built.strand("text").modality.end
    draft = torch.tensor([[1, end, 2, 3], [1, 2, 3, end]])
    holes = [Opening("text", (4,), draft, torch.ones(2, 4).bool()), Opening("image", (2, 2))]
    both = generate(built, holes, Keys.of(0, 2).key)
    ended = built.strand("text").process.block(4) < 4
    assert both.used[0].tolist() == [[True, True, not ended, not ended], [True] * 4]
    one = replace(holes[0], draft=draft[:1], keep=torch.ones(1, 4).bool())
    alone = generate(built, [one, holes[1]], Keys.of(0, 1).key)
    assert alone.tokens[0].shape[1] == (2 if ended else 4)
    torch.testing.assert_close(both.tokens[1][:1], alone.tokens[1], rtol=1e-3, atol=1e-3)
    assert text.decode(both.tokens[0][0]) == text.decode(draft[0])


BLOCKWISE = [(p, n) for p, n in models.CASES if not pipe(p).braid.strand(n).process.whole]


@pytest.mark.parametrize(("guidance", "held"), [(1.0, False), (1.0, True), (2.0, False)])
@pytest.mark.parametrize(("paradigm", "name"), BLOCKWISE)
def test_rows_that_have_ended_leave(paradigm, name, guidance, held):
    built, rows = pipe(paradigm).braid, 5
    before, last = models.pair(built, name)
    keys, shape = Keys.of(7, rows).key, last.shape
    ends = torch.tensor([1, 1, 2, 2, 4])

    def run(mine: torch.Tensor, make=CachedContext) -> Generated:
        draft = torch.stack([last.tokens.roll(int(row), 0) for row in mine]) if held else None
        keep = torch.arange(draft.shape[1])[None] % 2 == mine[:, None] % 2 if held else None
        hole = Opening(name, shape, draft, keep)
        parts = [Known(before.modality, [before.tokens] * len(mine)), hole]
        done = lambda _, tokens: tokens.shape[1] >= ends[mine]  # noqa: E731
        return generate(
            built, parts, keys[mine], guidance=guidance, make_context=make, finished=done
        )

    seen: list[int] = []
    hook = built.transformer.register_forward_hook(lambda _m, x, _y: seen.append(len(x[0])))
    together = run(torch.arange(rows))
    hook.remove()
    assert seen[-1] < seen[0]
    reread = run(torch.arange(rows), RereadContext)
    for row in range(rows):
        alone = run(torch.tensor([row]))
        for out in (together, reread):
            mine = out.tokens[-1][row][out.used[-1][row]]
            torch.testing.assert_close(mine, alone.tokens[-1][0], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def believed(
    braid: Braid, document: Document, state: torch.Tensor, time: torch.Tensor
) -> torch.Tensor:
    """Return what training would predict of the last span, if it were in that state."""
    batch = models.packed(braid, [[document]])
    name = document[-1].modality
    tokens, times = dict(batch.tokens), {n: torch.ones(len(x)) for n, x in batch.tokens.items()}
    n = len(tokens[name]) - len(state)  # those of spans before the last
    tokens[name], times[name] = torch.cat([tokens[name][:n], state]), times[name].clone()
    times[name][n:] = time
    prediction = braid(tokens, times, batch.layout)[name][n:]
    return braid.strand(name).process.belief(prediction, state, float(time.min()))


@pytest.mark.parametrize(("guidance", "held"), [(1.0, False), (1.0, True), (0.0, False)])
@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_a_belief_is_what_training_would_predict(paradigm, name, guidance, held):
    built = pipe(paradigm).braid
    strand = built.strand(name)
    document = [models.pair(built, name, n=3)[0], models.pair(built, name)[1]]
    keep = torch.tensor([[True, False, False, True]]) & held
    parts = [
        Known(document[0].modality, [document[0].tokens]),
        Opening(name, document[1].shape, document[1].tokens[None], keep),
    ]
    frames: list[Frame] = []
    out = generate(built, parts, Keys.of(0, 1).key, guidance=guidance, watch=frames.append)
    done, document = out.tokens[-1][0], document[0 if guidance else 1 :]
    if strand.causal:  # one forward pass over what was written
        last = replace(document[-1], tokens=done, shape=(len(done),) if name == "text" else (2, 2))
        beliefs = believed(built, [*document[:-1], last], done, torch.ones(len(done)))
        beliefs = torch.where(keep[0, : len(done)].view(-1, *[1] * (done.ndim - 1)), done, beliefs)
        assert torch.equal(torch.cat([f.belief[0] for f in frames]), beliefs)
    for f in frames if strand.process.block(4) == 4 else []:
        time = torch.full((4,), f.time).masked_fill(keep[0], 1.0)
        expected = believed(built, document, f.state[0], time)
        free = ~keep[0]
        torch.testing.assert_close(f.belief[0][free], expected[free], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_without_its_prompt_a_document_still_has_its_opening(paradigm, name):
    """Training without prompts (data.drop) keeps what every document begins with."""
    built = pipe(paradigm).braid
    opening = Span("text", torch.tensor([1, 2]), target=False)
    prompt, last = models.pair(built, name, n=3)[0], models.pair(built, name)[1]
    parts = [
        Known("text", [opening.tokens], stays=True),
        Known(prompt.modality, [prompt.tokens]),
        Opening(name, last.shape),
    ]
    frames: list[Frame] = []
    out = generate(built, parts, Keys.of(0, 1).key, guidance=0.0, watch=frames.append)
    done = out.tokens[-1][0]
    if built.strand(name).causal:
        last = replace(last, tokens=done, shape=(len(done),) if name == "text" else (2, 2))
        beliefs = believed(built, [opening, last], done, torch.ones(len(done)))
        assert torch.equal(torch.cat([f.belief[0] for f in frames]), beliefs)
    for f in frames if built.strand(name).process.block(4) == 4 else []:
        expected = believed(built, [opening, last], f.state[0], torch.full((4,), f.time))
        torch.testing.assert_close(f.belief[0], expected, rtol=1e-3, atol=1e-3)


def test_a_pipeline_withholds_the_prompt_and_not_the_opening():
    first = models.pipeline("mmada")
    first.braid.strand("text").modality.opening = torch.tensor([1, 2])
    made = Pipeline(first.braid, first.experiment)
    frames: list[Frame] = []
    made.batch([[Hole("image")]], watch=frames.append)
    made.batch([["row two", Hole("image")]], guidance=0.0, watch=frames.append)
    alone, prompted = (f.belief for f in frames if f.time == 0)  # of the same state, all masked
    assert torch.equal(alone, prompted)


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_generation_leaves_no_gradient(paradigm, name):
    built = pipe(paradigm)
    shape = models.span(built.braid, name).shape
    out = generate(built.braid, [Opening(name, shape)], Keys.of(0, 1).key)
    assert not built.braid.training
    assert not out.tokens[0].requires_grad
