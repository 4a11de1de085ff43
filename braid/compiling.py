"""The transformer's blocks through torch.compile: fewer, larger kernels after a slow first call."""

from __future__ import annotations

import os
import shutil
import sys

import torch

from braid.braid import Braid
from braid.errors import BraidError

FORMS = 64
"""For how many forms of a call a block may be compiled: with one row or more, one token or more,
with and without a past or a mask. torch would stop at 8, and compute all others slowly from then
on."""


def check(device: torch.device) -> None:
    """Refuse a machine without what torch.compile needs, before a model is built."""
    if device.type != "cpu":
        return
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise BraidError(
            f"blocks are compiled by {compiler!r} on a CPU, which is not installed; install a C++ "
            "compiler, name one in CXX, or leave out compile"
        )


def compile_blocks(braid: Braid) -> None:
    """Compile each block when it is first called; the weights stay those of the model.

    Lengths that change are compiled for once more, as symbols of the graph.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, FORMS)
    for block in braid.transformer.blocks:
        block.compile()
