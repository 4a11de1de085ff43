"""Text of released models that also see or draw pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from braid import storage
from braid.errors import BraidError
from braid.modalities.released_text import ReleasedText

TABLE = "table.safetensors"
"""File of a folder that holds the embeddings which a metric path compares, under "table"."""


class MixedText(ReleasedText):
    """Text in the vocabulary of a released model that has symbols around or for pictures."""

    def __init__(
        self,
        name: str = "text",
        size: int = 256,
        begin: tuple[int, ...] = (),
        ends: tuple[int, ...] = (),
        frames: dict[str, int] | None = None,
        length: int = 128,
        blank: int | None = None,
        never: tuple[tuple[int, int], ...] = (),
        after: tuple[int, ...] = (),
        table: str | None = None,
    ) -> None:
        """Make the text modality of a released model; its files come with `load_state`.

        Args:
            name: name of its strand.
            size: rows of the released embedding, at least the tokenizer's symbols.
            begin: symbols with which every document begins.
            ends: symbols that end a text; the first closes what is learned.
            frames: modality -> symbol that closes a text before it.
            length: default of a hole, and canvas of parallel processes, in tokens.
            blank: symbol that stands for each symbol of a text that guidance withholds; None
                leaves the text out.
            never: ranges (first, end) of symbols that no text holds, such as those of pictures.
            after: symbols that stand after a picture; a text of nothing else gets no end, and
                guidance lets them stay.
            table: folder with the embeddings that a metric path compares, or None.
        """
        super().__init__(name, size, begin, ends, frames, length)
        if blank is not None and not 0 <= blank < size:
            raise BraidError(f"mixed_text blank: symbol {blank} is out of range; use 0..{size - 1}")
        for first, end in never:
            if not 0 <= first < end <= size:
                raise BraidError(
                    f"mixed_text never: range {(first, end)} is out of range; the vocabulary has "
                    f"{size} symbols"
                )
        for i in after:
            if not 0 <= i < size:
                raise BraidError(f"mixed_text after: symbol {i} is out of range; use 0..{size - 1}")
        self.blank, self.never, self.after = blank, tuple(never), tuple(after)
        self.source_of_metric = table

    def encode(self, raw: str | Sequence[str], following: str | None = None) -> Tensor:
        """Return the symbols; a frame symbol or the end follows where it has to."""
        ids = self.symbols(raw)
        if following is None and {*ids} <= {*self.after}:
            return torch.tensor(ids, dtype=torch.int64)
        return super().encode(raw, following)

    def withheld(self, tokens: Tensor) -> Tensor | None:
        """Return the text blanked: only what opens a document or a picture stays."""
        if self.blank is None:
            return None
        stays = tokens.new_tensor([*self.begin, *self.before.values(), *self.after])
        return torch.where(torch.isin(tokens, stays), tokens, self.blank)

    def head(self, width: int) -> nn.Module:
        """Return a head that never predicts the symbols of pictures."""
        return PartialHead(self.size, width, self.never) if self.never else super().head(width)

    def metric(self) -> dict[str, Any]:
        """Return the released table."""
        return (
            super().metric()
            if self.source_of_metric is None
            else {"table": read_table(self.source_of_metric)}
        )

    def folders(self) -> dict[str, Path]:
        """Return the folder of the table."""
        return {} if self.source_of_metric is None else {"table": Path(self.source_of_metric)}


class PartialHead(nn.Module):
    """One linear layer whose logits are the least number for ranges of symbols."""

    def __init__(self, size: int, width: int, never: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.never = never
        self.linear = nn.Linear(width, size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [..., size] of hidden vectors [..., width]."""
        logits = self.linear(hidden)
        for first, end in self.never:
            logits[..., first:end] = torch.finfo(logits.dtype).min
        return logits


def read_table(folder: str) -> Tensor:
    """Return the embeddings [size, width] of a folder.

    Raises:
        BraidError: the folder holds none.
    """
    tensors = storage.read_tensors(Path(folder) / TABLE)
    if set(tensors) != {"table"}:
        raise BraidError(f"{TABLE} of {folder!r} holds {sorted(tensors)}; expected 'table' alone")
    return tensors["table"].float()
