"""What a released tensor is in the model, and back again, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from braid.errors import BraidError

Shape = tuple[int, ...]


class Transform:
    """Base of all ways from released tensors to the model's; the same object leads back.

    Both ways work on the meta device, where shapes are checked before anything is read.
    """

    def read(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """Return the model's tensors, of these shapes, from released ones."""
        raise NotImplementedError

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the released tensors from the model's.

        Raises:
            BraidError: they hold what the released layout has no place for.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Same(Transform):
    """The same tensors, in the same order."""

    def read(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """Return them."""
        return list(tensors)

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return them."""
        return list(tensors)


@dataclass(frozen=True)
class Split(Transform):
    """One released tensor holds several of the model's one after the other, as a fused qkv.

    Attributes:
        axis: along which they lie.
    """

    axis: int = 0

    def read(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """Cut the tensor."""
        return [t.contiguous() for t in tensors[0].split([s[self.axis] for s in shapes], self.axis)]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Join them."""
        return [torch.cat(list(tensors), self.axis)]


@dataclass(frozen=True)
class Batched(Transform):
    """Released tensors that have a leading axis of 1, such as learned positions."""

    def read(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """Take the axis away; one of another length stays and is refused by its shape."""
        return [t.squeeze(0) for t in tensors]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Put it back."""
        return [t[None] for t in tensors]


@dataclass(frozen=True)
class Transposed(Transform):
    """Matrices whose rows are the model's columns."""

    def read(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """Transpose them."""
        return [t.mT.contiguous() for t in tensors]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Transpose them back."""
        return [t.mT.contiguous() for t in tensors]


@dataclass(frozen=True)
class Interleaved(Transform):
    """Queries or keys whose rotary pairs are neighbours; the model's are the halves of a head.

    Attributes:
        width: of a head. The first axis of the tensors is heads x width.
    """

    width: int

    def read(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """Bring the first of each pair together, then the second."""
        return [self._turned(t, (-1, self.width // 2, 2)) for t in tensors]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Put the pairs side by side again."""
        return [self._turned(t, (-1, 2, self.width // 2)) for t in tensors]

    @staticmethod
    def _turned(tensor: Tensor, sizes: tuple[int, int, int]) -> Tensor:
        return tensor.unflatten(0, sizes).transpose(1, 2).flatten(0, 2)


@dataclass(frozen=True)
class MaskRow(Transform):
    """An embedding whose mask is one of its rows; the model's mask is a further row at the end.

    The old row stays where it is, so that all other symbols keep their numbers.

    Attributes:
        row: number of the mask.
    """

    row: int

    def read(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """Repeat the mask's row at the end."""
        (table,) = tensors
        return [torch.cat([table, table[self.row : self.row + 1]])]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Put the last row in the mask's place."""
        table = tensors[0][:-1].clone()
        table[self.row] = tensors[0][-1]
        return [table]


@dataclass(frozen=True)
class Rows(Transform):
    """A table of which some rows are, in another order, the table of a second strand as well.

    The model has the whole table, and those rows once more.

    Attributes:
        numbers: of the rows, in the second table's order.
    """

    numbers: tuple[int, ...]

    def read(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """Repeat the rows."""
        (table,) = tensors
        return [table, table[list(self.numbers)]]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Put the second table's rows in their places."""
        table = tensors[0].clone()
        table[list(self.numbers)] = tensors[1]
        return [table]


@dataclass(frozen=True)
class Constant(Transform):
    """A tensor of the model that no released one corresponds to.

    Attributes:
        value: of all its elements.
    """

    value: float = 0.0

    def read(self, tensors: Sequence[Tensor], shapes: Sequence[Shape]) -> list[Tensor]:
        """Return constant tensors."""
        return [torch.full(shape, self.value) for shape in shapes]

    def write(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return nothing; refuse what has been trained."""
        if any(not bool((t == self.value).all()) for t in tensors):
            raise BraidError(
                f"the released layout has no place for values other than {self.value:g}; freeze "
                "it while training"
            )
        return []
