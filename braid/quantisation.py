"""Less memory for a model in use: fewer bits a weight, and blocks that wait in the host's memory.

None of it is for training, and a quantised model is not saved: the full weights stay the original.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from braid.braid import Braid
from braid.errors import BraidError, unknown

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Name -> precision of weights that are not quantised."""


def dtype_of(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return a precision by its name; None stays None."""
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        return DTYPES[dtype]
    if dtype is not None and dtype not in DTYPES.values():
        raise unknown("dtype", str(dtype), DTYPES)
    return dtype


def check(quantise: str | None) -> None:
    """Refuse an unknown kind, and one whose library is missing, before any weight is read."""
    if quantise is not None:
        if quantise not in KINDS:
            raise unknown("quantise", quantise, KINDS)
        _torchao()


def lay_out(
    braid: Braid,
    device: torch.device,
    dtype: torch.dtype | None = None,
    quantise: str | None = None,
    offload: bool = False,
) -> Braid:
    """Put a model where it runs, changed in place.

    It is quantised where it is, so that the device never holds the full weights.

    Args:
        braid: the model, in the host's memory.
        device: where it computes.
        dtype: precision of what is not quantised; None keeps it.
        quantise: a kind of `KINDS`; None keeps all weights.
        offload: keep the transformer's blocks in the host's memory; each visits the device while
            it computes.
    """
    check(quantise)
    if dtype is not None:
        braid.to(dtype=dtype)
    if quantise is not None:
        KINDS[quantise](braid)
    if offload:
        return keep_blocks_home(braid, device)
    # moving it to where it is would move nothing, and import torch's fake tensors
    return braid if device.type == "cpu" else braid.to(device)


def int8(braid: Braid) -> None:
    """Round the weights of all linear layers to 8 bits, with a scale for each output (torchao).

    A head that shares its rows with an embedding keeps them.
    """
    api = _torchao()
    tables = {id(m.weight) for m in braid.modules() if isinstance(m, nn.Embedding)}

    def chosen(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and id(module.weight) not in tables

    api.quantize_(braid, api.Int8WeightOnlyConfig(set_inductor_config=False), filter_fn=chosen)


KINDS: dict[str, Callable[[Braid], None]] = {"int8": int8}
"""Name -> what quantises a model in place."""


def quantised(braid: Braid) -> bool:
    """Return whether weights of a model are held in fewer bits than they stand for."""
    return any(len(_plain(p)) > 1 for p in braid.parameters())


def weight_bytes(braid: Braid) -> int:
    """Return the memory of a model's weights, scales of quantised ones included."""
    return sum(t.numel() * t.element_size() for p in braid.parameters() for t in _plain(p))


def _plain(tensor: Tensor) -> list[Tensor]:
    """Return the plain tensors that a tensor is made of: itself, or its values and scales."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return [tensor]
    return [plain for name in flatten()[0] for plain in _plain(getattr(tensor, name))]


def keep_blocks_home(braid: Braid, device: torch.device) -> Braid:
    """Keep the transformer's blocks in the host's memory, and the rest of the model on a device.

    A block is copied to the device when it is called, and its copy dropped when it returns, so
    that the device holds one block at a time.
    """
    for block in braid.transformer.blocks:
        home = [
            (module, name, nn.Parameter(_pinned(parameter, device), requires_grad=False))
            for module in block.modules()
            for name, parameter in module.named_parameters(recurse=False)
        ]
        block.register_forward_pre_hook(_Visit(home, device))
        block.register_forward_hook(_Return(home), always_call=True)
        _Return(home)()
    for name, parameter in list(braid.named_parameters()):
        if not name.startswith("transformer.blocks."):
            parameter.data = parameter.data.to(device)
    for module in braid.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    return braid


Home = list[tuple[nn.Module, str, nn.Parameter]]
"""A block's parameters where they live: the module, the name in it, the parameter."""


class _Visit:
    """Copies a block's parameters to the device."""

    def __init__(self, home: Home, device: torch.device) -> None:
        self.home, self.device = home, device

    def __call__(self, *_: Any) -> None:
        for module, name, parameter in self.home:
            copy = parameter.detach().to(self.device, non_blocking=True, copy=True)
            setattr(module, name, nn.Parameter(copy, requires_grad=False))


class _Return:
    """Puts a block's own parameters back, and with that drops the copies."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def __call__(self, *_: Any) -> None:
        for module, name, parameter in self.home:
            setattr(module, name, parameter)


def _pinned(parameter: nn.Parameter, device: torch.device) -> Tensor:
    """Return a tensor of the host that an accelerator copies from without waiting."""
    plain = parameter.detach()
    return plain.pin_memory() if device.type == "cuda" and len(_plain(plain)) == 1 else plain


def _torchao() -> ModuleType:
    try:
        with _quiet("torchao", "torch.utils._pytree"):
            return importlib.import_module("torchao.quantization")
    except ImportError as e:
        raise BraidError(
            'torchao is not installed; run: pip install "braid-models[quantised]"'
        ) from e


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silence what a library says of kernels that other machines have."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
