"""Law: decoding sees what training saw, token by token, block by block, in any context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from braid.braid import Braid
from braid.generation import CachedContext, Context, Place, RereadContext
from braid.layout import Document
from tests.laws import models

Make = Callable[[Braid, int], Context]
EXACT = {"rtol": 0, "atol": 1e-10}


@dataclass(frozen=True)
class Seen:
    """What a training step read of one span, and what it predicted for its targets."""

    tokens: Tensor  # [n, ...]
    time: Tensor  # [n]
    prediction: Tensor  # [targets, ...]


def taught(braid: Braid, document: Document, seed: int = 0) -> list[Seen]:
    """Train on one document; return what was seen of each of its spans."""
    batch = models.packed(braid, [[document]])
    predictions, noised = models.trained(braid, batch, seed)
    done = dict.fromkeys(braid.strands, 0)
    out = []
    for s in document:
        here, time = s.tokens.clone(), torch.ones(len(s))
        n, target = s.modality, s.targets
        if not bool(target.any()):
            out.append(Seen(here, time, torch.empty(0)))
            continue
        learned = batch.target[n].nonzero()[:, 0][done[n] : done[n] + int(target.sum())]
        done[n] += len(learned)
        here[target], time[target] = noised[n].noisy[learned], noised[n].time[learned]
        out.append(Seen(here, time, predictions[n][learned]))
    return out


def stack(braid: Braid, rows: Sequence[Tensor], fill: float = 0) -> tuple[Tensor, Tensor]:
    """Pad runs of tokens to one length; return them and which are real, [B, n, ...] and [B, n]."""
    n = max(len(r) for r in rows)
    out = rows[0].new_full((len(rows), n, *rows[0].shape[1:]), fill)
    valid = torch.zeros(len(rows), n, dtype=torch.bool)
    for b, row in enumerate(rows):
        out[b, : len(row)], valid[b, : len(row)] = row, True
    return out, valid


@torch.no_grad()
def decoded(
    braid: Braid, documents: Sequence[Document], make: Make, seed: int = 0, junk: float = 0
) -> list[list[Tensor]]:
    """Predict the targets of documents, in one batch, through a context, as [row][span].

    `junk` is what stands in padding.
    """
    seen = [taught(braid, d, seed) for d in documents]
    context = make(braid, len(documents))
    spans = range(len(documents[0]))
    learned = [bool(s.targets.any()) for s in documents[0]]
    offset = [torch.tensor([sum(len(s) for s in d[:k]) for d in documents]) for k in spans]
    out = [[torch.empty(0)] * len(spans) for _ in documents]
    for k in spans if braid.rule.cacheable else sorted(spans, key=lambda k: learned[k]):
        strand = braid.strand(documents[0][k].modality)
        name, modality, process = strand.modality.name, strand.modality, strand.process
        clean, valid = stack(braid, [d[k].tokens for d in documents], junk)
        state, time = (
            stack(braid, [getattr(s[k], f) for s in seen], junk)[0] for f in ("tokens", "time")
        )
        target, _ = stack(braid, [d[k].targets for d in documents])
        position = stack(braid, [modality.positions(d[k].shape or ()) for d in documents])[0]
        position[..., 0] += offset[k][:, None]
        n = clean.shape[1]
        block = process.block(n) if learned[k] and process is not None else n
        parts: list[list[Tensor]] = [[] for _ in documents]
        for first in range(0, n, block):
            at = slice(first, first + block)
            place = Place(k, position[:, at], valid[:, at])
            if learned[k]:
                x = torch.zeros_like(state[:, at]) if strand.causal else state[:, at]
                prediction = context.predict(name, x, time[:, at], place)
                for b, part in enumerate(parts):
                    part.append(prediction[b][(valid & target)[b, at]])
            context.commit(name, clean[:, at], place)
        if learned[k]:
            for b, part in enumerate(parts):
                out[b][k] = torch.cat(part)
    return out


def compare(braid: Braid, documents: Sequence[Document], make: Make, **tolerance: float) -> None:
    """Claim that decoding predicts what training predicted."""
    for document, row in zip(documents, decoded(braid, documents, make), strict=True):
        for span, (expected, got) in enumerate(zip(taught(braid, document), row, strict=True)):
            assert len(got) == document[span].targets.sum()
            torch.testing.assert_close(got, expected.prediction.view_as(got), **tolerance)


def contexts(braid: Braid) -> list[Make]:
    """Return the exact contexts of a model."""
    return [CachedContext, RereadContext] if braid.rule.cacheable else [RereadContext]


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_decoding_a_span_equals_training_on_it(paradigm, name):
    braid = models.stirred(paradigm)
    for make in contexts(braid):
        compare(braid, [models.pair(braid, name)], make, **EXACT)


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_decoding_equals_training_in_float32(paradigm, name):
    braid = models.stirred(paradigm, torch.float32)
    for make in contexts(braid):
        compare(braid, [models.pair(braid, name)], make, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_rows_of_different_lengths_are_decoded_as_alone(paradigm, name):
    braid = models.stirred(paradigm)
    lengths = (2, 4) if braid.strand(name).process.block(4) < 4 else (4, 4)
    learned = lengths if name == "text" else (3, 1)
    documents = [models.pair(braid, name, seed, n) for seed, n in enumerate([*learned, 4])]
    for make in contexts(braid):
        compare(braid, documents, make, **EXACT)


@pytest.mark.parametrize(("paradigm", "rule"), models.RULED)
def test_a_document_learned_at_once_is_decoded_span_after_span(paradigm, rule):
    braid = models.stirred(models.experiment(paradigm, f"rule={rule}"))
    if not braid.rule.cacheable:  # all is noised at once there, so there is no order
        documents = [models.pair(braid, name) for name in models.drawn(paradigm)]
    else:
        documents = [models.all_learned(braid), models.all_learned(braid, seed=1)]
    for document in documents:
        for make in contexts(braid):
            compare(braid, [document], make, **EXACT)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_documents_learned_at_once_are_decoded_in_ragged_batches(paradigm):
    braid = models.stirred(models.experiment(paradigm, "rule=spans"))
    lengths = [(4, 2), (2, 4), (6, 4)]
    documents = [models.all_learned(braid, i, n) for i, n in enumerate(lengths)]
    for make in contexts(braid):
        compare(braid, documents, make, **EXACT)


@pytest.mark.parametrize(("paradigm", "name"), models.PARALLEL)
def test_held_tokens_are_decoded_as_they_were_trained(paradigm, name):
    braid = models.stirred(paradigm)
    learned = torch.tensor([True, False, False, True])
    for make in contexts(braid):
        compare(braid, [models.pair(braid, name, learned=learned)], make, **EXACT)


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_what_follows_is_read_where_the_rule_looks_forward(paradigm, name):
    braid = models.stirred(paradigm)
    given, target = models.pair(braid, name)
    document = [target, given, given]
    if braid.rule.cacheable:
        document = [given, target, given]
    for make in contexts(braid):
        compare(braid, [document], make, **EXACT)


@pytest.mark.parametrize(("paradigm", "name"), models.CASES)
def test_what_stands_in_padding_does_not_matter(paradigm, name):
    braid = models.stirred(paradigm)
    documents = [models.pair(braid, name, 0, 4), models.pair(braid, name, 1, 2)]
    for make in contexts(braid):
        plain = decoded(braid, documents, make)
        for a, b in zip(plain, decoded(braid, documents, make, junk=1), strict=True):
            torch.testing.assert_close(a[1], b[1], **EXACT)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_a_prediction_writes_nothing(paradigm):
    braid = models.stirred(paradigm)
    name = models.drawn(paradigm)[0]
    document = models.pair(braid, name)
    seen = taught(braid, document)[-1]
    for make in contexts(braid):
        context = make(braid, 1)
        places = [
            Place(
                k,
                braid.strand(s.modality).modality.positions(s.shape)[None],
                torch.ones(1, len(s)).bool(),
            )
            for k, s in enumerate(document)
        ]
        context.commit(document[0].modality, document[0].tokens[None], places[0])
        with torch.no_grad():
            once, again = (
                context.predict(name, seen.tokens[None], seen.time[None], places[1])
                for _ in range(2)
            )
        torch.testing.assert_close(once, again, rtol=0, atol=0)


SHIFTED = [(p, r) for p, r in models.RULED if (p, "text") in models.PARALLEL]


@pytest.mark.parametrize(("paradigm", "rule"), SHIFTED)
def test_predictions_read_one_token_before_are_decoded_too(paradigm, rule):
    shift = "strands.text.process.shift=1"
    braid = models.stirred(models.experiment(paradigm, shift, f"rule={rule}"))
    documents = [models.pair(braid, "text", seed) for seed in range(2)]
    if braid.rule.cacheable:
        documents = [models.all_learned(braid, i, n) for i, n in enumerate([(4, 2), (2, 4)])]
    for make in contexts(braid):
        compare(braid, documents, make, **EXACT)
