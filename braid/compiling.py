"""The transformer through torch.compile: fewer, larger kernels after a slow first call."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from braid.braid import Braid
from braid.errors import BraidError, unknown
from braid.transformer.attend import Apart
from braid.transformer.block import Past

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from braid.rules import Visible

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


def choose(compile: bool | str) -> str | None:
    """Return a name of `KINDS` or None; True is "blocks"."""
    if isinstance(compile, bool):
        return "blocks" if compile else None
    if compile not in KINDS:
        raise unknown("compile", compile, KINDS)
    return compile


def compile_blocks(braid: Braid) -> None:
    """Compile each block when it is first called; the weights stay those of the model.

    Lengths that change are compiled for once more, as symbols of the graph.
    """
    _allow_forms()
    for block in braid.transformer.blocks:
        block.compile()


def freeze(braid: Braid) -> None:
    """Compile the whole transformer with its weights as constants, for calls without a gradient.

    Constant weights are laid out for the processor's matrix unit once instead of in every call,
    which in bfloat16 takes longer than a small product. Each form of a call takes seconds a block
    to compile, and the weights are held twice. Calls that learn, and passes that several requests
    share, are computed as they were.

    Raises:
        BraidError: in a call, where a weight changed since.
    """
    from torch._inductor import config

    _allow_forms()
    transformer = braid.transformer
    plain, weights = transformer.forward, tuple(transformer.parameters())
    half = any(p.dtype in (torch.bfloat16, torch.float16) for p in weights)
    options: dict[str, Any] = {"freezing": True}
    if half and all(p.device.type == "cpu" for p in weights):
        # inductor's products beside oneDNN's, the faster is taken; in float32 nothing was gained
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", module="torch._inductor")
        options |= {
            "max_autotune": True,
            "max_autotune_gemm_backends": "CPP,ATEN",
            "autotune_num_choices_displayed": 0,
            "max_autotune_report_choices_stats": False,
        }
    compiled = torch.compile(plain, options=options)
    before = _states(weights)

    def forward(
        x: Tensor,
        position: Tensor,
        visible: Visible | BlockMask | Apart,
        past: Sequence[Past] | None = None,
        condition: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> tuple[Tensor, list[Past]]:
        if torch.is_grad_enabled() or isinstance(visible, Apart):
            return plain(x, position, visible, past, condition, keys)
        if _states(weights) != before:
            raise BraidError(
                "a weight changed after the transformer was frozen, whose code has the one before; "
                "load the model again, or compile its blocks"
            )
        with config.patch(freezing=True):  # not for what others compile, whose weights may learn
            return compiled(x, position, visible, past, condition, keys)

    transformer.forward = forward


KINDS = {"blocks": compile_blocks, "frozen": freeze}
"""Name -> what compiles a model in place: each block, or the transformer with constant weights."""


def _allow_forms() -> None:
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, FORMS)


def _states(weights: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Return what changes with a weight: where it lies, and how often it was written."""
    return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in weights]
