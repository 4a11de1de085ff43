"""Starting from a trained model instead of from random weights."""

from __future__ import annotations

import torch

from braid.braid import Braid
from braid.errors import BraidError
from braid.pipeline import load


def start_from(braid: Braid, path: str) -> str:
    """Take the tensors of a trained model whose names and shapes agree with this one's.

    Returns:
        a line that says how many.

    Raises:
        BraidError: none agrees.
    """
    source = load(path, "cpu").braid
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
