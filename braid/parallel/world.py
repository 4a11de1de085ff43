"""The processes of a run and what they have to agree on.

torchrun's environment is all that is read, so every launcher that sets it will do. What ranks tell
each other beside gradients is small: counts, flags and lines of JSON, over a gloo group on the CPU.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from braid.errors import BraidError
from braid.parallel.watch import Watch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process."""


@dataclass(frozen=True)
class World:
    """The processes that train one model together; one alone by default.

    Attributes:
        rank: number of this process, 0 .. size - 1.
        size: number of processes.
        local_rank: its number on this machine, and that of its GPU.
        seconds: time after which a rank that waits for others gives up.
        group: the gloo group over which ranks agree; None for one process.
        watch: who keeps the others waiting; None for one process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    seconds: float = 600.0
    group: ProcessGroup | None = None
    watch: Watch | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of a small CPU tensor over all ranks, equal in every bit on all."""
        if self.group is None:
            return values
        values = values.clone()
        torch.distributed.all_reduce(values, group=self.group)
        return values

    def all(self, flag: bool) -> bool:
        """Return whether a flag is set on every rank."""
        return int(self.total(torch.tensor(int(not flag)))) == 0

    def any(self, flag: bool) -> bool:
        """Return whether a flag is set on some rank."""
        return int(self.total(torch.tensor(int(flag)))) > 0

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's JSON value, in order of rank, on every rank."""
        if self.group is None:
            return [value]
        text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(text)
        sizes = self.total(sizes)
        padded = torch.zeros(int(sizes.max()), dtype=torch.uint8)
        padded[: len(text)] = text
        texts = [torch.empty_like(padded) for _ in range(self.size)]
        torch.distributed.all_gather(texts, padded, group=self.group)
        return [
            json.loads(bytes(t[:n].tolist())) for t, n in zip(texts, sizes.tolist(), strict=True)
        ]

    def tell(self, value: Any) -> Any:
        """Return rank 0's JSON value on every rank."""
        return self.gather(value if self.first else None)[0]

    def check(self, error: BaseException | None) -> None:
        """Raise where some rank met an error; the others name it, so that no rank waits for it."""
        said = self.gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        for rank, text in enumerate(said):
            if text is not None:
                raise BraidError(f"rank {rank}: {text}")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let every rank leave a block with an error if one does."""
        error: BaseException | None = None
        try:
            yield
        except (BraidError, OSError) as e:
            error = e
        self.check(error)

    def again(self) -> World:
        """Return the same ranks with a group of their own, for a thread beside the main one."""
        if self.group is None:
            return self
        return replace(self, group=_gloo(timedelta(seconds=self.seconds)), watch=None)

    def at(self, step: int, what: str) -> None:
        """Note what this rank does, for those that may have to wait for it."""
        if self.watch is not None:
            self.watch.at(step, what)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let an error of a collective name the ranks that were waited for.

        Raises:
            BraidError: a rank died, hung, or is elsewhere.
        """
        try:
            yield
        except RuntimeError as e:
            if self.watch is None or not _lost(e):
                raise
            raise BraidError(
                f"the ranks lost each other ({str(e).splitlines()[0][:200]}): {self.watch.late()}; "
                "start the same command again: it goes on from the last checkpoint"
            ) from e


def launched(environment: Mapping[str, str] | None = None) -> bool:
    """Return whether a launcher started this process as one rank of a run."""
    return "RANK" in (os.environ if environment is None else environment)


def alone(work: str) -> None:
    """Refuse several ranks for work that one process does.

    Raises:
        BraidError: a launcher started more than one.
    """
    ranks = os.environ.get("WORLD_SIZE", "1") if launched() else "1"
    if ranks != "1":
        raise BraidError(
            f"{work} is done by one process, and a launcher started {ranks}; start it without "
            "torchrun"
        )


def join(
    device: torch.device | None = None,
    seconds: float = 600.0,
    environment: Mapping[str, str] | None = None,
) -> World:
    """Join the other ranks that torchrun's environment names; alone where there is none.

    Args:
        device: where the model will be: NCCL joins GPUs, gloo everything else.
        seconds: after which a rank that waits for others gives up.
        environment: instead of the process's own.

    Raises:
        BraidError: the environment is incomplete or contradicts itself.
    """
    env = os.environ if environment is None else environment
    if not launched(env):
        return World(seconds=seconds)
    missing = [v for v in VARIABLES if not env.get(v)]
    if missing:
        raise BraidError(
            f"RANK is set but {', '.join(missing)} is not; start with torchrun, or set all of "
            f"{', '.join(VARIABLES)}"
        )
    rank, size, local = (_number(env, v) for v in VARIABLES[:3])
    if not 0 <= rank < size:
        raise BraidError(f"RANK {rank} is not below WORLD_SIZE {size}; start with torchrun")
    gpu, limit = device is not None and device.type == "cuda", timedelta(seconds=seconds)
    if gpu:
        if local >= (there := torch.cuda.device_count()):
            raise BraidError(
                f"LOCAL_RANK {local} has no GPU of its own: this process sees {there}; start as "
                "many processes on a machine as it has GPUs, and let each see all of them"
            )
        torch.cuda.set_device(local)
    meet = torch.distributed.rendezvous  # pyright: ignore[reportPrivateImportUsage]
    store, _, _ = next(meet("env://", rank, size, timeout=limit))
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=limit,
    )
    return World(rank, size, local, seconds, _gloo(limit), Watch(store, rank, size))


def leave(world: World, code: int = 0) -> NoReturn | None:
    """End a rank's process with an exit code; return to the caller where there is only one.

    Threads of gloo can abort a process that already did its work while the interpreter is taken
    down; so ranks meet a last time, flush what they said, and go at once.
    """
    if world.group is None:
        return None
    if world.watch is not None:
        world.watch.close()
    if code == 0:
        torch.distributed.barrier(group=world.group)
    torch.distributed.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _gloo(limit: timedelta) -> ProcessGroup:
    """Return a new group of all ranks on the CPU."""
    group = torch.distributed.new_group(backend="gloo", timeout=limit)
    assert isinstance(group, torch.distributed.ProcessGroup), "every rank is in it"
    return group


def _lost(error: RuntimeError) -> bool:
    """Return whether an error is one of communication."""
    words = ("gloo", "NCCL", "Timed out", "timeout", "Connection", "peer", "store")
    return isinstance(error, torch.distributed.DistError) or any(w in str(error) for w in words)


def _number(env: Mapping[str, str], name: str) -> int:
    try:
        return int(env[name])
    except ValueError:
        raise BraidError(f"{name} {env[name]!r} is no whole number; start with torchrun") from None
