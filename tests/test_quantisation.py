"""Quantised and offloaded models do what the full ones do, in less memory."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import Tensor, nn

import braid
from braid import Hole, Pipeline, quantisation
from braid.braid import Braid
from braid.errors import BraidError
from tests.laws import models

CPU = torch.device("cpu")
LAID = [(p, kind) for p in models.NAMES for kind in ("int8", "bfloat16", "int8 bfloat16")]


def laid(full: Braid, how: str, offload: bool = False) -> Braid:
    """Return a copy of a model in less memory."""
    words = how.split()
    dtype = torch.bfloat16 if "bfloat16" in words else None
    quantise = "int8" if "int8" in words else None
    return quantisation.lay_out(copy.deepcopy(full), CPU, dtype, quantise, offload)


@torch.no_grad()
def predictions(model: Braid) -> dict[str, Tensor]:
    """Return what a model predicts for a document of all its modalities."""
    document = models.all_learned(model)
    batch = models.packed(model, [[document]])
    return {name: p.float() for name, p in models.trained(model, batch)[0].items()}


def far(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the root mean square difference, as a share of the values' own spread."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).pow(2).mean().sqrt() / a[n].std()) for n in a)


@pytest.mark.parametrize(("paradigm", "how"), LAID)
def test_predictions_stay_near_those_of_full_weights(paradigm, how):
    full = models.stirred(paradigm, torch.float32)
    error = far(predictions(full), predictions(laid(full, how)))
    assert 0 < error < 0.08


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_every_modality_is_generated(paradigm):
    pipe = models.pipeline(paradigm)
    less = Pipeline(laid(pipe.braid, "int8 bfloat16"), pipe.experiment)
    for name in models.drawn(paradigm):
        given = "row" if name != "text" else braid.Part(*given_before_text(less))
        out = less([given, Hole(name)], steps=2, guidance=1.5)
        assert type(out[1]) is type(pipe([given, Hole(name)], steps=2, guidance=1.5)[1])


def given_before_text(pipe: Pipeline) -> tuple:
    """Return a modality other than text, with data for it."""
    from PIL import Image as PIL

    name = next(n for n in ("image", "vision") if n in pipe.braid.strands)
    return name, PIL.new("L", (4, 4), 99)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_int8_is_a_quarter_of_every_linear_layer_and_the_rest_is_kept(paradigm):
    full = models.build(paradigm)
    less = laid(full, "int8")
    tables = {id(m.weight) for m in full.modules() if isinstance(m, nn.Embedding)}
    linear = [m for m in full.modules() if isinstance(m, nn.Linear) and id(m.weight) not in tables]
    rest = quantisation.weight_bytes(full) - sum(4 * m.weight.numel() for m in linear)
    want = rest + sum(m.weight.numel() + 5 * m.out_features for m in linear)  # a scale, a zero
    assert quantisation.weight_bytes(less) == want
    assert quantisation.quantised(less)
    assert not quantisation.quantised(full)


def test_a_tied_head_stays_tied():
    tied = models.experiment("chameleon", "strands.text.tied=true")
    less = laid(models.build(tied), "int8")
    strand = less.strand("text")
    assert strand.head.linear.weight is strand.embedder.table.weight


@pytest.mark.parametrize("how", ["", "int8", "bfloat16"])
@pytest.mark.parametrize("paradigm", models.NAMES)
def test_offloading_changes_no_number(paradigm, how):
    full = models.stirred(paradigm, torch.float32)
    here, away = laid(full, how), laid(full, how, offload=True)
    a, b = predictions(here), predictions(away)
    assert all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("how", ["", "int8"])
def test_one_block_at_a_time_is_copied(how):
    model = laid(models.build("showo"), how, offload=True)
    blocks = list(model.transformer.blocks)
    home = [list(block.parameters()) for block in blocks]
    called = []

    def look(block, *_):
        away = [
            i
            for i, b in enumerate(blocks)
            if any(p is not q for p, q in zip(b.parameters(), home[i], strict=True))
        ]
        called.append((blocks.index(block), away))

    for block in blocks:
        block.register_forward_pre_hook(look)  # after the copy, before the block
    predictions(model)
    assert called == [(i, [i]) for i in range(len(blocks))]
    assert [[id(p) for p in b.parameters()] for b in blocks] == [[id(p) for p in h] for h in home]


def test_a_block_that_fails_returns_home():
    model = quantisation.keep_blocks_home(models.build("showo"), CPU)
    block = model.transformer.blocks[0]
    home = list(block.parameters())
    with pytest.raises(RuntimeError):
        block(torch.zeros(1, 1, 5), None, None)  # of another width
    assert all(p is q for p, q in zip(block.parameters(), home, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("how", ["", "int8", "bfloat16"])
def test_an_accelerator_holds_one_block(how):
    device = torch.device("cuda")
    wide = models.experiment("showo", "transformer.width=512", "transformer.depth=8")
    full = models.build(wide)
    there = quantisation.lay_out(copy.deepcopy(full), device)
    want = models.trained(there, models.packed(there, [[models.all_learned(there)]]).to(device))[0]
    away = quantisation.weight_bytes(there)
    del there
    less = laid(full, how).cpu()
    less = quantisation.keep_blocks_home(less, device)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    got = models.trained(less, models.packed(less, [[models.all_learned(less)]]).to(device))[0]
    assert torch.cuda.max_memory_allocated() - before < away / 3
    assert far({n: p.float() for n, p in want.items()}, {n: p.float() for n, p in got.items()}) < (
        0.05 if how else 1e-5
    )


PROMPTS = ("a small red circle", "a large blue square", "a small green triangle")


@pytest.fixture(scope="module")
def mini() -> Pipeline:
    """Return the embedded model."""
    return braid.load("mini", "cpu")


@pytest.mark.parametrize(("how", "most"), [("int8", 0.02), ("bfloat16", 0.02)])
def test_the_embedded_model_reads_what_it_read(mini, how, most):
    pictures = [p[1] for p in mini.batch([[t, Hole("image")] for t in PROMPTS], steps=16)]
    less = Pipeline(laid(mini.braid, how), mini.experiment)
    asked = [[p, Hole("text")] for p in pictures]
    full, quick = ([out[1] for out in pipe.batch(asked, temperature=0.0)] for pipe in (mini, less))
    assert full == quick
    assert far(*(_read(pipe, pictures[0]) for pipe in (mini, less))) < most


@torch.no_grad()
def _read(pipe: Pipeline, picture) -> dict[str, Tensor]:
    """Return the logits of a caption and a picture, both clean."""
    from braid.layout import pack

    batch = pack([[pipe.spans([picture, PROMPTS[0]])]], pipe.braid.placements, twins=False)
    ones = {n: torch.ones(len(t)) for n, t in batch.tokens.items()}
    return {n: p.float() for n, p in pipe.braid(batch.tokens, ones, batch.layout).items()}


def test_int8_needs_a_third_of_the_embedded_models_memory(mini):
    assert (
        quantisation.weight_bytes(laid(mini.braid, "int8"))
        < quantisation.weight_bytes(mini.braid) * 0.32
    )


def test_mistakes_are_named_before_weights_are_read(tmp_path, monkeypatch):
    with pytest.raises(BraidError, match="unknown quantise 'int9'; did you mean 'int8'"):
        quantisation.check("int9")
    with pytest.raises(BraidError, match="unknown dtype 'bf16'"):
        quantisation.dtype_of("bf16")
    with pytest.raises(BraidError, match="unknown dtype 'torch.int8'"):
        quantisation.dtype_of(torch.int8)
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(BraidError, match=r"pip install \"braid-models\[quantised\]\""):
        quantisation.check("int8")
