"""Tables of embeddings beside a release's weights, which a metric path compares (FUDOKI).

They are released as pickled modules. Such a pickle is a program; here its instructions are only
listed, to find the shape of the one table that it would make, and none of them is carried out.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from braid import storage
from braid.errors import BraidError
from braid.hub import first_line

STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
}
"""What holds the numbers of a table -> their type."""

NAMES = {
    *STORAGES,
    "torch.nn.modules.sparse Embedding",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "collections OrderedDict",
    "__builtin__ set",
}
"""All that the pickle of an embedding names."""

NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1")


def read(folder: Path, stem: str, pickled: bool = False) -> Tensor:
    """Return the table [symbols, width] of a file of this stem.

    Args:
        folder: the release.
        stem: name of the file without its suffix.
        pickled: read a .pt where there is no .safetensors.

    Raises:
        BraidError: the file is missing or damaged, or a pickle that may not be read.
    """
    safe, other = folder / f"{stem}.safetensors", folder / f"{stem}.pt"
    if safe.is_file():
        return _single([*storage.read_tensors(safe).values()], safe)
    if not other.is_file():
        raise BraidError(
            f"{str(folder)!r} has no {stem}.safetensors, the embeddings by which its symbols are "
            f"compared; fetch it, or {stem}.pt with `braid convert --pickled-tables`"
        )
    if not pickled:
        raise BraidError(
            f"{str(other)!r} is a pickle; `braid convert --pickled-tables` takes the table out of "
            "it, and runs nothing that it holds"
        )
    try:
        return _single([_taken(other)], other)
    except BraidError:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RuntimeError) as e:
        raise BraidError(
            f"{str(other)!r} is damaged, or not the pickle of one table ({first_line(e)}); fetch "
            "it again"
        ) from e


def _taken(path: Path) -> Tensor:
    """Return the one table of a file that torch.save wrote, without unpickling it."""
    with zipfile.ZipFile(path) as file:
        (program,) = (name for name in file.namelist() if name.endswith("/data.pkl"))
        kind, rows, columns = _described(file.read(program), path)
        (data,) = (name for name in file.namelist() if "/data/" in name)
        numbers = bytearray(file.getinfo(data).file_size)
        with file.open(data) as held:
            held.readinto(numbers)  # pyright: ignore[reportAttributeAccessIssue]
    return torch.frombuffer(numbers, dtype=STORAGES[kind]).view(rows, columns)


def _described(program: bytes, path: Path) -> tuple[str, int, int]:
    """Return the storage's kind, and rows and columns of the table that a pickle describes.

    A tensor is written as its storage, and then numbers: where it begins, its shape, its strides.
    """
    steps = [(step.name, argument) for step, argument, _ in pickletools.genops(program)]
    named = [str(argument) for name, argument in steps if name == "GLOBAL"]
    for name in named:
        if name not in NAMES:
            raise BraidError(
                f"{str(path)!r} names {name!r}, which no table of embeddings needs; do not use it"
            )
    (kind,) = (name for name in named if name in STORAGES)
    (at,) = (i for i, (name, _) in enumerate(steps) if name == "BINPERSID")
    numbers = [int(argument) for name, argument in steps[at:] if name in NUMBERS]  # pyright: ignore
    begin, rows, columns, *strides = numbers[:5]
    if begin != 0 or strides != [columns, 1]:
        raise ValueError(f"the table begins at {begin} with strides {strides}")
    return kind, rows, columns


def _single(tensors: list[Tensor], path: Path) -> Tensor:
    if len(tensors) != 1 or tensors[0].ndim != 2 or not tensors[0].is_floating_point():
        found = [tuple(t.shape) for t in tensors]
        raise BraidError(
            f"{str(path)!r} holds {found}; expected one table of embeddings [symbols, width]"
        )
    return tensors[0].contiguous()
