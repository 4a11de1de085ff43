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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from braid.errors import BraidError

_BESIDE = ("tmp", "old")  # how folders are called while another takes their place
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


def refuse_others(folder: Path, names: Iterable[str] = ()) -> None:
    """Refuse to write a folder that is a file, or holds others than these."""
    if folder.exists() and not folder.is_dir():
        raise BraidError(f"cannot write {str(folder)!r}: it is a file; choose another folder")
    others = sorted({p.name for p in folder.iterdir()} - {*names}) if folder.is_dir() else []
    if others:
        raise BraidError(
            f"cannot write {str(folder)!r}: it holds other files, such as {others[0]!r}; choose "
            "another folder"
        )


def save(
    folder: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    texts: Mapping[str, Any],
    folders: Mapping[str, Path] | None = None,
) -> None:
    """Write a folder of NAME.safetensors, NAME.json and copies of folders, all or nothing."""
    folders = folders or {}
    names = {f"{n}.safetensors" for n in tensors} | {f"{n}.json" for n in texts} | set(folders)
    refuse_others(folder, names)
    with replacing(folder) as temporary:
        for name, group in tensors.items():
            save_file(_unshared(group), temporary / f"{name}.safetensors")
        for name, value in texts.items():
            (temporary / f"{name}.json").write_text(
                json.dumps(value, indent=1) + "\n", encoding="utf-8"
            )
        for name, source in folders.items():
            shutil.copytree(source, temporary / name)


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside this one; written whole and flushed, it takes this one's place.

    Raises:
        BraidError: it cannot be written; what was there before is still there.
    """
    temporary, old = (folder.with_name(f"{folder.name}.{x}-{uuid.uuid4().hex}") for x in _BESIDE)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in (p for p in temporary.rglob("*") if p.is_file()):
            with path.open("rb") as f:
                os.fsync(f.fileno())
        if folder.is_dir():
            folder.rename(old)
        try:
            temporary.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as e:
        raise BraidError(
            f"cannot write {str(folder)!r} ({e.strerror or e}); free some space, or choose "
            "another folder"
        ) from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that share no memory, as the format asks; copies of tied weights only."""
    out: dict[str, Tensor] = {}
    places: set[tuple[str, int]] = set()
    for name, tensor in tensors.items():
        dense = tensor.detach().contiguous()
        place = (str(dense.device), dense.untyped_storage().data_ptr())
        shared = place in places or dense.untyped_storage().nbytes() != dense.nbytes
        out[name] = dense.clone() if shared else dense
        places.add(place)
    return out


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


def read_each(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a safetensors file one by one; no more than one is held here."""
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
        for name in names:
            with safe_open(path, "pt") as file:  # closing it lets go of the pages that were read
                tensor = file.get_tensor(name).clone()
            yield name, tensor
    except FileNotFoundError as e:
        raise BraidError(f"{str(path)!r} does not exist; the folder is incomplete") from e
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


class _Undrawn(TorchFunctionMode):
    """Leaves out the drawing of numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        module = getattr(func, "__module__", None)
        if func in (Tensor.normal_, Tensor.uniform_) or module == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func in (torch.randn, torch.rand) else func)(*args, **kwargs)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Make modules without initial weights, for `fill`.

    Memory that nothing is written to is none: the system gives it when it is touched. (The meta
    device would do too, but makes torch import its compiler, which takes longer than an answer of
    a small model.)
    """
    with _Undrawn():
        yield


def fill(model: nn.Module, tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Put tensors in the places of the weights of a model that `undrawn` made, one by one.

    The model takes their precision. Weights that are tied stay tied; where both names of a tied
    weight have a tensor, both have to be the same.

    Raises:
        BraidError: a tensor is missing, unknown, given twice and different, or of another shape.
    """
    own = {name: tensor for name, tensor in model.named_parameters(remove_duplicate=False)}
    names: dict[int, list[str]] = {}
    for name, parameter in own.items():
        names.setdefault(id(parameter), []).append(name)
    missing = set(names)
    filled: dict[int, Tensor] = {}
    for name, tensor in tensors:
        if name not in own:
            raise BraidError(
                f"{where}: tensor {name!r} is unknown; the checkpoint belongs to another experiment"
            )
        if own[name].shape != tensor.shape:
            raise BraidError(
                f"{where}: tensor {name!r} has shape {tuple(tensor.shape)}, the model "
                f"{tuple(own[name].shape)}; the checkpoint belongs to another experiment"
            )
        key = id(own[name])
        if key in filled:
            if not torch.equal(filled[key], tensor):
                raise BraidError(
                    f"{where}: tensor {name!r} differs from {names[key][0]!r}, to which it is "
                    "tied; the checkpoint belongs to another experiment"
                )
            continue
        filled[key] = tensor
        missing.discard(key)
        placed = nn.Parameter(tensor, requires_grad=own[name].requires_grad)
        for alias in names[key]:
            parent, _, leaf = alias.rpartition(".")
            setattr(model.get_submodule(parent), leaf, placed)
    if missing:
        lacking = sorted(names[key][0] for key in missing)
        raise BraidError(
            f"{where}: {len(lacking)} tensors are missing (first: {lacking[0]!r}); the checkpoint "
            "belongs to another experiment"
        )


def steps(folder: Path) -> list[tuple[int, Path]]:
    """Return the folders `step-N` of a folder, oldest first, sound or not."""
    if not folder.is_dir():
        return []
    found = [
        (int(m[1]), p) for p in folder.iterdir() if (m := _STEP.fullmatch(p.name)) and p.is_dir()
    ]
    return sorted(found)
