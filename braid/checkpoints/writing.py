"""Pieces of tensors into a folder of safetensors, through torch.distributed.checkpoint.

Imported where something is written: torch.distributed.checkpoint takes a while to import.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from braid.checkpoints.faults import reach
from braid.checkpoints.pieces import Piece
from braid.errors import BraidError
from braid.parallel import World

FILE_BYTES = 2 << 30
"""About the largest file that a rank writes, and the memory that writing takes beside tensors."""


def write(
    folder: Path,
    pieces: Mapping[str, Piece],
    world: World,
    first: bool = False,
    file_bytes: int = FILE_BYTES,
) -> None:
    """Write a group of tensors to a folder; all ranks call it, and all fail if one does.

    What several ranks hold is written by one of them.

    Args:
        folder: made if missing.
        pieces: name -> what this rank holds; the same names on all ranks.
        world: the ranks.
        first: whether this is the first group of a checkpoint.
        file_bytes: begin another file at about this size.

    Raises:
        BraidError: some rank could not write.
    """
    if not pieces:
        return
    # one process needs no process group, and is not warned that there is none
    warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable")
    try:
        save(
            {},
            storage_writer=_Writer(folder, _numbers(pieces, file_bytes * world.size), world, first),
            planner=_Planner(pieces),
            process_group=world.group,
            no_dist=world.group is None,
        )
    except CheckpointException as e:
        rank, (error, _) = min(e.failures.items())
        if not isinstance(error, Exception):
            raise error from e
        raise BraidError(
            f"rank {rank} cannot write {str(folder)!r} ({error}); free some space, or choose "
            "another folder"
        ) from e


class _Planner(DefaultSavePlanner):
    """Plans to write pieces; the library's own knows tensors only, and not what lies where."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        super().__init__()
        self.pieces = pieces

    def create_local_plan(self) -> SavePlan:
        items = [_item(name, p) for name, p in self.pieces.items() if p.held]
        self.plan = SavePlan(items, planner_data={})
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.pieces[index.fqn].local


class _Writer(HuggingFaceStorageWriter):
    """The library's writer of shards, with a place for a fault."""

    def __init__(self, folder: Path, numbers: dict[str, int], world: World, first: bool) -> None:
        super().__init__(str(folder), fqn_to_index_mapping=numbers, save_distributed=True)
        self.watched = first and world.first

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        done: Any = super().write_data(plan, planner)
        done.wait()
        if self.watched:
            reach("after-first-data")
        return done


def _item(name: str, piece: Piece) -> WriteItem:
    offset, size = torch.Size(piece.offset), torch.Size(piece.size)
    return WriteItem(
        index=MetadataIndex(name, offset),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=ChunkStorageMetadata(offsets=offset, sizes=piece.local.shape),
            properties=TensorProperties.create_from_tensor(piece.local),
            size=size,
        ),
    )


def _numbers(pieces: Mapping[str, Piece], limit: int) -> dict[str, int]:
    """Return the number of the file of each tensor, from 1, the same on all ranks."""
    out, number, full = {}, 1, 0
    for name, piece in pieces.items():
        if full and full + piece.bytes > limit:
            number, full = number + 1, 0
        out[name] = number
        full += piece.bytes
    return out
