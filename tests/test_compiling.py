"""Compiled blocks compute what the plain ones do, in training and in generation."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

import braid
from braid import Hole, Pipeline, compiling, loading
from braid.errors import BraidError
from braid.training import Trainer
from braid.transformer.transformer import Call
from tests.laws import models

CPU = torch.device("cpu")


def is_compiled(model: torch.nn.Module) -> bool:
    """Return whether all blocks go through torch.compile."""
    blocks = model.get_submodule("transformer.blocks").children()
    return all(block._compiled_call_impl is not None for block in blocks)


def is_frozen(model: torch.nn.Module) -> bool:
    """Return whether the transformer goes through torch.compile."""
    return "forward" in vars(model.get_submodule("transformer"))


def compiler_is_there() -> bool:
    try:
        compiling.check(CPU)
    except BraidError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not compiler_is_there(), reason="needs a C++ compiler")


def test_a_missing_compiler_is_named_before_a_model_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BraidError, match=r"'no-such-compiler' .* CXX"):
        loading.load(tmp_path / "nothing", "cpu", compile=True)
    made = models.experiment("fudoki", "train.compile=true")
    with pytest.raises(BraidError, match=r"'no-such-compiler' .* leave out compile"):
        Trainer(made, tmp_path / "run", device="cpu")
    assert not any((tmp_path / "run").iterdir())


def test_the_compiler_in_cxx_is_taken(monkeypatch):
    monkeypatch.setenv("CXX", shutil.which("true") or "true")
    compiling.check(CPU)


def test_blocks_that_come_and_go_are_not_compiled(tmp_path):
    with pytest.raises(BraidError, match="offload or compile"):
        loading.load(tmp_path / "nothing", "cpu", compile=True, offload=True)


def test_weights_in_8_bits_are_not_unfolded_into_constants(tmp_path):
    with pytest.raises(BraidError, match=r'from int8 again; drop quantise, or use .*"blocks"'):
        loading.load(tmp_path / "nothing", "cpu", compile="frozen", quantise="int8")


def test_another_way_to_compile_is_refused(tmp_path):
    with pytest.raises(BraidError, match="unknown compile 'froze'; did you mean 'frozen'"):
        loading.load(tmp_path / "nothing", "cpu", compile="froze")


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("paradigm", ["fudoki", "transfusion"])
def test_a_compiled_step_has_the_plain_loss_and_gradient(paradigm):
    plain = models.stirred(paradigm, torch.float32).train()
    compiled = copy.deepcopy(plain)
    compiling.compile_blocks(compiled)
    assert is_compiled(compiled)
    assert not is_compiled(plain)
    for lengths in ((4, 4), (3, 5), (6, 2)):  # the second and third length are symbols of a graph
        losses = []
        for model in (plain, compiled):
            batch = models.packed(model, [[models.all_learned(model, lengths=lengths)]])
            model.zero_grad()
            losses.append(model.loss(batch, 0).total)
            losses[-1].backward()
        torch.testing.assert_close(losses[1], losses[0])
        for (name, a), b in zip(plain.named_parameters(), compiled.parameters(), strict=True):
            assert (a.grad is None) == (b.grad is None), name
            if a.grad is not None and b.grad is not None:
                torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-4, msg=name)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("paradigm", "how"),
    [("fudoki", "blocks"), ("transfusion", "blocks"), ("transfusion", "frozen")],
)
def test_a_compiled_model_generates_what_the_plain_one_does(paradigm, how):
    plain = models.pipeline(paradigm)
    compiled = Pipeline(copy.deepcopy(plain.braid), plain.experiment)
    compiling.KINDS[how](compiled.braid)
    assert is_compiled(compiled.braid) or is_frozen(compiled.braid)
    assert not is_compiled(plain.braid) and not is_frozen(plain.braid)
    for words in ("row", "a row of words"):
        for name in models.drawn(paradigm):
            parts = [words, Hole(name)]
            spans = [pipe.spans(pipe(parts, steps=3, seed=1)) for pipe in (plain, compiled)]
            for a, b in zip(*spans, strict=True):
                torch.testing.assert_close(b.tokens, a.tokens, rtol=1e-3, atol=1e-3)


@needs_compiler
@pytest.mark.slow
def test_the_embedded_model_is_loaded_compiled():
    pipe = braid.load("mini", "cpu", compile=True)
    assert is_compiled(pipe.braid)
    parts = ["a red circle", Hole("image")]
    made = pipe(parts, steps=4, seed=0)[1]
    assert made.tobytes() == braid.load("mini", "cpu")(parts, steps=4, seed=0)[1].tobytes()


@needs_compiler
@pytest.mark.slow
def test_frozen_models_of_one_shape_keep_their_own_weights():
    def drawn(pipe):
        return pipe.spans(pipe(["row", Hole("image")], steps=2, seed=1))[-1].tokens

    one, other = (models.pipeline("transfusion") for _ in range(2))
    with torch.no_grad():
        for p in other.braid.parameters():
            p.mul_(1.5)
    plain = [drawn(pipe) for pipe in (one, other)]
    for pipe in (one, other):
        compiling.freeze(pipe.braid)
    assert not torch.allclose(plain[0], plain[1], rtol=1e-2, atol=1e-2)
    for pipe, tokens in zip((one, other), plain, strict=True):
        torch.testing.assert_close(drawn(pipe), tokens, rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        next(other.braid.transformer.parameters()).mul_(2)
    torch.testing.assert_close(drawn(one), plain[0], rtol=1e-3, atol=1e-3)
    with pytest.raises(BraidError, match="a weight changed .* load the model again"):
        drawn(other)


@needs_compiler
@pytest.mark.slow
def test_a_frozen_model_still_learns_and_shares_passes():
    plain = models.stirred("transfusion", torch.float32)
    frozen = copy.deepcopy(plain)
    compiling.freeze(frozen)
    batch = models.packed(plain, [[models.all_learned(plain)]])
    losses = [model.loss(batch, 0).total for model in (plain, frozen)]
    assert losses[0] == losses[1]
    losses[1].backward()
    assert all(p.grad is not None for p in frozen.transformer.parameters())
    width = plain.transformer.config.width
    calls = [Call(torch.randn(1, n, width), torch.randint(9, (1, n, 3)), None) for n in (3, 5)]
    with torch.no_grad():
        passes = [model.transformer.together(calls) for model in (plain, frozen)]
    for (a, _), (b, _) in zip(*passes, strict=True):
        assert torch.equal(a, b)  # to the bit: code of its own would add in another order


@needs_compiler
@pytest.mark.slow
def test_weights_that_learn_are_not_frozen_beside_a_frozen_model():
    frozen, learning = (models.pipeline("transfusion") for _ in range(2))
    parts = ["row", Hole("image")]
    compiling.freeze(frozen.braid)
    compiling.compile_blocks(learning.braid)
    for pipe in (frozen, learning):
        pipe(parts, steps=2, seed=1)
    with torch.no_grad():
        for p in learning.braid.parameters():
            p.mul_(1.5)
    plain = Pipeline(copy.deepcopy(learning.braid), learning.experiment)
    for block in plain.braid.transformer.blocks:
        block._compiled_call_impl = None
    made = [pipe.spans(pipe(parts, steps=2, seed=1))[-1].tokens for pipe in (plain, learning)]
    torch.testing.assert_close(made[1], made[0], rtol=1e-3, atol=1e-3)
