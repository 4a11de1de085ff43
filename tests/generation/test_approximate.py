"""Caches that are not exact: what they leave out, and where they are exact after all."""

from __future__ import annotations

import pytest
import torch

from braid.errors import BraidError
from braid.generation import BlockCache, Place, RereadContext
from braid.parts import Hole
from braid.samplers import Confidence
from tests.laws import models

BLOCKS = Confidence(steps=4, size_of_block=4, temperature=0.0)


def contexts(block: BlockCache, rows: int = 3):
    """Return a block's context and the exact one, after texts of different lengths."""
    braid = models.stirred("mmada")
    made = [block(braid, rows), RereadContext(braid, rows)]
    n = 5
    valid = torch.tensor([[True] * n, [True] * 3 + [False] * 2, [True] * 4 + [False]])
    tokens = torch.randint(0, 8, (rows, n), generator=torch.Generator().manual_seed(1))
    position = torch.zeros(rows, n, 3, dtype=torch.int64)
    position[..., 0] = torch.arange(n)
    for context in made:
        context.commit("text", tokens, Place(0, position, valid))
    strand = braid.strand("image")
    shape = strand.modality.shape
    grid = strand.modality.positions(shape).expand(rows, -1, -1).clone()
    grid[..., 0] += valid.sum(1)[:, None]
    place = Place(1, grid, torch.ones(grid.shape[:2], dtype=torch.bool))
    size = strand.modality.space.size
    groups = strand.modality.space.groups
    x = (
        torch.full((rows, grid.shape[1], groups), size)
        if groups > 1
        else torch.full(grid.shape[:2], size)
    )
    return made[0], made[1], x, place


@pytest.mark.parametrize("kind", ["dual", "prefix"])
def test_a_block_read_again_without_change_is_the_exact_reading(kind):
    approximate, exact, x, place = contexts(BlockCache(2, kind))
    time = torch.zeros(x.shape[:2])
    first, again = (approximate.predict("image", x, time, place) for _ in range(2))
    torch.testing.assert_close(first, exact.predict("image", x, time, place))
    torch.testing.assert_close(again, first, rtol=1e-9, atol=1e-9)


def test_only_the_block_is_run(monkeypatch):
    approximate, _, x, place = contexts(BlockCache(2))
    time, run = torch.zeros(x.shape[:2]), []
    hook = approximate.braid.transformer.register_forward_hook(
        lambda module, given, out: run.append(given[0].shape[1])
    )
    for _ in range(3):
        approximate.predict("image", x, time, place)
    x[:, :2] = 0  # the next block begins
    approximate.predict("image", x, time, place)
    hook.remove()
    whole = x.shape[1] + 5
    assert run == [whole, 2, 2, whole]


def test_refreshed_at_every_prediction_it_is_exact():
    pipe = models.pipeline("mmada")
    document = ["a red square", Hole("image")]
    exact = pipe(document, sampler=BLOCKS, seed=3)
    cached = pipe(document, sampler=BLOCKS, seed=3, cache=BlockCache(4, refresh=1))
    assert exact[1].tobytes() == cached[1].tobytes()


@pytest.mark.parametrize("sampler", [None, "jump", {"kind": "confidence", "size_of_block": 2}])
def test_a_sampler_that_leaves_the_block_at_hand_is_refused(sampler):
    with pytest.raises(
        BraidError, match="blocks of 4 does not serve .*of 'image'.*size_of_block=4"
    ):
        models.pipeline("mmada")(["row", Hole("image")], sampler=sampler, cache="dual:4")


@pytest.mark.parametrize("paradigm", ["fudoki", "chameleon"])
def test_what_it_does_not_serve_is_exact(paradigm):
    pipe = models.pipeline(paradigm)
    document = ["a red square", Hole("image")]
    exact, cached = (pipe(document, steps=3, seed=3, cache=c) for c in (None, "dual:4"))
    assert exact[1].tobytes() == cached[1].tobytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dual", "write it as dual:16"),
        ("dual:x", "write it as dual:16"),
        ("twin:4", "unknown kind of cache 'twin'"),
        ("dual:0", "block 0 must be at least 1"),
        ("prefix:4:0", "refresh 0 must be at least 1"),
    ],
)
def test_what_is_no_cache_is_refused(text, said):
    with pytest.raises(BraidError, match=said):
        BlockCache.parse(text)
    assert BlockCache.parse("prefix:4:2") == BlockCache(4, "prefix", 2)
