"""Starting from a trained model instead of from random weights."""

from __future__ import annotations

from typing import Any

import torch

from braid.braid import Braid
from braid.config import Experiment
from braid.errors import BraidError
from braid.pipeline import Pipeline


def learned(source: Pipeline, experiment: Experiment) -> dict[str, Any]:
    """Return what the modalities of a trained model know that `experiment` describes alike.

    A vocabulary fitted anew would give the same words other symbols, and the trained rows of
    embeddings and heads would be lost.
    """
    theirs = source.experiment.strands
    return {
        name: source.braid.strands[name].modality.state()
        for name, strand in experiment.strands.items()
        if name in theirs and theirs[name].modality == strand.modality
    }


def start_from(braid: Braid, source: Braid, path: str) -> str:
    """Take the tensors of a trained model whose names and shapes agree with this one's.

    Args:
        braid: the model to fill.
        source: the trained one.
        path: its name, for messages.

    Returns:
        a line that says how many.

    Raises:
        BraidError: none agrees.
    """
    theirs, ours = source.state_dict(), braid.state_dict()
    own = tuple(  # what a symbol means differs
        f"strands.{name}.{part}."
        for name, strand in braid.strands.items()
        for part in ("embedder", "head")
        if name in source.strands
        and source.strands[name].modality.state() != strand.modality.state()
    )
    taken = [
        n
        for n, x in ours.items()
        if n in theirs and theirs[n].shape == x.shape and not n.startswith(own)
    ]
    if not taken:
        raise BraidError(f"train.start {path!r} has no tensor in common with this model")
    with torch.no_grad():
        for name in taken:
            ours[name].copy_(theirs[name])
    return (
        f"started from {path}: {len(taken)} tensors taken, {len(ours) - len(taken)} new, "
        f"{len(theirs) - len(taken)} left behind"
    )
