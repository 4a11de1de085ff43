"""Values with many tensors as one tensor, so that a process hands over a single piece of memory.

Each tensor would otherwise cost an open file until it is freed; a step has hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_ALIGNED = 16


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies: from which byte on, and as what."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Parcel(Generic[T]):
    """A value whose tensors lie one after the other.

    Attributes:
        frame: the value, with a place instead of each tensor.
        data: [bytes] uint8, all tensors.
    """

    frame: T
    data: Tensor


def sealed(value: T) -> Parcel[T]:
    """Put the tensors of nested lists, dictionaries and dataclasses into one."""
    parts: list[Tensor] = []
    size = 0

    def put(tensor: Tensor) -> _Place:
        nonlocal size
        raw = tensor.contiguous().reshape(-1).view(torch.uint8)
        gap = -len(raw) % _ALIGNED
        parts.append(torch.nn.functional.pad(raw, (0, gap)))
        place = _Place(size, tensor.dtype, tuple(tensor.shape))
        size += len(raw) + gap
        return place

    frame = _mapped(value, Tensor, put)
    return Parcel(frame, torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8))


def unsealed(parcel: Parcel[T]) -> T:
    """Return the value; its tensors share one piece of memory."""

    def take(place: _Place) -> Tensor:
        stop = place.start + math.prod(place.shape) * place.dtype.itemsize
        return parcel.data[place.start : stop].view(place.dtype).view(place.shape)

    return _mapped(parcel.frame, _Place, take)


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Return a nested value in which everything of a kind is changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(x, kind, change) for name, x in value.items()}
    if isinstance(value, list):
        return [_mapped(x, kind, change) for x in value]
    if is_dataclass(value) and not isinstance(value, type):
        inner = {f.name: _mapped(getattr(value, f.name), kind, change) for f in fields(value)}
        return replace(value, **inner)
    return value
