"""Nats of documents: exact for next-token strands, otherwise an upper bound, and named so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from braid.braid import Braid
from braid.errors import BraidError
from braid.generation.context import Transform
from braid.layout import Batch, Document, Span, pack
from braid.modalities import Modality
from braid.processes import Noised, Process
from braid.randomness import Keys, derive, uniform


@dataclass(frozen=True)
class Nats:
    """Negative log-likelihoods.

    Attributes:
        value: [documents] nats of each document's target span.
        kind: "exact", "bound" (an upper bound, estimated from random times) or "none" (the process
            has neither; value is NaN).
        symbols: [documents] number of symbols or numbers that were scored; of a text up to the one
            that closes it, whatever canvas it stands on.
        greedy: [documents] whether each scored symbol is the likeliest after those before it; None
            where the likelihood is not exact.
    """

    value: Tensor
    kind: Literal["exact", "bound", "none"]
    symbols: Tensor
    greedy: Tensor | None = None


@torch.no_grad()
def nats(
    braid: Braid,
    documents: Sequence[Document],
    times: int = 16,
    seed: int = 0,
    rows: int = 256,
    samples: Sequence[int] | None = None,
    transform: Transform | None = None,
) -> Nats:
    """Score the target spans of documents, given their other spans.

    Args:
        braid: the model.
        documents: each with targets of one modality, the same in all of them.
        times: random times a document for a bound; one in each of as many equal slices of time.
        seed: of times and noise.
        rows: documents in a batch.
        samples: number of the random stream of each document, the same for those that shall have
            the same times and noise; None counts them.
        transform: is called in the transformer's place.
    """
    if times < 1:
        raise BraidError(f"times {times} must be at least 1")
    names = {s.modality for d in documents for s in d if bool(s.targets.any())}
    if len(names) != 1:
        raise BraidError(
            "likelihood needs documents with targets of one modality, got "
            f"{sorted(names) or 'none'}; score the parts one by one"
        )
    (name,) = names
    process = braid.strand(name).process
    if process is None:
        raise BraidError(f"modality {name!r} is read only; it has no likelihood")
    values, wrong, kind = [], [], "exact" if process.exact else "bound"
    streams = range(len(documents)) if samples is None else samples
    for first in range(0, len(documents), rows):
        chunk = documents[first : first + rows]
        batch = pack(
            [[d] for d in chunk],
            braid.placements,
            samples=[[streams[first + i]] for i in range(len(chunk))],
            twins=braid.rule.cacheable,
        ).to(braid.device)
        if process.exact:
            value, missed = _exact(braid, batch, name, process, transform)
            wrong.append(missed.cpu())
        else:
            value = _bound(braid, batch, name, process, times, seed, transform)
        if value is None:
            kind, value = "none", torch.full((len(chunk),), torch.nan)
        values.append(value.cpu())
    modality = braid.strand(name).modality
    symbols = torch.tensor(
        [sum(_symbols(s, modality) for s in d if s.modality == name) for d in documents]
    )
    return Nats(torch.cat(values), kind, symbols, torch.cat(wrong) == 0 if wrong else None)


def _symbols(span: Span, modality: Modality) -> int:
    """Count what is scored of a span, without the padding behind what closes it."""
    targets = span.targets
    if modality.closes:
        ends = modality.finished(span.tokens[:, None])
        targets = targets & (ends.cumsum(0) - ends.long() == 0)  # none before it
    return int(targets.sum()) * max(1, span.tokens[0].numel())


def _predict(
    braid: Braid, batch: Batch, name: str, noised: Noised, transform: Transform | None
) -> Tensor:
    tokens, time = (
        dict(batch.tokens),
        {n: torch.ones(len(x), device=x.device) for n, x in batch.tokens.items()},
    )
    tokens[name], time[name] = noised.noisy, noised.time
    return braid(tokens, time, batch.layout, transform=transform)[name]


def _sum(value: Tensor, batch: Batch, name: str) -> Tensor:
    """Add the nats of target tokens over each row, [B]."""
    B, L = batch.layout.document.shape
    row = batch.layout.slots[name] // L
    value = torch.where(batch.target[name], value.double(), 0.0)
    return torch.zeros(B, dtype=torch.float64, device=value.device).index_add(0, row, value)


def _exact(
    braid: Braid, batch: Batch, name: str, process: Process, transform: Transform | None
) -> tuple[Tensor, Tensor]:
    """Return each row's nats, and how many of its symbols are not the likeliest."""
    clean = batch.tokens[name]
    noised = Noised(clean, clean, clean, torch.ones(len(clean), device=clean.device))
    prediction = _predict(braid, batch, name, noised, transform)
    value = process.bound(prediction, noised)
    assert value is not None, "an exact process has a likelihood"
    missed = process.belief(prediction, clean, 1.0) != clean
    return _sum(value, batch, name), _sum(missed.view(len(clean), -1).any(1), batch, name)


def _bound(
    braid: Braid,
    batch: Batch,
    name: str,
    process: Process,
    times: int,
    seed: int,
    transform: Transform | None,
) -> Tensor | None:
    """Average the integrand over stratified times up to the horizon; add the terminal term."""
    clean, target = batch.tokens[name], batch.target[name]
    space = braid.strand(name).modality.space
    # one time a document: spans that see each other, noised apart, are on no path of the process
    B, L = batch.layout.document.shape
    row = batch.layout.slots[name] // L
    place = torch.where(target, torch.arange(len(clean), device=clean.device), len(clean) - 1)
    first = place.new_full((B,), len(clean) - 1).scatter_reduce(0, row, place, "amin")
    offset = Keys(derive(batch.span_key[name][first[row]], seed, "likelihood"))
    total = None
    for k in range(times + 1):
        keys = Keys(derive(batch.token_key[name], seed, "likelihood noise", k))
        if k < times:
            time = (k + uniform(offset, (len(clean),))) / times * process.horizon
        else:
            time = torch.full((len(clean),), process.horizon, device=clean.device)
        time = torch.where(target, time, 1.0)
        noised = process.corrupt(space, clean, time, keys)
        prediction = _predict(braid, batch, name, noised, transform)
        value = (
            process.bound(prediction, noised, keys)
            if k < times
            else process.terminal(prediction, noised)
        )
        if value is None:
            return None
        value = _sum(value, batch, name) * (process.horizon / times if k < times else 1.0)
        total = value if total is None else total + value
    return total
