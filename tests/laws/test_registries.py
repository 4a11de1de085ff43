"""Laws of what is registered: paradigms build, modalities go there and back, rules are known."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PIL

from braid import config, paradigms, recipes, rules
from braid.braid import Braid
from braid.data.synthetic import CAPTIONS
from braid.errors import BraidError
from braid.layout import Span
from braid.modalities import (
    MODALITIES,
    Audio,
    CodedImage,
    Image,
    Label,
    MixedText,
    Modality,
    ReleasedText,
    Text,
    Vision,
)
from braid.modalities.sounds import Sound
from braid.processes import PROCESSES, Autoregressive, GaussianFlow
from braid.samplers import SAMPLERS, suitable
from braid.spaces import Discrete
from braid.strand import Strand
from braid.transformer import Transformer, TransformerConfig
from tests.families.made import SIZE, tokenizer_json
from tests.laws import models

WIDTH = 16
ASSIGNED = [n for n, r in recipes.RECIPES.items() if "paradigm" in inspect.signature(r).parameters]
"""Recipes that take a paradigm."""


def picture(channels: int, size: int = 4, levels: int = 3) -> PIL.Image:
    """Return a picture whose pixels take that many levels."""
    shape = (size, size) if channels == 1 else (size, size, channels)
    values = np.arange(np.prod(shape)).reshape(shape) % levels
    return PIL.fromarray(np.round(values * 255 / (levels - 1)).astype(np.uint8))


def text() -> Text:
    """Return a text modality that knows the toy's captions."""
    made = Text(vocabulary=270, length=4)
    made.fit(CAPTIONS)
    return made


def released_text(made: type[ReleasedText] = ReleasedText, **options: Any) -> ReleasedText:
    """Return the text modality of a released model."""
    text = made(size=SIZE, ends=(1,), **options)
    text.load_state({"files": {"tokenizer.json": tokenizer_json()}})
    return text


EXAMPLES: dict[str, list[tuple[Modality, Any]]] = {
    "text": [(text(), "row two"), (text(), "naïve 猫 <end> \n"), (text(), "x")],
    "released_text": [
        (released_text(), "row two"),
        (released_text(begin=(0,), frames={"image": 3}), "naïve 猫 </s> <image> \n"),
    ],
    "mixed_text": [
        (released_text(MixedText, blank=2, never=((290, 295),)), "row two"),
        (released_text(MixedText), "row two"),
    ],
    "image": [
        (Image(size=4, levels=3), picture(1)),
        (Image(size=4, levels=3, channels=3, patch=4), picture(3)),
        (Image(size=(4, 8), levels=256, patch=1), PIL.linear_gradient("L").resize((8, 4))),
        (Image(size=4, levels=3, continuous=True), picture(1)),
        (Image(size=4, levels=256, channels=3, continuous=True), picture(3)),
    ],
    "label": [(Label(classes=["cat", "dog", "owl"]), "dog")],
    "vision": [(Vision(size=4, patch=2), picture(1)), (Vision(size=8, channels=3), picture(3, 8))],
}
"""Modality -> instances with a raw value each."""


def drawn(modality: Modality) -> Any:
    """Return raw data that the modality makes of its first symbols."""
    tokens = torch.zeros(modality.space.shape(torch.Size(modality.shape).numel()))
    discrete = isinstance(modality.space, Discrete)
    return modality.decode(tokens.long() if discrete else tokens, modality.shape)


def tone() -> Sound:
    """Return half a second of a tone."""
    return Sound(np.sin(np.arange(4000) * 0.3).astype(np.float32) / 2, 8000)


EXAMPLES["coded_image"] = [(CodedImage(patch=2), picture(3, 32)), (CodedImage(), picture(3, 32))]
EXAMPLES["audio"] = [(Audio(seconds=0.8), tone())]
for _name in MODALITIES.keys() - EXAMPLES.keys():  # one that was added is under the laws at once
    EXAMPLES[_name] = [(MODALITIES[_name](), drawn(MODALITIES[_name]()))]
CASES = [(name, *case) for name, cases in EXAMPLES.items() for case in cases]


@pytest.mark.parametrize(("kind", "modality", "raw"), CASES)
def test_a_modality_goes_there_and_back(kind, modality, raw):
    tokens = modality.encode(raw)
    if not modality.generated:
        with pytest.raises(BraidError, match="read only"):
            modality.decode(tokens, modality.shape)
    else:
        same = modality.decode(tokens, modality.span_shape(tokens))
        assert type(same) is type(raw)
        assert not modality.lossless or np.array_equal(np.asarray(same), np.asarray(raw))


@pytest.mark.parametrize(("kind", "modality", "raw"), CASES)
def test_tokens_lie_in_their_space(kind, modality, raw):
    tokens = modality.encode(raw)
    modality.space.check(tokens, kind)
    assert tokens.shape == modality.space.shape(len(tokens))
    if modality.limit is not None:
        assert tokens.abs().max() <= modality.limit


@pytest.mark.parametrize(("kind", "modality", "raw"), CASES)
def test_every_token_has_a_place(kind, modality, raw):
    tokens = modality.encode(raw)
    shape = modality.span_shape(tokens)
    place = modality.positions(shape)
    assert place.shape == (len(tokens), 3)
    assert len(place.unique(dim=0)) == len(tokens)
    assert place[:, 0].tolist() == list(range(len(tokens)))
    if modality.grid is not None:
        assert [int(x) + 1 for x in place[:, 1:].amax(0)] == list(modality.grid)


@pytest.mark.parametrize(("kind", "modality", "raw"), CASES)
def test_what_a_modality_learned_survives_a_file(kind, modality, raw):
    made = config.make(MODALITIES, "modality", options(kind, modality), name="x")
    made.load_state(modality.state())
    assert torch.equal(made.encode(raw), modality.encode(raw))
    assert made.space == modality.space


def options(kind: str, modality: Any) -> dict[str, Any]:
    """Return the options that a modality was made with."""
    keys = {
        "text": {"length": "length"},
        "released_text": {"size": "size", "begin": "begin", "ends": "ends", "frames": "before"},
        "mixed_text": {"size": "size", "ends": "ends", "blank": "blank", "never": "never"},
        "image": {
            "channels": "channels",
            "patch": "patch",
            "levels": "depth",
            "continuous": "continuous",
        },
        "coded_image": {"patch": "patch"},
        "audio": {"seconds": "seconds"},
        "label": {"classes": "classes"},
    }.get(kind, {})
    made = {k: getattr(modality, attribute) for k, attribute in keys.items()}
    if kind == "image":
        made["size"] = [modality.height, modality.width]
    if kind == "vision":
        inner = modality.picture
        made |= {"size": inner.height, "channels": inner.channels, "patch": inner.patch}
    return {"kind": kind, **made}


@pytest.mark.parametrize(("kind", "modality", "raw"), CASES)
@pytest.mark.parametrize("name", [*PROCESSES, None])
def test_every_modality_runs_under_every_process_of_its_kind(kind, modality, raw, name):
    process = None if name is None else PROCESSES[name]()
    if process is not None and not modality.generated:
        with pytest.raises(
            BraidError, match=f"{'read only' if process.continuous else 'exchange'}"
        ):
            Strand(modality, process, WIDTH)
        return
    if process is not None and process.continuous == isinstance(modality.space, Discrete):
        with pytest.raises(BraidError, match="exchange the process"):
            Strand(modality, process, WIDTH)
        return
    strand = Strand(modality, process, WIDTH)
    tokens = modality.encode(raw)
    n = len(tokens)
    hidden = strand.embed(tokens, torch.ones(n), modality.positions(modality.span_shape(tokens)))
    assert hidden.shape == (n, WIDTH)
    if process is not None:
        assert strand.read(hidden).shape[: tokens.ndim] == tokens.shape
        assert type(strand.sampler) is SAMPLERS[suitable(process)[0]]


@pytest.mark.parametrize("paradigm", models.NAMES)
@pytest.mark.parametrize("recipe", ASSIGNED)
def test_every_paradigm_builds_under_every_recipe_or_is_refused(paradigm, recipe, beside_codecs):
    assigned = paradigms.with_sound(paradigm).processes
    settings = [f"paradigm={paradigm}", *models.SMALL]
    if recipe in ("omni", "speech") and "audio" not in assigned:
        with pytest.raises(BraidError, match="makes no sound"):
            recipes.resolve(recipe, settings)
        return
    braid = models.build(recipes.resolve(recipe, settings))
    assert {n for n, s in braid.strands.items() if s.process is not None} == {
        n for n, p in assigned.items() if p is not None and n in braid.strands
    }
    assert braid.rule.name == paradigms.get(paradigm).rule


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_every_paradigm_says_where_it_is_described(paradigm):
    made = paradigms.get(paradigm)
    assert "arXiv:" in made.source
    assert set(made.samplers) <= {n for n, p in made.processes.items() if p is not None}
    assert all(s.suits(made.processes[n]) for n, s in made.samplers.items())


@pytest.mark.parametrize("name", list(PROCESSES))
def test_every_process_has_a_sampler(name):
    assert suitable(PROCESSES[name]())


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_every_sampler_runs_some_process(name):
    assert any(SAMPLERS[name].suits(p()) for p in [*PROCESSES.values(), mask_flow])


def mask_flow() -> Any:
    """Return a discrete flow whose noise is a mask."""
    return PROCESSES["discrete_flow"](path="mask")


def test_next_tokens_under_full_are_refused_with_the_reason():
    with pytest.raises(BraidError, match="show it the tokens it has to predict; use rule 'spans'"):
        models.build(models.experiment("chameleon", "rule=full"))


def test_blocks_under_full_are_refused_with_the_reason():
    with pytest.raises(BraidError, match="lets blocks see later ones; use rule 'spans'"):
        models.build(models.experiment("blockdiff", "rule=full"))


@pytest.mark.parametrize("name", list(rules.RULES))
def test_a_rule_is_found_by_its_name(name):
    assert rules.get(name) is rules.get(rules.get(name))
    assert rules.get(name).name == name


def test_unknown_names_are_refused_with_the_nearest():
    braid = models.build("chameleon")
    with pytest.raises(BraidError, match="unknown attention rule 'span'; did you mean 'spans'"):
        rules.get("span")
    with pytest.raises(BraidError, match="unknown paradigm 'fudok'; did you mean 'fudoki'"):
        paradigms.get("fudok")
    with pytest.raises(BraidError, match="unknown modality 'imag'; did you mean 'image'"):
        braid.strand("imag")


def test_a_document_of_an_unknown_modality_or_shape_is_refused():
    braid = models.build("chameleon")
    for document, message in (
        ([Span("audio", torch.zeros(2).long())], "unknown modality 'audio'"),
        ([Span("text", torch.zeros(0).long())], "is empty"),
        ([Span("text", torch.zeros(2).long(), shape=(3,))], "holds 2 tokens"),
    ):
        with pytest.raises(BraidError, match=message):
            models.packed(braid, [[document]])


def test_a_strand_under_a_wrong_sampler_is_refused():
    with pytest.raises(BraidError, match="Euler cannot run Autoregressive; valid: next_token"):
        Strand(text(), Autoregressive(), WIDTH, SAMPLERS["euler"]())


def test_a_tied_head_is_the_table_of_its_embedding():
    braid = models.build(models.experiment("chameleon", "strands.text.tied=true"))
    strand = braid.strand("text")
    assert strand.head.linear.weight is strand.embedder.table.weight
    with pytest.raises(BraidError, match="cannot be tied"):
        models.build(models.experiment("mmada", "strands.text.tied=true"))


@pytest.mark.parametrize("rule", list(rules.RULES))
def test_a_picture_alone_runs_under_every_rule(rule):
    config_ = TransformerConfig(width=WIDTH, depth=1, heads=2)
    strand = Strand(Image(size=4, continuous=True), GaussianFlow(), WIDTH)
    braid = Braid({"image": strand}, Transformer(config_), rule)
    batch = models.packed(braid, [[[models.span(braid, "image")]]])
    assert braid.loss(batch, 0).total > 0


@pytest.mark.parametrize("paradigm", models.NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_every_paradigm_runs_in_other_precisions(paradigm, dtype):
    braid = models.stirred(paradigm, dtype)
    batch = models.packed(braid, [[models.all_learned(braid)]])
    losses = braid.loss(batch, 0)
    assert losses.total.isfinite()
    assert losses.total.dtype in (torch.float32, torch.float64)


@pytest.fixture
def told_always():
    """Have torch warn each time, not once a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


WORDS_APART = "strands.text.process={kind: discrete_flow, path: {kind: metric}}"


@pytest.mark.parametrize(
    "made", [*models.NAMES, models.experiment("fudoki", WORDS_APART)], ids=[*models.NAMES, "words"]
)
@pytest.mark.filterwarnings("error")  # as torch gives where precisions keep it from a kernel
def test_noise_is_the_same_under_autocast_and_the_loss_nearly(made, told_always):
    """bfloat16 is for the transformer: noise drawn in it has other odds, times and tables."""
    braid = models.stirred(made, torch.float32).train()
    batch = models.packed(braid, [[models.all_learned(braid)]])
    with torch.autocast("cpu", torch.bfloat16):
        cast, loss_cast = braid.corrupt(batch, 0), braid.loss(batch, 0).total
    plain, loss = braid.corrupt(batch, 0), braid.loss(batch, 0).total
    for name, noised in plain.items():
        torch.testing.assert_close(vars(cast[name]), vars(noised), rtol=0, atol=0)
    assert loss_cast.dtype == torch.float32
    torch.testing.assert_close(loss_cast, loss, rtol=0.05, atol=0.05)
    loss_cast.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in braid.parameters())


def test_noise_is_the_same_where_weights_wait_on_another_device():
    """Offloaded weights are in the host's memory until they are gathered."""
    braid = models.stirred("fudoki", torch.float32)
    batch = models.packed(braid, [[models.all_learned(braid)]])
    plain = braid.corrupt(batch, 0)
    braid.to("meta")
    with torch.autocast("cpu", torch.bfloat16):
        cast = braid.corrupt(batch, 0)
    for name, noised in plain.items():
        torch.testing.assert_close(vars(cast[name]), vars(noised), rtol=0, atol=0)
