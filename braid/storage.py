"""Folders of safetensors and JSON.

Written beside their place and then renamed, checked when they are read. No pickle.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from braid.errors import BraidError

_STEP = re.compile(r"step-(\d+)", re.ASCII)


def writable(folder: Path) -> Path:
    """Make a folder, and refuse one that cannot be written, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise BraidError(
            f"cannot write to {str(folder)!r} ({e.strerror}); choose another folder with --out"
        ) from e
    return folder


def save(
    folder: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    texts: Mapping[str, Any],
    folders: Mapping[str, Path] | None = None,
) -> None:
    """Write a folder of NAME.safetensors, NAME.json and copies of folders, all or nothing."""
    folders = folders or {}
    names = {f"{n}.safetensors" for n in tensors} | {f"{n}.json" for n in texts} | set(folders)
    if folder.is_dir() and {p.name for p in folder.iterdir()} - names:
        raise BraidError(
            f"cannot write {str(folder)!r}: it holds other files; choose another folder"
        )
    temporary = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        for name, group in tensors.items():
            # a copy: shared memory (tied weights) is refused by the format
            save_file(
                {k: v.detach().contiguous().clone() for k, v in group.items()},
                temporary / f"{name}.safetensors",
            )
        for name, value in texts.items():
            (temporary / f"{name}.json").write_text(
                json.dumps(value, indent=1) + "\n", encoding="utf-8"
            )
        for name, source in folders.items():
            shutil.copytree(source, temporary / name)
        for path in (p for p in temporary.rglob("*") if p.is_file()):
            with path.open("rb") as f:
                os.fsync(f.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as e:
        raise BraidError(
            f"cannot write {str(folder)!r} ({e.strerror or e}); free some space, or choose "
            "another folder"
        ) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, all or nothing."""
    text = json.dumps(value, indent=1) + "\n"
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise BraidError(
            f"cannot write {str(path)!r} ({e.strerror or e}); free some space, or choose another "
            "folder"
        ) from e


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder to a place where nothing is yet, all or nothing."""
    temporary = target.with_name(f"{target.name}.tmp-{uuid.uuid4().hex}")
    try:
        shutil.copytree(source, temporary)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file."""
    if not path.is_file():
        raise BraidError(f"{str(path)!r} does not exist; the folder is incomplete")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise BraidError(f"{str(path)!r} is damaged ({e}); use an earlier checkpoint") from e


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a mapping."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise BraidError(f"{str(path)!r} does not exist; the folder is incomplete") from e
    except (ValueError, OSError) as e:
        raise BraidError(f"{str(path)!r} is damaged ({e}); use an earlier checkpoint") from e
    if not isinstance(value, dict):
        raise BraidError(f"{str(path)!r} holds no mapping; it was not written by braid")
    return value


def adopt(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a model, and refuse other names and shapes."""
    own = model.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    for name in own.keys() & tensors.keys():
        if own[name].shape != tensors[name].shape:
            raise BraidError(
                f"{where}: tensor {name!r} has shape {tuple(tensors[name].shape)}, the model "
                f"{tuple(own[name].shape)}; "
                "the checkpoint belongs to another experiment"
            )
    if missing or extra:
        raise BraidError(
            f"{where}: {len(missing)} tensors are missing (first: {missing[:1]}), {len(extra)} "
            f"unknown (first: {extra[:1]}); "
            "the checkpoint belongs to another experiment"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def steps(folder: Path) -> list[tuple[int, Path]]:
    """Return the folders `step-N` of a folder, oldest first, sound or not."""
    if not folder.is_dir():
        return []
    found = [
        (int(m[1]), p) for p in folder.iterdir() if (m := _STEP.fullmatch(p.name)) and p.is_dir()
    ]
    return sorted(found)
