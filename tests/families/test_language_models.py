"""Converted language models give the logits and the tokens that transformers gives."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import braid
from braid import Hole, config
from braid.generation import Known, Opening, generate
from braid.layout import Span, pack
from braid.pipeline import Pipeline
from tests.families.made import CONFIGS, MASK, dream, llada, released, tokenizer

pytest.importorskip("transformers")

PROMPTS = ("the cat sat", "a", "naïve café, one symbol after the other: 猫")


def random_ids(lengths: list[int], seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 300, (n,), generator=rng) for n in lengths]


def predictions(pipe: Pipeline, documents: list[Tensor]) -> list[Tensor]:
    """Predictions of every token, all documents packed into one row."""
    batch = pack([[[Span("text", ids)] for ids in documents]], pipe.braid.placements, twins=False)
    with torch.no_grad():
        out = pipe.braid(
            batch.tokens, {"text": torch.ones(len(batch.tokens["text"]))}, batch.layout
        )
    return list(out["text"].split([len(ids) for ids in documents]))


def until_end(ids: list[int]) -> list[int]:
    return ids[: ids.index(1)] if 1 in ids else ids


def seeing_all(model, ids: Tensor) -> Tensor:
    """Logits [n, V] of a network of transformers whose tokens see each other."""
    nothing_hidden = torch.zeros(1, 1, len(ids), len(ids))
    return model(input_ids=ids[None], attention_mask=nothing_hidden, use_cache=False).logits[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(tmp_path, name):
    folder, model = released(tmp_path / "released", name)
    pipe = braid.load(folder, "cpu")
    documents = random_ids([90, 1, 17])
    for ids, ours in zip(documents, predictions(pipe, documents), strict=True):
        theirs = model(input_ids=ids[None]).logits[0]
        assert theirs.std() > 0.5  # the network does something
        # token i is predicted at token i - 1
        assert len(ids) == 1 or (ours[1:] - theirs[:-1]).abs().max() <= 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_generation_is_that_of_transformers(tmp_path, name):
    folder, model = released(tmp_path / "released", name)
    pipe = braid.load(folder, "cpu")
    given = random_ids([9, 1, 30], seed=1)
    hole = Opening("text", (32,))
    done = generate(pipe.braid, [Known("text", given), hole], torch.arange(3))
    alone = generate(pipe.braid, [Known("text", given[1:2]), hole], torch.zeros(1).long())
    width = max(map(len, given))
    left = [torch.nn.functional.pad(ids, (width - len(ids), 0), value=1) for ids in given]
    seen = torch.stack([torch.arange(width) >= width - len(ids) for ids in given]).long()
    options = {"max_new_tokens": 32, "do_sample": False, "pad_token_id": 1}
    theirs = model.generate(torch.stack(left), attention_mask=seen, **options)[:, width:].tolist()
    for ours, its in zip(done.tokens[1].tolist(), theirs, strict=True):
        assert until_end(ours) == until_end(its)
    assert until_end(alone.tokens[1][0].tolist()) == until_end(theirs[1])


@pytest.mark.slow
@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("name", ["llama, tied", "qwen3"])
def test_a_hole_goes_on_where_the_prompt_ends(tmp_path, name, begins):
    folder, model = released(tmp_path / "released", name, begins)
    pipe = braid.load(folder, "cpu")
    together = pipe.batch([[p, Hole("text", 32)] for p in PROMPTS], temperature=0)
    for prompt, (same, text) in zip(PROMPTS, together, strict=True):
        ids = tokenizer().encode(prompt, add_special_tokens=False).ids
        ids = torch.tensor([[0, *ids] if begins else ids])
        theirs = model.generate(ids, max_new_tokens=32, do_sample=False)[0, ids.shape[1] :]
        assert same == prompt
        assert text == tokenizer().decode(theirs.tolist(), skip_special_tokens=True)
        assert text == pipe([prompt, Hole("text", 32)], temperature=0)[1]


def test_a_trajectory_numbers_the_parts_that_were_given(tmp_path):
    pipe = braid.load(released(tmp_path / "released", "llama")[0], "cpu")
    made = pipe(["the cat", Hole("text", 4)], temperature=0, trajectory=True)
    assert [frame.part for frame in made.trajectory] == [1, 1, 1, 1]


@pytest.mark.parametrize("begins", [True, False])
def test_the_likelihood_of_a_text_is_that_of_transformers(tmp_path, begins):
    folder, model = released(tmp_path / "released", "llama", begins)
    pipe = braid.load(folder, "cpu")
    ids = tokenizer().encode("the cat", add_special_tokens=False).ids
    more = tokenizer().encode(" sat", add_special_tokens=False).ids
    whole = torch.tensor([*([0] if begins else []), *ids, *more, 1])  # it ends there
    logits = model(input_ids=whole[None]).logits[0].log_softmax(-1)
    n = len(more) + 1
    wanted = -logits[-n - 1 : -1].gather(1, whole[-n:, None]).sum()
    scored = pipe.score(["the cat", " sat"])
    assert scored[-1].kind == "exact"
    assert float(scored[-1].value.sum()) == pytest.approx(float(wanted), abs=1e-3)


def test_a_symbol_that_ends_a_text_ends_generation(tmp_path):
    folder, model = released(tmp_path / "released", "llama")
    ids = random_ids([5], seed=3)[0]
    told = model.generate(ids[None], max_new_tokens=8, do_sample=False)[0, 5:].tolist()
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": [1, {told[3]}]}}')
    pipe = braid.load(folder, "cpu")
    parts = [Known("text", [ids]), Opening("text", (8,))]
    assert generate(pipe.braid, parts, torch.zeros(1).long()).tokens[1][0].tolist() == told[:4]


@pytest.mark.parametrize("written", [llada, dream])
def test_a_masked_model_gives_the_logits_of_a_network_that_sees_all(tmp_path, written):
    folder, model = written(tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    clean = random_ids([40, 6])
    masked = [torch.arange(len(ids)) % 3 == 1 for ids in clean]
    noisy = [
        torch.where(m, pipe.braid.strand("text").modality.space.size, ids)
        for m, ids in zip(masked, clean, strict=True)
    ]
    shift = pipe.braid.strand("text").shift
    assert shift == (written is dream)
    for m, ids, ours in zip(masked, clean, predictions(pipe, noisy), strict=True):
        theirs = seeing_all(model, torch.where(m, MASK, ids))
        assert (ours[shift:] - theirs[: len(ids) - shift]).abs().max() <= 1e-4


def low_confidence(model, prompt: Tensor, length: int, block: int, steps: int) -> Tensor:
    """Decode as LLaDA's authors describe it (arXiv:2502.09992, algorithm 5 and appendix B.4).

    Block after block; at each step all masked symbols are guessed, and of those in the block the
    ones that the network is surest of stay: as many at each step, the remainder at the first ones.
    """
    x = torch.cat([prompt, torch.full((length,), MASK)])
    each = steps // (length // block)
    for first in range(len(prompt), len(x), block):
        inside = torch.zeros(len(x), dtype=torch.bool)
        inside[first : first + block] = True
        stay = [block // each + (i < block % each) for i in range(each)]
        for count in stay:
            probability = seeing_all(model, x).softmax(-1)
            sure, guess = probability.max(-1)
            assert MASK not in guess[x == MASK]  # the published code would mask it again
            sure = torch.where(inside & (x == MASK), sure, -torch.inf)
            chosen = sure.topk(count).indices
            x[chosen] = guess[chosen]
    return x[len(prompt) :]


@pytest.mark.parametrize("steps", [24, 12, 9, 3])
def test_low_confidence_decoding_gives_the_published_tokens(tmp_path, steps):
    folder, model = llada(tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    prompts = random_ids([7, 12, 3], seed=4)
    sampler = config.make_sampler(pipe.experiment.strands["text"])
    sampler = dataclasses.replace(sampler, size_of_block=8, steps=steps)
    parts = [Known("text", prompts), Opening("text", (24,))]
    done = generate(pipe.braid, parts, torch.arange(3), {1: sampler})
    for row, prompt in enumerate(prompts):
        wanted = low_confidence(model, prompt, 24, 8, steps)
        assert done.tokens[1][row].tolist() == wanted.tolist()


def test_the_published_defaults_are_those_of_a_converted_model(tmp_path):
    folder, model = llada(tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    made = pipe(["the cat sat", Hole("text", 32)], steps=16)
    assert made.calls == 16
    ids = torch.tensor(tokenizer().encode("the cat sat", add_special_tokens=False).ids)
    wanted = low_confidence(model, ids, 32, 32, 16).tolist()
    assert made[1] == tokenizer().decode(until_end(wanted), skip_special_tokens=True)


@pytest.mark.parametrize("written", [llada, dream])
def test_a_masked_model_fills_a_hole_before_a_text(tmp_path, written):
    pipe = braid.load(written(tmp_path / "released")[0], "cpu")
    first, text, last = pipe(["the cat", Hole("text", 8), "on the mat"], temperature=0)
    assert (first, last) == ("the cat", "on the mat") and isinstance(text, str)
