"""A model's folder with its card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from braid.publishing.card import facts_of, ours, write_card
from braid.storage import refuse_others, replacing

if TYPE_CHECKING:
    from braid.pipeline import Pipeline

CARD = "README.md"
KEPT = (CARD, ".gitattributes")
"""Files beside a model that saving it again leaves where they are."""


def save(
    pipe: Pipeline, folder: str | Path, *, name: str | None = None, license: str | None = None
) -> Path:
    """Write a model as a folder that `braid.load` reads, with a card; all or nothing.

    A card that braid wrote is renewed; one that somebody wrote or changed stays as it is.

    Args:
        pipe: the model.
        folder: where to.
        name: where it can be loaded from, for the card; the folder where None.
        license: for the card.

    Raises:
        BraidError: the folder holds other files, or cannot be written.
    """
    folder = Path(folder)
    with replacing(folder) as staged:
        pipe.save(staged)
        refuse_others(folder, {p.name for p in staged.iterdir()} | {*KEPT})
        for kept in KEPT:
            if (folder / kept).is_file():
                shutil.copy(folder / kept, staged / kept)
        if not hand_written(staged / CARD):
            facts = facts_of(pipe.source, pipe.checkpoint) if pipe.source is not None else None
            card = write_card(
                pipe.braid, pipe.experiment, name=name or str(folder), license=license, facts=facts
            )
            (staged / CARD).write_text(card, encoding="utf-8")
    return folder


def hand_written(card: Path) -> bool:
    """Return whether there is a card that braid must not overwrite."""
    return card.is_file() and not ours(card.read_text(encoding="utf-8", errors="replace"))
