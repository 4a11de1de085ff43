"""What torchrun trained on two ranks, a plain command reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.chaos.harness import SMALL
from tests.parallel.ranks import environment


def main(folder: Path, quick: bool = False) -> str:
    """Train with torchrun, sample without; returns what was seen."""
    out, picture = folder / "run", folder / "a.png"
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "braid", "train", "toy", *SMALL, "train.steps=4", "train.batch=8",
        "--out", str(out), "--device", "cpu",
    ]  # fmt: skip
    for arguments in (
        torchrun,
        [sys.executable, "-m", "braid", "sample", str(out), "a", "--to", "image", "--out",
         str(picture), "--steps", "4"],
    ):  # fmt: skip
        done = subprocess.run(
            arguments, env=environment(), capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
    with Image.open(picture) as image:
        size = image.size
    pickles = [
        f
        for _, _, files in os.walk(out)
        for f in files
        if f.endswith((".pt", ".bin", ".distcp", ".metadata", ".pkl"))
    ]
    assert not pickles, pickles
    return f"a {size[0]} x {size[1]} picture from a run of two ranks; no pickle in its folder"
