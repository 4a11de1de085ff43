"""The front door: parts in, filled parts out, and every mistake told before the model runs."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PIL

import braid
from braid import Hole, Part, Pipeline
from braid.errors import BraidError
from braid.samplers import Confidence, Jump, NextToken
from tests.laws import models


@functools.cache
def pipe(paradigm: str = "showo") -> Pipeline:
    """Return a pipeline of random weights."""
    return models.pipeline(paradigm)


def picture(mode: str = "L", size: tuple[int, int] = (4, 4)) -> PIL.Image:
    """Return a picture with a bright half."""
    made = PIL.new("L", size)
    made.paste(255, (0, 0, size[0] // 2, size[1]))
    return made.convert(mode)


def png(cut: int | None = None) -> bytes:
    """Return a PNG file, or its beginning."""
    file = io.BytesIO()
    picture().save(file, "PNG")
    return file.getvalue()[:cut]


def test_known_parts_come_back_as_they_went_in():
    given = picture()
    out = pipe()(["row", given, Hole("text", 3)])
    assert out[0] == "row"
    assert out[1] is given
    assert isinstance(out[2], str)
    assert len(out) == 3


def test_a_hole_may_stand_anywhere():
    for parts in ([Hole("image")], [Hole("image"), "row"], ["row", Hole("image"), picture()]):
        out = pipe()(parts, steps=2)
        hole = next(i for i, p in enumerate(parts) if isinstance(p, Hole))
        assert out[hole].size == (4, 4)


def test_parts_may_come_one_by_one():
    given = ["row", Hole("image")]
    out = pipe()((p for p in given), steps=1, n=2)
    assert [len(o) for o in out] == [2, 2]
    assert out[0][1].tobytes() == pipe()(given, steps=1)[1].tobytes()
    whole = ["row", picture()]
    assert pipe().score(p for p in whole) == pipe().score(whole)


def test_one_result_has_no_list_around_it_and_n_results_have():
    one, three = (pipe()([Hole("image")], steps=1, n=n) for n in (None, 3))
    assert isinstance(one, braid.Parts)
    assert [len(x) for x in three] == [1, 1, 1]
    assert len(pipe()([Hole("image")], steps=1, n=1)) == 1


def test_documents_of_different_forms_are_filled_in_one_call():
    documents = [["row", Hole("image")], [picture(), Hole("text")], ["column two", Hole("image")]]
    out = pipe().batch(documents, steps=2)
    assert [type(p[1]).__name__ for p in out] == ["Image", "str", "Image"]
    assert [p[0] for p in out] == [d[0] for d in documents]


@pytest.mark.parametrize(
    "seed", [0, 2**63, -(2**63), 2**64 - 1, 12345678901234567890, np.int64(-3)]
)
def test_any_whole_number_is_a_seed(seed):
    a, b = (pipe()([Hole("image")], seed=seed, steps=2)[0] for _ in range(2))
    assert np.array_equal(a, b)


def test_the_sampler_is_exchanged_by_object_by_name_and_by_options():
    out = [
        pipe()([Hole("image")], sampler=s, seed=1)
        for s in (Confidence(steps=2), {"kind": "confidence", "steps": 2})
    ]
    assert out[0].calls == out[1].calls == 2
    assert np.array_equal(out[0][0], out[1][0])
    assert pipe()([Hole("image")], sampler="jump").calls == Jump().steps


def test_steps_and_temperature_win_over_the_sampler():
    out = pipe()([Hole("image")], sampler=Jump(steps=9), steps=2, temperature=0.0)
    assert out.calls == 2


def test_a_sampler_runs_the_holes_it_suits():
    document = [Hole("text", 2), Hole("image")]
    out = pipe()(document, sampler=Jump(steps=5), trajectory=True)
    assert sum(f.part == 1 for f in out.trajectory) == 5


def test_temperature_zero_does_not_depend_on_the_seed_of_next_tokens():
    a, b = (pipe()([picture(), Hole("text")], temperature=0.0, seed=s)[1] for s in (0, 1))
    assert a == b


def test_a_hole_of_text_is_at_most_as_long_as_asked():
    out = pipe()([picture(), Hole("text", 3)], temperature=1.0, trajectory=True)
    assert out.calls <= 3


def test_a_hole_of_part_of_a_picture_is_smaller():
    assert pipe()([Hole("image", (1, 2))], steps=2)[0].size == (4, 2)


ONE = ["row", Hole("image")]
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no hole": (lambda: pipe()(["row"]), "at least one hole"),
    "a bare string": (lambda: pipe()("row"), "give a list of parts"),
    "no parts": (lambda: pipe()([]), "at least one hole"),
    "steps 0": (lambda: pipe()(ONE, steps=0), "steps 0 must be at least 1"),
    "guidance below 0": (lambda: pipe()(ONE, guidance=-1), "guidance -1 is out of range"),
    "guidance nan": (lambda: pipe()(ONE, guidance=math.nan), "guidance nan is out of range"),
    "guidance inf": (lambda: pipe()(ONE, guidance=math.inf), "guidance inf is out of range"),
    "n 1.5": (lambda: pipe()(ONE, n=1.5), "n 1.5 is no whole number"),
    "steps 2.5": (lambda: pipe()(ONE, steps=2.5), "steps 2.5 is no whole number"),
    "seed a": (lambda: pipe()(ONE, seed="a"), "seed 'a' is no whole number"),
    "sampler 3": (lambda: pipe()(ONE, sampler=3), "sampler 3 is no sampler"),
    "cache 3": (lambda: pipe()(ONE, cache=3), "cache 3 is no block cache"),
    "n 0": (lambda: pipe()(ONE, n=0), "n 0 must be at least 1"),
    "temperature": (lambda: pipe()(ONE, temperature=-1), "temperature -1 must be 0"),
    "few seeds": (lambda: pipe().batch([ONE, ONE], seeds=[1]), "1 seeds for 2 documents"),
    "a seed of 1.9": (lambda: pipe().batch([ONE], seeds=[1.9]), "seed 1.9 is no whole number"),
    "rows 0": (lambda: pipe().batch([ONE], rows=0), "rows 0 must be at least 1"),
    "sampler name": (lambda: pipe()(ONE, sampler="jmup"), "did you mean 'jump'"),
    "sampler option": (lambda: pipe()(ONE, sampler={"kind": "jump", "stepz": 1}), "'stepz'"),
    "sampler kind": (
        lambda: pipe()(ONE, sampler=NextToken()),
        "NextToken cannot run Masked; valid: jump, confidence, ancestral",
    ),
    "empty text": (lambda: pipe()(["", Hole("image")]), "the text is empty; write at least one"),
    "unseen text": (lambda: pipe()(["\u200b\ufeff", Hole("image")]), "the text is empty"),
    "blank text": (lambda: pipe()([" \n", Hole("image")]), "the text is empty"),
    "broken text": (lambda: pipe()(["\ud800", Hole("image")]), "no valid Unicode"),
    "a number": (lambda: pipe()([3, Hole("image")]), "no modality of this model reads int 3"),
    "none": (lambda: pipe()([None, Hole("image")]), "no modality of this model reads NoneType"),
    "part": (lambda: pipe()([Part("vision", 1), Hole("image")]), "unknown modality 'vision'"),
    "text part": (lambda: pipe()([Part("text", 3), Hole("image")]), "expected a string, got int"),
    "hole": (lambda: pipe()([Hole("imag")]), "did you mean 'image'"),
    "hole of vision": (lambda: pipe("llava")([Hole("vision")]), "is read only in this model"),
    "hole too large": (lambda: pipe()([Hole("image", (3, 2))]), "spans at most (2, 2) tokens"),
    "hole of 0": (lambda: pipe()([Hole("text", 0)]), "has shape (4,) in tokens, not (0,)"),
    "hole of 2.5": (lambda: pipe()([Hole("text", 2.5)]), "not 2.5; give whole numbers"),
    "endless hole": (lambda: pipe()([Hole("text", 10**12)]), "more than 1048576 tokens"),
    "hole of 3 axes": (lambda: pipe()([Hole("image", (1, 1, 1))]), "in tokens, not (1, 1, 1)"),
    "start 1": (
        lambda: pipe()([Hole("image", draft=picture(), start=1)]),
        "start 1 is out of range",
    ),
    "start below 0": (lambda: pipe()([Hole("image", draft=picture(), start=-0.1)]), "out of range"),
    "start alone": (lambda: pipe()([Hole("image", start=0.5)]), "needs a draft"),
    "a string to score": (lambda: pipe().score("row"), "give a list of at least one part"),
    "a string to embed": (lambda: pipe().embed("row"), "give a list of at least one part"),
    "a draft that nothing uses": (
        lambda: pipe()([Hole("image", draft=picture())]),
        "nothing of the hole's draft would be used",
    ),
    "a sampler's start alone": (
        lambda: pipe()([Hole("image")], sampler={"kind": "jump", "start": 0.9}),
        "has no draft to start from",
    ),
    "keep alone": (lambda: pipe()([Hole("image", keep=np.ones((4, 4)))]), "needs a draft"),
    "keep of another shape": (
        lambda: pipe()([Hole("image", draft=picture(), keep=np.ones((3, 3), bool))]),
        "keep has shape (3, 3); a hole of image takes (2, 2) tokens",
    ),
    "keep of letters": (
        lambda: pipe()([Hole("image", draft=picture(), keep="abc")]),
        "keep 'abc' is no mask",
    ),
    "draft of another size": (
        lambda: pipe()([Hole("text", 9, draft="row")]),
        "tokens, the hole 9; give the hole the draft's size",
    ),
    "wrong size": (
        lambda: pipe()([picture(size=(5, 4)), Hole("text")]),
        "the picture is 5x4, the model reads 4x4; resize it, or set the modality's `resize: true`",
    ),
    "floats": (lambda: pipe()([np.zeros((4, 4)), Hole("text")]), "expected a uint8 array"),
    "no picture": (lambda: pipe()([Part("image", b"GIF"), Hole("text")]), "not a readable picture"),
    "no bytes": (lambda: pipe()([Part("image", b""), Hole("text")]), "the picture is empty"),
    "truncated": (lambda: pipe()([Part("image", png(45)), Hole("text")]), "truncated or damaged"),
    "no file": (lambda: pipe()([Part("image", "no.png"), Hole("text")]), "does not exist"),
    "bomb": (
        lambda: pipe()([PIL.new("1", (9000, 9000)), Hole("text")]),
        "9000x9000 pixels are more than 64000000",
    ),
    "block": (
        lambda: in_threes()([Hole("text")]),
        "a hole of 4 tokens of text is no multiple of the block 3; use 6",
    ),
    "score of a hole": (lambda: pipe().score(ONE), "Hole"),
    "score at no time": (lambda: pipe().score(["row"], times=0), "times 0 must be at least 1"),
    "embed of nothing": (lambda: pipe().embed([]), "at least one part"),
    "score of nothing": (lambda: pipe().score([]), "at least one part"),
}


def in_threes() -> Pipeline:
    """Return a pipeline that writes text in blocks of three, on a canvas of four."""
    made = models.experiment("blockdiff", "strands.text.process.size_of_block=3")
    return Pipeline(models.stirred(made, torch.float32), made)


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_refused_in_one_line(case):
    call, message = REFUSED[case]
    with pytest.raises(BraidError) as e:
        call()
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_misspelt_argument_is_refused():
    with pytest.raises(TypeError, match="stepz"):
        pipe()(ONE, stepz=3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_common_mode_is_read(mode):
    black_and_white = pipe().braid.strand("image").modality.encode(picture("L"))
    assert torch.equal(pipe().braid.strand("image").modality.encode(picture(mode)), black_and_white)


def test_a_picture_comes_as_file_bytes_path_or_array(tmp_path):
    encode = pipe().braid.strand("image").modality.encode
    (tmp_path / "a.png").write_bytes(png())
    expected = encode(PIL.open(tmp_path / "a.png"))
    array = np.asarray(PIL.open(tmp_path / "a.png"))
    for raw in (png(), tmp_path / "a.png", str(tmp_path / "a.png"), {"bytes": png()}, array):
        assert torch.equal(encode(raw), expected)


def test_what_shows_through_is_white_paper():
    clear = PIL.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert pipe().braid.strand("image").modality.encode(clear).min() == 1


def test_symbols_typed_by_a_user_are_only_letters():
    text = pipe().braid.strand("text").modality
    tokens = text.encode("<end><image>")
    assert tokens[-1] == text.end
    assert (tokens[:-1] < text.end).all()
    assert text.decode(tokens) == "<end><image>"


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_every_part_is_scored_by_what_stands_before_it(paradigm):
    strands = pipe(paradigm).braid.strands
    shown = Part("image" if "image" in strands else "vision", picture())
    parts = [shown, "row two"]
    scores = pipe(paradigm).score(parts, times=4)
    assert len(scores) == sum(s.process is not None for s in strands.values())
    assert all(s.value.isfinite().all() for s in scores if s.kind != "none")
    assert {s.kind for s in scores} <= {"exact", "bound", "none"}
    alone = pipe(paradigm).score(["row two"], times=4)[0]
    assert not torch.equal(alone.value, scores[-1].value)


@pytest.mark.parametrize("paradigm", ["showo", "chameleon", "llava", "transfusion"])
def test_the_nats_of_next_tokens_are_the_chain_rule(paradigm):
    text = pipe(paradigm).braid.strand("text").modality
    tokens = text.encode("row")
    spans = pipe(paradigm).spans(["row"])
    batch = models.packed(pipe(paradigm).braid, [[spans]])
    logits = models.trained(pipe(paradigm).braid, batch)[0]["text"]
    plain = -logits.log_softmax(-1)[torch.arange(len(tokens)), tokens].sum()
    (score,) = pipe(paradigm).score(["row"])
    assert score.kind == "exact"
    assert int(score.symbols) == len(tokens)
    torch.testing.assert_close(score.value.float(), plain[None], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_a_score_does_not_depend_on_what_comes_after(paradigm):
    parts = (
        ["row two", picture(), "row"] if "image" in models.drawn(paradigm) else ["row two", "row"]
    )
    whole = pipe(paradigm).score(parts, times=2)
    first = pipe(paradigm).score(parts[:1], times=2)
    assert len(whole) == len(parts)
    torch.testing.assert_close(whole[0].value, first[0].value, rtol=0, atol=0)


def test_scores_and_embeddings_are_repeatable():
    a, b = (pipe("mmada").score(["row two"], seed=3)[0] for _ in range(2))
    assert torch.equal(a.value, b.value)
    c = pipe("mmada").score(["row two"], seed=4)[0]
    assert not torch.equal(a.value, c.value)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_an_embedding_is_one_vector_that_tells_documents_apart(paradigm):
    a, b = (pipe(paradigm).embed([t]) for t in ("row two", "column"))
    assert a.shape == (32,)
    assert not torch.allclose(a, b)


def test_loading_is_public_and_saving_round_trips(tmp_path):
    pipe().save(tmp_path / "model")
    again = braid.load(tmp_path / "model")
    assert again(["row", Hole("text")], seed=1)[1] == pipe()(["row", Hole("text")], seed=1)[1]


@pytest.mark.parametrize("paradigm", ["chameleon", "mmada"])
def test_the_likeliest_candidate_is_chosen(paradigm):
    options = ["row one", "column two", "row four"]
    chosen = pipe(paradigm).choose([picture()], options, times=4)
    alone = [float(pipe(paradigm).score([picture(), o], times=4)[-1].value) for o in options]
    assert chosen.nats == pytest.approx(alone)
    assert chosen.raw == options[chosen.index]
    assert chosen.nats[chosen.index] == min(chosen.nats)
    assert chosen.kind == ("exact" if paradigm == "chameleon" else "bound")


def test_a_choice_needs_candidates_of_one_modality():
    with pytest.raises(BraidError, match="at least two candidates"):
        pipe().choose([], ["row"])
    with pytest.raises(BraidError, match="of one modality"):
        pipe().choose([], ["row", picture()])


@pytest.mark.parametrize("paradigm", ["showo", "transfusion", "fudoki"])
def test_prepared_work_gives_what_a_call_gives(paradigm):
    model = pipe(paradigm)
    parts = ["row", Hole("image"), Hole("text", 4)]
    options = {"seed": 5, "steps": 2, "guidance": 1.5, "n": 2, "temperature": 0.5}
    work = model.prepare(parts, **options)
    made, called = work.run(model.braid.transformer), model(parts, **options)
    assert work.rows == 2 and [p.calls for p in made] == [p.calls for p in called]
    for ours, theirs in zip(made, called, strict=True):
        assert ours[1].tobytes() == theirs[1].tobytes() and ours[2] == theirs[2]


def test_prepared_work_says_what_it_costs():
    model = pipe("transfusion")  # text token by token, pictures in steps
    work = model.prepare(["row", Hole("text", 7), Hole("image")], steps=3, n=2)
    assert (work.asked, work.calls) == (7 + 4, 7 + 3)
    assert work.cost == 2 * (work.given + 7 + 4 * 3) and work.given > 1


def test_what_is_prepared_is_checked_first():
    with pytest.raises(BraidError, match="n 0 must be at least 1"):
        pipe().prepare(["row", Hole("image")], n=0)
    with pytest.raises(BraidError, match="cache 3 is no block cache"):
        pipe().prepare(["row", Hole("image")], cache=3)  # type: ignore[arg-type]


def test_results_say_how_many_tokens_count_and_whether_a_text_ended_by_itself():
    model = pipe("transfusion")
    short, long = (model([Hole("text", n)], seed=s, n=8) for n, s in ((1, 0), (64, 1)))
    assert all(p.tokens == [1] for p in short)
    assert any(p.closed == [True] for p in long) and any(p.closed == [False] for p in short)
    for parts in long:
        assert parts.closed == [parts.tokens[0] < 64] or parts.tokens == [64]
    (drawn,) = model([Hole("image")], n=1, steps=1)
    assert drawn.closed == [True] and drawn.tokens == [4]


def test_what_is_told_after_each_block_may_end_a_row():
    model, seen = pipe("transfusion"), []

    def finished(part, tokens):
        seen.append((part, tokens.shape[1]))
        return torch.tensor([tokens.shape[1] >= 2])

    parts = ["row", Hole("text", 6), Hole("image")]
    work = model.prepare(parts, seed=3, steps=1, finished=finished)
    (made,) = work.run(model.braid.transformer)
    assert seen[:2] == [(1, 1), (1, 2)] or made.closed[1]
    assert made.tokens[1] <= 2


@pytest.mark.parametrize("paradigm", ["showo", "fudoki"])
def test_works_of_one_form_are_joined_and_each_gets_its_own(paradigm):
    model, seen = pipe(paradigm), {}
    documents = [["row", Hole("image")], ["column row", Hole("image")], ["row", Hole("image")]]
    options = [{"seed": i, "n": 1 + i, "steps": 2, "guidance": 1.5} for i in range(3)]

    def watch(i: int):
        return lambda frame: seen.setdefault(i, []).append(frame)

    works = [
        model.prepare(d, **o, watch=watch(i) if i else None)
        for i, (d, o) in enumerate(zip(documents, options, strict=True))
    ]
    assert len({w.form for w in works}) == 1 and works[0].form is not None
    joined = model.joined(works)
    assert joined.rows == 6 and joined.cost == sum(w.cost for w in works)
    made = joined.run(model.braid.transformer)
    alone = [p for d, o in zip(documents, options, strict=True) for p in model(d, **o)]
    for ours, theirs in zip(made, alone, strict=True):
        assert ours[1].tobytes() == theirs[1].tobytes()
    assert {i: [(f.part, len(f.state)) for f in frames] for i, frames in seen.items()} == {
        i: [(1, 1 + i)] * 2 for i in (1, 2)
    }


def test_works_of_other_forms_are_not_of_one():
    model = pipe("showo")  # text symbol by symbol
    base = {"seed": 0, "steps": 2}
    drawn = ["row", Hole("image")]
    forms = [model.prepare(drawn, **base).form]
    for change in ({"steps": 3}, {"guidance": 2.0}, {"temperature": 0.5}, {"sampler": "ancestral"}):
        forms.append(model.prepare(drawn, **base | change).form)
    forms.append(model.prepare([Hole("image")], **base).form)
    forms.append(model.prepare([picture(), Hole("image")], **base).form)
    forms.append(model.prepare(["row", Hole("image", draft=picture(), start=0.5)], **base).form)
    assert None not in forms and len(set(forms)) == len(forms)
    own = model.braid.strand("image").sampler
    assert model.prepare(drawn, **base, sampler=own).form == forms[0]
    assert model.prepare(["row", Hole("text", 4)]).form is None


CALLED = [
    *[("transfusion", "image", s) for s in ("euler", "heun", "ddpm")],
    *[("fudoki", "image", s) for s in ("jump",)],
    ("mmada", "image", "ancestral"),
    ("mmada", "image", "confidence"),
    ("mmada", "image", {"kind": "confidence", "size_of_block": 1, "steps": 2}),
    ("mmada", "image", {"kind": "confidence", "threshold": 1.0, "steps": 2}),
    ("blockdiff", "text", "confidence"),
    ("transfusion", "text", "next_token"),
]


@pytest.mark.parametrize(("paradigm", "name", "sampler"), CALLED)
def test_work_takes_no_more_calls_than_it_says(paradigm, name, sampler):
    model = pipe(paradigm)
    work = model.prepare(["row", Hole(name)], sampler=sampler, seed=1)
    (made,) = work.run(model.braid.transformer)
    assert 1 <= made.calls <= work.calls
    if sampler in ("euler", "heun", "ddpm", "jump"):
        assert made.calls == work.calls == work.steps
