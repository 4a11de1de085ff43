"""Train on a Ray cluster: one worker a GPU, each of which is one rank of `braid train`.

    python launch/ray_train.py --workers 16 RECIPE [key.path=value ...] --out DIR

What follows the options is given to `braid train`; DIR is a folder that all machines see. Ray only
finds the machines: each worker sets torchrun's environment and starts the command in a process of
its own. A worker that is lost ends the others, and Ray starts all of them again, up to --restarts
times; the command goes on. --dry-run prints what each worker would start.
"""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import subprocess
import sys

SAVED = (75, 130)
"""Exit codes of a run that was interrupted and saved."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the options; all that follows the recipe is for `braid train`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=8, help="ranks; one GPU each")
    parser.add_argument("--cpu", action="store_true", help="workers without GPUs")
    parser.add_argument("--restarts", type=int, default=3, help="after a worker is lost")
    parser.add_argument("--dry-run", action="store_true", help="print the command and end")
    parser.add_argument("train", nargs=argparse.REMAINDER, help="the arguments of braid train")
    options = parser.parse_args(arguments)
    if not options.train:
        parser.error("name a recipe, and what else `braid train` should get")
    return options


def command(train: list[str]) -> list[str]:
    """Return what each worker starts."""
    return [sys.executable, "-m", "braid", "train", *train]


def environment(rank: int, size: int, local_rank: int, address: str, port: int) -> dict[str, str]:
    """Return torchrun's environment of a rank."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(local_rank),
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }


def work(config: dict) -> int:
    """Be one rank: agree on an address with the others, start the command, return its exit code."""
    import ray.train
    import torch
    from torch import distributed

    context = ray.train.get_context()
    rank, size, local = (
        context.get_world_rank(),
        context.get_world_size(),
        context.get_local_rank(),
    )
    # rank 0 says where the processes meet; Ray's own group has joined the workers already
    mine = [0] * 5
    if rank == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            host = socket.gethostbyname(ray.util.get_node_ip_address())
            mine = [*map(int, host.split(".")), free.getsockname()[1]]
    told = torch.tensor(mine)
    if size > 1:
        distributed.broadcast(told, 0)
    *host, port = told.tolist()
    env = environment(rank, size, local, ".".join(map(str, host)), port)
    # Ray shows each worker its own GPUs only, and braid takes the one with its local number
    env |= {"LOCAL_RANK": "0"} if os.environ.get("CUDA_VISIBLE_DEVICES", "").isdigit() else {}
    code = subprocess.run(command(config["train"]), env={**os.environ, **env}).returncode
    if code not in (0, *SAVED):
        raise RuntimeError(f"rank {rank} ended with {code}")
    ray.train.report({"exit_code": code})
    return code


def main(arguments: list[str] | None = None) -> int:
    """Start the workers; returns the exit code of rank 0."""
    options = parse(arguments)
    if options.dry_run:
        print(shlex.join(command(options.train)))
        return 0
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        work,
        train_loop_config={"train": options.train},
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=not options.cpu),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=options.restarts)),
    )
    result = trainer.fit()
    code = getattr(result, "return_value", None)  # versions differ in which of the two they keep
    return int((result.metrics or {}).get("exit_code", 0) if code is None else code)


if __name__ == "__main__":
    sys.exit(main())
