"""The tensors of a released folder: which file holds each, in what shape; read one at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from braid import hub, storage
from braid.errors import BraidError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Entry:
    """Where a tensor is, and what it is.

    Attributes:
        file: name of its file in the folder.
        shape: its shape.
        dtype: its type, as safetensors writes it, such as "BF16".
    """

    file: str
    shape: tuple[int, ...]
    dtype: str


TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""Types of plain weights, as safetensors names them."""


class Checkpoint:
    """A folder of safetensors, whole or in shards with an index.

    Only headers are read when it is made; every fault that they show is refused then.

    Attributes:
        folder: where it is.
        entries: name -> where and what.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / INDEX
        pickled = not index.is_file() and any(folder.glob("pytorch_model*"))
        hub.refuse_pickle(folder, SINGLE if pickled else "*.safetensors")
        promised = _promised(index) if index.is_file() else None
        if promised is None and not (folder / SINGLE).is_file():
            raise BraidError(
                f"{str(folder)!r} has neither {INDEX} nor {SINGLE}; the download is incomplete: "
                "fetch it again"
            )
        files = [SINGLE] if promised is None else sorted(set(promised.values()))
        self.entries: dict[str, Entry] = {}
        for file in files:
            self.entries |= self._header(file)
        for name, file in (promised or {}).items():
            if name not in self.entries or self.entries[name].file != file:
                raise BraidError(
                    f"{INDEX} of {str(folder)!r} promises tensor {name!r} in {file!r}, which does "
                    "not hold it; the files belong to different releases: fetch them again"
                )

    def _header(self, file: str) -> dict[str, Entry]:
        path = self.folder / file
        if not path.is_file():
            raise BraidError(
                f"shard {file!r} of {str(self.folder)!r} is missing; fetch the model again"
            )
        try:
            with safe_open(path, "pt") as f:
                views = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118 - no mapping
                return {
                    name: Entry(file, tuple(view.get_shape()), view.get_dtype())
                    for name, view in views.items()
                }
        except (SafetensorError, OSError) as e:
            raise BraidError(
                f"{str(path)!r} is truncated or damaged ({e}); fetch this file again"
            ) from e

    def read(self, name: str) -> Tensor:
        """Read one tensor; its file is closed again, so that no page of it stays in memory."""
        path = self.folder / self.entries[name].file
        try:
            with safe_open(path, "pt") as f:
                return f.get_tensor(name).clone()
        except (SafetensorError, OSError) as e:
            raise BraidError(
                f"tensor {name!r} of {str(path)!r} cannot be read ({e}); fetch this file again"
            ) from e

    def dtype(self, names: Iterable[str]) -> torch.dtype:
        """Return the narrowest type that holds all of these tensors exactly.

        Raises:
            BraidError: one has a type that no weights of a plain model have.
        """
        widest: torch.dtype | None = None
        for name in names:
            kind = self.entries[name].dtype
            if kind not in TYPES:
                raise BraidError(
                    f"tensor {name!r} of {str(self.folder)!r} has type {kind}; quantised weights "
                    f"are not read: choose a release in {', '.join(TYPES)}"
                )
            mine = TYPES[kind]
            widest = mine if widest is None else torch.promote_types(widest, mine)
        return widest or torch.float32


def _promised(index: Path) -> dict[str, str]:
    """Return name -> file of an index."""
    where = storage.read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise BraidError(f"{str(index)!r} has no weight_map; fetch it again")
    for file in set(where.values()):
        if not isinstance(file, str) or Path(file).name != file:
            raise BraidError(
                f"{str(index)!r} names the file {file!r}, which is not of its folder; do not use it"
            )
        if not file.endswith(".safetensors"):
            raise BraidError(
                f"{str(index)!r} names {file!r}, and unpickling runs code; choose a release with "
                "safetensors"
            )
    return where
