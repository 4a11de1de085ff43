"""The manifest of a checkpoint: which files it has, and what is in them, to the bit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from braid import storage
from braid.errors import BraidError
from braid.parallel import World

NAME = "manifest.json"
"""The manifest's file; a folder without it is no checkpoint."""
STATE = "state.json"
"""The file of what is no tensor."""
FORMAT = 1
"""Version of the layout of a checkpoint's folder."""

_FILE = re.compile(r"[\w-]+/[\w.-]+\.safetensors", re.ASCII)


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest to the disk, with a hash of its own."""
    whole = {**content, "sha256": _own_hash(content)}
    (folder / NAME).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    sync(folder / NAME)


def load(folder: Path) -> dict[str, Any]:
    """Read a manifest.

    Raises:
        BraidError: it is missing, damaged, of another version or of another checkpoint.
    """
    try:
        content = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BraidError(
            f"{NAME}: is missing; the checkpoint is incomplete, or of an older version of braid"
        ) from None
    except OSError as e:
        raise BraidError(f"{NAME}: cannot be read ({e.strerror or e})") from e
    except ValueError:
        raise BraidError(f"{NAME}: is damaged, it is no JSON") from None
    if not isinstance(content, dict) or content.pop("sha256", None) != _own_hash(content):
        raise BraidError(f"{NAME}: is damaged, its own hash does not fit")
    if content["format"] != FORMAT:
        raise BraidError(
            f"{NAME}: has format {content['format']}, this version of braid reads {FORMAT}; "
            "use the version that wrote it"
        )
    if folder.name != f"step-{content['step']}":
        raise BraidError(f"{NAME}: belongs to step-{content['step']}")
    strange = [n for n in content["files"] if n != STATE and not _FILE.fullmatch(n)]
    if strange:
        raise BraidError(f"{NAME}: names {strange[0]!r}, which no checkpoint has")
    return content


def files(manifest: Mapping[str, Any], groups: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the files of some groups (all if None) and the state: name -> bytes and SHA-256."""
    found, wanted = manifest["files"], None if groups is None else set(groups)
    return {
        n: f
        for n, f in found.items()
        if n == STATE or wanted is None or n.partition("/")[0] in wanted
    }


def wrong(
    folder: Path, world: World, run: str = "", groups: Iterable[str] | None = None
) -> list[str]:
    """Return what is wrong with a checkpoint, one line a file; all ranks call it.

    Each rank hashes a share of the files, and all are told the same.

    Args:
        folder: the checkpoint.
        world: the ranks.
        run: the run it has to belong to; empty for any.
        groups: only these groups of tensors; all if None.
    """
    manifest, error = None, None
    if world.first:
        try:
            manifest = load(folder)
            if run and manifest["run"] and run != manifest["run"]:
                error = f"{NAME}: was written by run {manifest['run']!r}, and this is {run!r}"
        except BraidError as e:
            error = str(e)
    manifest, error = world.tell([manifest, error])
    if error is not None:
        return [error]
    told = files(manifest, groups)
    own = [
        f"{name}: {fault}"
        for name in _share(told, world)
        if (fault := _fault(folder / name, told[name])) is not None
    ]
    return sorted(line for lines in world.gather(own) for line in lines)


def verify(folder: Path, groups: Iterable[str] | None = None) -> list[str]:
    """Return what is wrong with a checkpoint `step-N`, one line a file; [] is sound.

    Args:
        folder: the checkpoint.
        groups: look only at these groups of tensors, and at the state; all if None.
    """
    return wrong(Path(folder), World(), groups=groups)


def newest(
    folder: Path,
    groups: Iterable[str] | None = None,
    say: Callable[[str], None] = lambda text: warnings.warn(text, stacklevel=3),
) -> Path | None:
    """Return the newest sound checkpoint of a folder; None if there is none.

    Args:
        folder: holds `step-N`.
        groups: the groups of tensors that have to be sound; all if None.
        say: told of each checkpoint that is passed over.
    """
    for _, path in reversed(storage.steps(Path(folder))):
        faults = verify(path, groups)
        if not faults:
            return path
        say(passed_over(path, faults))
    return None


def passed_over(path: Path, faults: list[str]) -> str:
    """Return one line that says why a checkpoint is not used."""
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return f"checkpoint {str(path)!r} is passed over: {'; '.join(faults[:3])}{more}"


def digest(path: Path) -> dict[str, Any]:
    """Return the size and the SHA-256 of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": sha256}


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _own_hash(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _share(told: Mapping[str, Any], world: World) -> list[str]:
    """Return this rank's share of files, about as many bytes as any other's."""
    loads, own = [0] * world.size, []
    for name in sorted(told, key=lambda n: (-told[n]["bytes"], n)):
        rank = loads.index(min(loads))
        loads[rank] += told[name]["bytes"]
        if rank == world.rank:
            own.append(name)
    return own


def _fault(path: Path, told: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a file."""
    try:
        size = path.stat().st_size
        if size != told["bytes"]:
            return f"has {size} bytes instead of {told['bytes']}"
        if digest(path)["sha256"] != told["sha256"]:
            return "is damaged, or was not written with the others: its SHA-256 does not fit"
    except FileNotFoundError:
        return "is missing"
    except OSError as e:
        return f"cannot be read ({e.strerror or e})"
    return None
