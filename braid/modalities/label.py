"""One symbol out of a list of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from braid.errors import BraidError, unknown
from braid.modalities.modality import Modality
from braid.spaces import Discrete, metric_table


class Label(Modality):
    """A class label; a span is one token."""

    def __init__(self, name: str = "label", classes: Sequence[str] = ()) -> None:
        """Make a label modality over the names of its classes, in order."""
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise BraidError(
                f"label {name!r}: classes must be at least two different names, got {list(classes)}"
            )
        self.name = self.field = name
        self.classes, self.shape = tuple(classes), (1,)
        self.space = Discrete(len(classes))

    def accepts(self, raw: object) -> bool:
        """Accept whole numbers."""
        return isinstance(raw, int) and not isinstance(raw, bool)

    def encode(self, raw: int | str, following: str | None = None) -> Tensor:
        """Return the number of a class, given by number or name."""
        if isinstance(raw, str):
            if raw not in self.classes:
                raise unknown(f"class of {self.name}", raw, self.classes)
            raw = self.classes.index(raw)
        if not 0 <= int(raw) < len(self.classes):
            raise BraidError(
                f"{self.name}: class {raw} is out of range; valid are 0..{len(self.classes) - 1}"
            )
        return torch.tensor([int(raw)])

    def decode(self, tokens: Tensor, shape: tuple[int, ...] = ()) -> str:
        """Return the name of the class."""
        return self.classes[int(tokens[0])]

    def metric(self) -> dict[str, Any]:
        """Return a table in which all classes are equally far apart."""
        return {"table": metric_table(len(self.classes))}
