"""Saving and loading the checkpoints of a run."""

from __future__ import annotations

import json
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from braid import storage
from braid.checkpoints import manifest
from braid.checkpoints.faults import reach
from braid.checkpoints.pieces import Piece, Saved, fill, index, paths, piece, stage
from braid.errors import BraidError
from braid.parallel import World

Tensors = Mapping[str, Mapping[str, Tensor]]
"""Group ("model", "ema", "optimizer") -> name -> tensor, plain or sharded."""
Staged = Mapping[str, Mapping[str, Piece]]

_ROOM = 1.2
"""Free space that a save asks for, in sizes of the checkpoint."""
_LEFTOVERS = "step-*.tmp-*"


class Checkpoints:
    """The checkpoints `step-N` of a folder.

    Attributes:
        folder: holds them; one that all ranks see.
        world: the ranks that save and load together.
        run: name of the run; a checkpoint of another one is not loaded.
        keep: number of sound checkpoints that are kept, the newest ones; at least 2.
        keep_every: checkpoints whose step is a multiple of this are kept for ever; 0 keeps none.
        background: write in a thread beside training.
        say: told in one line, on rank 0, of all that is out of the ordinary.
    """

    def __init__(
        self,
        folder: Path,
        world: World | None = None,
        *,
        run: str = "",
        keep: int = 2,
        keep_every: int = 0,
        background: bool = False,
        say: Callable[[str], None] = lambda text: warnings.warn(text, stacklevel=2),
    ) -> None:
        self.folder, self.world, self.run = Path(folder), world or World(), run
        self.keep, self.keep_every, self.background = max(keep, 2), keep_every, background
        self.say = say
        self._beside = self.world.again() if background else self.world
        self._sound: dict[int, bool] = {}  # what is known of checkpoints, equal on all ranks
        self._thread: Thread | None = None
        self._errors: list[BaseException] = []

    def steps(self) -> list[int]:
        """Return the steps of committed checkpoints, oldest first."""
        return [n for n, p in storage.steps(self.folder) if (p / manifest.NAME).is_file()]

    def save(self, step: int, tensors: Tensors, state: Mapping[str, Any]) -> None:
        """Write the checkpoint of a step, unless there is a sound one; all ranks call it.

        In the background, tensors are copied to the CPU and may change at once; a save that is
        still in flight is waited for.

        Args:
            step: optimiser steps done.
            tensors: group -> name -> tensor; the same names on all ranks.
            state: JSON, equal on all ranks.

        Raises:
            BraidError: it cannot be written. All that was there before still is.
        """
        text = json.dumps(state, indent=1) + "\n"
        self._join()
        if self.world.tell(step in self.steps()) and self._is_sound(step, self.world):
            return
        staged = {group: stage(named, self.background) for group, named in tensors.items()}
        if self.background:
            self._thread = Thread(
                target=self._write_beside, args=(step, staged, text), name=f"save step-{step}"
            )
            self._thread.start()
        else:
            self._write(step, staged, text, self.world)

    def poll(self) -> BaseException | None:
        """Return the error of a background save that has ended since, once; never waits."""
        return self._errors.pop(0) if self._errors else None

    def wait(self) -> None:
        """Wait for the background save in flight, and raise its error."""
        self._join()
        error = self.poll()
        if error is not None:
            raise error

    def load(self, tensors: Tensors, every: int = 1) -> dict[str, Any] | None:
        """Fill tensors in place from the newest sound checkpoint; all ranks call it.

        All of a checkpoint's files are verified before any is used, and those that are passed over
        are named. The number of ranks may differ from when it was saved.

        Args:
            tensors: group -> name -> tensor, as they were saved.
            every: take only checkpoints whose step is a multiple of this.

        Returns:
            the state that was saved with them; None if there is no checkpoint at all.

        Raises:
            BraidError: no checkpoint is sound, or it belongs to another experiment.
        """
        self._join()
        steps = reversed(storage.steps(self.folder))
        found = self.world.tell([n for n, _ in steps if n % every == 0])
        passed = []
        for step in found:
            path = self._path(step)
            faults = manifest.wrong(path, self.world, self.run)
            self._sound[step] = not faults
            if not faults:
                state = self._adopt(path, tensors)
                if passed:
                    self._tell(f"going on from {str(path)!r} instead")
                return state
            passed.append(f"step-{step} ({faults[0]})")
            self._tell(manifest.passed_over(path, faults))
        if not found:
            return None
        raise BraidError(
            f"no checkpoint in {str(self.folder)!r} is sound: {', '.join(passed)}; put back a copy "
            "of one, or start afresh in another folder"
        )

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step}"

    def _tell(self, text: str) -> None:
        if self.world.first:
            self.say(text)

    def _is_sound(self, step: int, world: World) -> bool:
        """Return whether a checkpoint is sound; each is verified once."""
        if step not in self._sound:
            faults = manifest.wrong(self._path(step), world, self.run)
            self._sound[step] = not faults
            if faults:
                self._tell(manifest.passed_over(self._path(step), faults))
        return self._sound[step]

    # Loading

    def _adopt(self, path: Path, tensors: Tensors) -> dict[str, Any]:
        with self.world.together():
            content = manifest.load(path)
            state = storage.read_json(path / manifest.STATE)
            saved = {group: index(paths(path, content, group)) for group in content["groups"]}
            _compare(str(path), tensors, saved)
        with self.world.together():
            for group, named in tensors.items():
                fill({name: piece(t) for name, t in named.items()}, saved[group])
        return state

    # Saving

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write_beside(self, step: int, staged: Staged, text: str) -> None:
        try:
            reach("mid-background")
            self._write(step, staged, text, self._beside)
        except BaseException as e:  # noqa: BLE001 - raised by poll or wait
            self._errors.append(e)

    def _write(self, step: int, staged: Staged, text: str, world: World) -> None:
        temporary = self._path(step).with_name(
            world.tell(f"step-{step}.tmp-{uuid.uuid4().hex}")  # no two saves share a folder
        )
        with self._writing(step, world):
            if world.first:
                self._make_room(step, sum(p.bytes for g in staged.values() for p in g.values()))
                temporary.mkdir()
        try:
            reach("before-data")
            self._write_tensors(temporary, staged, world)
            files = self._hash(temporary, step, text, world)
            with self._writing(step, world):
                if world.first:
                    self._commit(temporary, step, list(staged), files, world)
        except BaseException:
            if world.first:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._sound[step] = True
        self._purge(world)

    def _make_room(self, step: int, size: int) -> None:
        """Make the folder, clear what dead saves left in it, and look whether there is space."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(_LEFTOVERS):
            shutil.rmtree(leftover, ignore_errors=True)
        free = shutil.disk_usage(self.folder).free
        if free < _ROOM * size:
            raise BraidError(
                f"step-{step} has {size / 1e9:.3g} GB and asks for {_ROOM * size / 1e9:.3g} GB of "
                f"free space, but {str(self.folder)!r} has {free / 1e9:.3g} GB; free some, lower "
                "train.keep, or choose another folder"
            )

    def _write_tensors(self, temporary: Path, staged: Staged, world: World) -> None:
        from braid.checkpoints.writing import write

        for number, (group, pieces) in enumerate(staged.items()):
            if number:
                reach("between-files")
            with world.together():
                write(temporary / group, pieces, world, first=number == 0)

    def _hash(self, temporary: Path, step: int, text: str, world: World) -> dict[str, Any]:
        """Bring every file to the disk; returns name -> bytes and SHA-256, told by who wrote it."""
        own: dict[str, Any] = {}
        with self._writing(step, world):
            written = sorted(temporary.glob(f"*/shard-{world.rank + 1:05}-*"))
            if world.first:
                (temporary / manifest.STATE).write_text(text, encoding="utf-8")
                written.append(temporary / manifest.STATE)
            for path in written:
                manifest.sync(path)
                own[path.relative_to(temporary).as_posix()] = manifest.digest(path)
        return {name: told for files in world.gather(own) for name, told in files.items()}

    def _commit(
        self, temporary: Path, step: int, groups: list[str], files: Mapping[str, Any], world: World
    ) -> None:
        """Make a temporary folder the checkpoint of a step; rank 0 does."""
        there = {p.relative_to(temporary).as_posix() for p in temporary.rglob("*") if p.is_file()}
        if there != set(files):
            raise BraidError(
                f"rank 0 does not see {sorted(there ^ set(files))[0]!r} in {str(temporary)!r} as "
                "another rank does; choose a folder that all machines share"
            )
        reach("before-manifest")
        content = {
            "format": manifest.FORMAT,
            "run": self.run,
            "save": temporary.name.rpartition("-")[2],
            "step": step,
            "world": world.size,
            "torch": str(torch.__version__),
            "groups": groups,
            "files": dict(sorted(files.items())),
        }
        manifest.write(temporary, content)
        reach("after-manifest")
        for folder in (*(p for p in temporary.iterdir() if p.is_dir()), temporary):
            manifest.sync(folder)
        if self._path(step).exists():
            self._retire(step)  # it was not sound
        temporary.rename(self._path(step))
        manifest.sync(self.folder)
        reach("after-rename")

    def _purge(self, world: World) -> None:
        """Delete what is older than the newest `keep` sound checkpoints; all ranks call it."""
        sound, dead = 0, []
        for step in reversed(world.tell(self.steps())):
            for_ever = self.keep_every > 0 and step % self.keep_every == 0
            if sound < self.keep:
                if self._is_sound(step, world):
                    sound += 1
                else:
                    dead.append(step)
            elif not for_ever or self._sound.get(step) is False:
                dead.append(step)
        if sound < self.keep or not world.first:
            return
        for step in reversed(dead):
            try:
                old = self._retire(step)
                reach("mid-purge")
                shutil.rmtree(old, ignore_errors=True)
            except OSError as e:
                self._tell(f"cannot delete {str(self._path(step))!r} ({e.strerror or e})")

    def _retire(self, step: int) -> Path:
        """Take its name from a checkpoint, so that no half of it is ever taken for one."""
        return self._path(step).rename(self._path(step).with_name(_retired(step)))

    @contextmanager
    def _writing(self, step: int, world: World) -> Iterator[None]:
        """Let every rank leave a block with a readable error if one cannot write."""
        with world.together():
            try:
                yield
            except OSError as e:
                raise BraidError(
                    f"cannot write {str(self._path(step))!r} ({e.strerror or e}); free some space, "
                    "or choose another folder"
                ) from e


def _retired(step: int) -> str:
    return f"step-{step}.tmp-{uuid.uuid4().hex}"


def _compare(where: str, tensors: Tensors, saved: Mapping[str, Mapping[str, Saved]]) -> None:
    """Refuse a checkpoint of other tensors than these."""
    other = "the checkpoint belongs to another experiment"
    if set(tensors) != set(saved):
        raise BraidError(f"{where} holds {sorted(saved)}, expected {sorted(tensors)}; {other}")
    for group, named in tensors.items():
        theirs = saved[group]
        missing, extra = sorted(named.keys() - theirs.keys()), sorted(theirs.keys() - named.keys())
        if missing or extra:
            raise BraidError(
                f"{where}: {len(missing)} tensors of {group!r} are missing (first: {missing[:1]}), "
                f"{len(extra)} unknown (first: {extra[:1]}); {other}"
            )
        for name, tensor in named.items():
            ours = (tuple(tensor.shape), tensor.dtype)
            if ours != (theirs[name].size, theirs[name].dtype):
                raise BraidError(
                    f"{where}: tensor {name!r} of {group!r} has shape {theirs[name].size} and "
                    f"{theirs[name].dtype}, expected {ours[0]} and {ours[1]}; {other}"
                )
