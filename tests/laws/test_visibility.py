"""Law: a prediction depends on exactly those tokens that its rule shows it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from braid import rules
from braid.braid import Braid
from braid.layout import Batch, Layout, Placement, Span, pack
from braid.rules import Fields
from tests.laws import models


def sees(rule: str, layout: Layout, b: int, query: int, key: int) -> bool:
    """Say in plain words whether a token sees another of its row."""
    document, span = layout.document[b].tolist(), layout.span[b].tolist()
    if query == key:
        return True
    if document[query] != document[key] or document[query] < 0:
        return False
    if rule == "full":
        return True
    if span[query] == span[key]:
        return key < query or (rule == "spans" and not layout.causal[b, query])
    return key < query and not layout.private[b, key]


def expected(rule: str, batch: Batch, slot: int, shift: int) -> list[bool]:
    """Return which tokens of the whole batch the prediction of one may depend on, by slot."""
    B, L = batch.layout.document.shape
    b, query = divmod(slot - shift, L)
    document = batch.layout.document.flatten()
    reach = [False] * (B * L)
    if slot % L < shift or document[slot - shift] != document[slot]:
        return reach  # the first token of a document is read from the start vector
    for key in range(L):
        reach[b * L + key] = sees(rule, batch.layout, b, query, key)
    return reach


@torch.no_grad()
def depends(braid: Braid, batch: Batch) -> dict[str, Tensor]:
    """Change one token after another; return which predictions change, by name, [N, B * L]."""
    time = {n: torch.full((len(x),), 0.5) for n, x in batch.tokens.items()}
    before = braid(batch.tokens, time, batch.layout)
    out = {
        n: torch.zeros(len(x), batch.layout.document.numel(), dtype=torch.bool)
        for n, x in before.items()
    }
    for name, slots in batch.layout.slots.items():
        for i, slot in enumerate(slots.tolist()):
            tokens = dict(batch.tokens)
            tokens[name] = tokens[name].clone()
            other = tokens[name][i] + 1
            size = getattr(braid.strand(name).modality.space, "size", None)
            tokens[name][i] = other if size is None else other % size
            for n, after in braid(tokens, time, batch.layout).items():
                change = (after - before[n]).abs().flatten(1).amax(1)
                out[n][:, slot] = change > 1e-9
                assert not ((change > 0) & (change <= 1e-9)).any(), (
                    "a change is plain or none at all"
                )
    return out


@pytest.mark.parametrize(("paradigm", "rule"), models.RULED)
def test_a_prediction_depends_on_what_it_sees_and_on_nothing_else(paradigm, rule):
    braid = models.stirred(models.experiment(paradigm, f"rule={rule}"))
    name = models.drawn(paradigm)[-1]
    rows = [
        [models.all_learned(braid, 0, (2, 2)), models.pair(braid, name, 1, n=2)],
        [models.pair(braid, "text", 2, n=2)],
    ]
    batch = models.packed(braid, rows)
    changed = depends(braid, batch)
    for n, slots in batch.layout.slots.items():
        if n in changed:
            shift = braid.strand(n).shift
            plain = [expected(rule, batch, slot, shift) for slot in slots.tolist()]
            assert changed[n].tolist() == plain


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_no_prediction_of_a_causal_strand_sees_its_own_token(paradigm, name):
    braid = models.stirred(paradigm)
    batch = models.packed(braid, [[models.pair(braid, name)]])
    changed, slots = depends(braid, batch)[name], batch.layout.slots[name]
    own = changed[torch.arange(len(slots)), slots]
    assert (own == (not braid.strand(name).causal)).all()


@pytest.mark.parametrize("rule", models.RULES)
def test_a_dense_mask_equals_the_rule_in_words(rule):
    layout = mixed()
    B, L = layout.document.shape
    fields = Fields.of(layout)
    plain = [[[sees(rule, layout, b, q, k) for k in range(L)] for q in range(L)] for b in range(B)]
    assert rules.dense(rules.get(rule), fields, fields).tolist() == plain


@pytest.mark.parametrize("rule", models.RULES)
def test_the_cheap_forms_of_a_mask_stand_for_the_dense_one(rule):
    found = rules.get(rule)
    for layout, _ in solid():
        fields, L = Fields.of(layout), layout.document.shape[1]
        dense, cheap = rules.dense(found, fields, fields), rules.visible(found, layout)
        if cheap is None:
            assert dense.all()
        elif isinstance(cheap, str):
            assert (dense == torch.ones(L, L).tril().bool()).all()
        else:
            assert (cheap == dense).all()


def test_every_cheap_form_is_used():
    forms = {
        str(rules.visible(rules.get(r), layout)) if kind == "rows" else "dense"
        for r in models.RULES
        for layout, kind in solid()
    }
    assert {"None", "causal"} <= forms


def test_padding_sees_itself_alone():
    layout = mixed()
    padding = layout.document < 0
    assert padding.any()
    for rule in rules.RULES.values():
        mask = rules.dense(rule, Fields.of(layout), Fields.of(layout))
        assert (mask.sum(-1)[padding] == 1).all()
        assert (mask.sum(1)[padding] == 1).all()


PLACEMENTS = {
    "line": Placement(lambda shape: torch.zeros(shape[0], 3, dtype=torch.int64), causal=True),
    "grid": Placement(lambda shape: torch.zeros(shape[0], 3, dtype=torch.int64)),
    "blocks": Placement(
        lambda shape: torch.zeros(shape[0], 3, dtype=torch.int64), block=lambda n: min(2, n)
    ),
}


def piece(name: str, n: int, target: bool = True) -> Span:
    """Return a span of zeros."""
    return Span(name, torch.zeros(n, dtype=torch.int64), target)


def mixed() -> Layout:
    """Return the layout of `mixed_batch`."""
    return mixed_batch().layout


def mixed_batch() -> Batch:
    """Return rows with causal, parallel and twinned spans, two documents in one, and padding."""
    first = [piece("line", 3), piece("grid", 2), piece("blocks", 4), piece("line", 2)]
    second = [piece("grid", 2, False), piece("line", 2)]
    return pack([[first, second], [second]], PLACEMENTS)


def solid() -> list[tuple[Layout, str]]:
    """Return layouts whose rows are whole documents: of causal tokens, of others, and of twins."""
    documents = [
        [piece("line", 4)],
        [piece("grid", 4)],
        [piece("blocks", 4)],
        [piece("line", 2), piece("grid", 2)],
    ]
    kinds = ["rows", "rows", "twins", "mixed"]
    return [
        (pack([[d], [d]], PLACEMENTS).layout, kind)
        for d, kind in zip(documents, kinds, strict=True)
    ]
