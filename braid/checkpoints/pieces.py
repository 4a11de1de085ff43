"""Tensors in pieces: what a rank holds of each, and what files hold of it.

Files are safetensors as torch.distributed.checkpoint writes them for shards: a file's metadata
gives the offset of each of its pieces in the whole tensor. Any layout over ranks is filled from any
other, and without a process group.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from braid.checkpoints import manifest
from braid.errors import BraidError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Index = tuple[int, ...]

_OFFSETS = "DCP_SHARDING_INFO"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


@dataclass(frozen=True)
class Piece:
    """What this rank holds of a tensor.

    Attributes:
        size: shape of the whole tensor.
        offset: where the piece begins in it.
        local: the piece; empty if this rank holds nothing.
    """

    size: Index
    offset: Index
    local: Tensor

    @property
    def bytes(self) -> int:
        """Size of the whole tensor."""
        return math.prod(self.size) * self.local.element_size()

    @property
    def held(self) -> bool:
        """Whether this rank has something to write or to read."""
        return self.local.numel() > 0 or math.prod(self.size) == 0


@dataclass
class Saved:
    """What files hold of a tensor.

    Attributes:
        dtype: of its elements.
        boxes: (file, offset in the whole tensor, shape) of each piece.
    """

    dtype: torch.dtype
    boxes: list[tuple[Path, Index, Index]] = field(default_factory=list)

    @property
    def size(self) -> Index:
        """Shape of the whole tensor: as far as its pieces reach."""
        ends = [[o + s for o, s in zip(at, shape, strict=True)] for _, at, shape in self.boxes]
        return tuple(max(column) for column in zip(*ends, strict=True))


@torch.no_grad()
def piece(tensor: Tensor) -> Piece:
    """Return what this rank holds of a tensor, plain or sharded; it shares the memory."""
    if not hasattr(tensor, "device_mesh"):
        return Piece(tuple(tensor.shape), (0,) * tensor.ndim, tensor.detach())
    sharded = cast("DTensor", tensor)
    local, size = sharded.to_local().detach(), tuple(sharded.shape)
    if sharded.device_mesh.get_coordinate() is None or local.numel() == 0:
        nothing = size if math.prod(size) == 0 else (0,) * len(size)
        return Piece(size, (0,) * len(size), local.new_empty(nothing))
    (chunk,) = sharded.__create_chunk_list__()
    return Piece(size, tuple(chunk.offsets), local)


@torch.no_grad()
def stage(tensors: Mapping[str, Tensor], copy: bool) -> dict[str, Piece]:
    """Return pieces that can be written: contiguous, and none in the memory of another.

    Args:
        tensors: plain or sharded.
        copy: move all of them to memory of their own on the CPU.
    """
    out, seen = {}, set()
    for name, tensor in tensors.items():
        p = piece(tensor)
        local = (p.local.to("cpu", copy=True) if copy else p.local).contiguous()
        if local.numel() and local.data_ptr() in seen:
            local = local.clone()  # tied weights: the format refuses shared memory
        seen.add(local.data_ptr())
        out[name] = Piece(p.size, p.offset, local)
    return out


def index(files: Sequence[Path]) -> dict[str, Saved]:
    """Return what files hold: name -> pieces.

    Raises:
        BraidError: a file is no such file, or a tensor is not whole.
    """
    out: dict[str, Saved] = {}
    for path in files:
        with _opened(path) as file:
            offsets = json.loads((file.metadata() or {}).get(_OFFSETS, "{}"))
            for name in file.keys():  # noqa: SIM118 - no mapping
                part = file.get_slice(name)
                shape = tuple(part.get_shape())
                at = tuple(offsets[name]["saved_offsets"]) if offsets else (0,) * len(shape)
                saved = out.setdefault(name, Saved(_DTYPES[part.get_dtype()]))
                saved.boxes.append((path, at, shape))
    for name, saved in out.items():
        if sum(math.prod(shape) for _, _, shape in saved.boxes) != math.prod(saved.size):
            raise BraidError(
                f"{str(files[0].parent)!r}: tensor {name!r} is not whole; use an earlier checkpoint"
            )
    return out


@torch.no_grad()
def fill(pieces: Mapping[str, Piece], saved: Mapping[str, Saved]) -> None:
    """Copy into each piece what the files hold of it."""
    wanted: dict[Path, list[tuple[str, Index, Index]]] = {}
    for name in pieces:
        for path, at, shape in saved[name].boxes:
            wanted.setdefault(path, []).append((name, at, shape))
    for path, boxes in wanted.items():
        with _opened(path) as file:
            for name, at, shape in boxes:
                mine = pieces[name]
                low = tuple(map(max, at, mine.offset))
                ends = (map(sum, zip(at, shape)), map(sum, zip(mine.offset, mine.local.shape)))  # noqa: B905
                high = tuple(map(min, *ends))
                if any(a >= b for a, b in zip(low, high, strict=True)):
                    continue
                if not shape:
                    mine.local.copy_(file.get_tensor(name))
                    continue
                part = file.get_slice(name)[_slices(low, high, at)]
                mine.local[_slices(low, high, mine.offset)].copy_(part)


def read(folder: Path, group: str) -> dict[str, Tensor]:
    """Return the whole tensors of a group of a checkpoint, on the CPU.

    Needs no process group. The files are verified first.

    Args:
        folder: a checkpoint `step-N`.
        group: such as "model".

    Raises:
        BraidError: the files are damaged, or there is no such group.
    """
    folder = Path(folder)
    faults = manifest.verify(folder, (group,))
    if faults:
        raise BraidError(manifest.passed_over(folder, faults) + "; use an earlier checkpoint")
    content = manifest.load(folder)
    if group not in content["groups"]:
        raise BraidError(
            f"{str(folder)!r} holds no {group!r}; it holds {', '.join(content['groups'])}"
        )
    saved = index(paths(folder, content, group))
    out = {n: torch.empty(s.size, dtype=s.dtype) for n, s in saved.items()}
    fill({n: piece(t) for n, t in out.items()}, saved)
    return out


def paths(folder: Path, content: Mapping[str, object], group: str) -> list[Path]:
    """Return the files of a group."""
    return [folder / n for n in sorted(manifest.files(content, (group,))) if n != manifest.STATE]


def _slices(low: Index, high: Index, origin: Index) -> tuple[slice, ...]:
    return tuple(slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True))


@contextmanager
def _opened(path: Path) -> Iterator[safe_open]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
        if isinstance(e, BraidError):
            raise
        raise BraidError(f"{str(path)!r} cannot be read ({e}); use an earlier checkpoint") from e
