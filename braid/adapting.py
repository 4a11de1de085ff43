"""What of a model learns: parts are frozen, or learn slower, or through low-rank adapters.

Adapters (LoRA, arXiv:2106.09685) are small matrices beside frozen ones; the library peft makes
them. A model with adapters is trained; what is loaded and saved has them in its weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from braid.config import LoraConfig, TrainConfig
from braid.errors import BraidError
from braid.spaces import SymbolHead

_MARK = "lora_"


def prepare(model: nn.Module, config: TrainConfig) -> None:
    """Freeze what `train.freeze` names, and add the adapters of `train.lora`, in place.

    Raises:
        BraidError: a name fits nothing, nothing is left to learn, or peft is missing.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in chosen(model, config.freeze, "train.freeze"):
        parameters[name].requires_grad_(False)
    if config.lora is not None:
        _add(model, config.lora)
    if not any(p.requires_grad for p in model.parameters()):
        raise BraidError("train.freeze leaves nothing to learn; take a name out of it")


def chosen(model: nn.Module, patterns: Iterable[str], setting: str) -> dict[str, str]:
    """Return the names of the parameters that patterns fit -> the last pattern that fits.

    Args:
        model: whose parameters.
        patterns: each is a strand, a module, or a pattern with *, ? and [] of names of either.
        setting: where they stand, for messages.

    Raises:
        BraidError: one fits nothing.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    found: dict[str, str] = {}
    for pattern in patterns:
        fits = [name for name in names if _fits(name, pattern)]
        if not fits:
            known = dict.fromkeys(_short(name) for name in names)
            raise BraidError(
                f"{setting} {pattern!r} fits no parameter; this model has {', '.join(known)}"
            )
        found |= dict.fromkeys(fits, pattern)
    return found


def rates(model: nn.Module, config: TrainConfig) -> dict[int, float]:
    """Return id of a parameter -> factor of its learning rate, where `train.rates` gives one."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    fits = chosen(model, config.rates, "train.rates")
    return {id(parameters[name]): config.rates[pattern] for name, pattern in fits.items()}


def merge(model: nn.Module) -> None:
    """Add the adapters to the weights beside them and take them out, in place; all learns again."""
    for name, layer in list(_adapted(model)):
        layer.merge()
        model.set_submodule(name, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    model.requires_grad_(True)


def merged(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that `merge` would leave, by the names they would have."""
    out = {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in model.named_parameters()
        if _MARK not in name
    }
    for name, layer in _adapted(model):
        (adapter,) = layer.active_adapters
        weight = out[f"{name}.weight"]
        out[f"{name}.weight"] = weight + layer.get_delta_weight(adapter).detach().to(weight.dtype)
    return out


def _add(model: nn.Module, config: LoraConfig) -> None:
    """Put adapters beside linear layers; they begin as nothing.

    Within `config.within` nothing but the adapters learns. A layer that is frozen gets none, nor
    does a head of symbols: its rows are read piece by piece, and may be those of an embedding.
    """
    from braid.data.rows import require

    peft = require("peft", "peft")
    inside = chosen(model, config.within, "train.lora.within")
    heads = {id(m.linear) for m in model.modules() if isinstance(m, SymbolHead)}
    layers = {
        n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) not in heads
    }
    names = [n for n, m in layers.items() if f"{n}.weight" in inside and m.weight.requires_grad]
    if not names:
        raise BraidError(
            f"train.lora.within {list(config.within)} holds no linear layer that may learn; name "
            "modules such as transformer or transformer.blocks.0.attention, and do not freeze them"
        )
    learned = {n for n, p in model.named_parameters() if p.requires_grad and n not in inside}
    options = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        # a list of names would also match others that end alike
        target_modules="|".join(re.escape(name) for name in names),
        bias="none",
    )
    peft.inject_adapter_in_model(options, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_MARK in name or name in learned)


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((n, m) for n, m in model.named_modules() if hasattr(m, "lora_A"))


def _fits(name: str, pattern: str) -> bool:
    """Return whether a pattern fits a parameter's name, or a module or strand that holds it."""
    return any(
        fnmatchcase(name, whole)
        for whole in (pattern, f"{pattern}.*", f"strands.{pattern}", f"strands.{pattern}.*")
    )


def _short(name: str) -> str:
    """Return the strand of a parameter, or the module at the top that holds it."""
    first, second, *_ = name.split(".")
    return second if first == "strands" else first
