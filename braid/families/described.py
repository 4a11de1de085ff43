"""What config.json says, read strictly: the parts that many families share."""

from __future__ import annotations

import json
import math
from typing import Any

from braid.config import Options
from braid.errors import BraidError
from braid.families.family import Config, Files
from braid.modalities.text import read_tokenizer
from braid.transformer import RopeScaling


def read_json(files: Files, name: str) -> dict[str, Any]:
    """Return the mapping that a small file holds, empty where there is no such file.

    Raises:
        BraidError: the file is damaged, or holds something else.
    """
    try:
        value = json.loads(files.get(name, "{}"))
    except (ValueError, RecursionError) as e:
        raise BraidError(f"{name} of the release is damaged ({e}); fetch it again") from e
    if not isinstance(value, dict):
        raise BraidError(
            f"{name} of the release holds a {type(value).__name__}, expected a mapping; fetch it "
            "again"
        )
    return value


def need(config: Config, key: str, kind: type = object) -> Any:
    """Return a value of config.json that has to be there.

    Args:
        config: all of it, or a part.
        key: its name.
        kind: its type, None refused; an integer is a float too.

    Raises:
        BraidError: it is missing, or of another type.
    """
    if config.get(key) is None:
        raise BraidError(f"config.json lacks {key!r}; fetch it again")
    value = config[key]
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (kind in (int, float) and isinstance(value, bool)):
        raise BraidError(
            f"config.json sets {key} to {value!r}, expected {_KINDS.get(kind, kind.__name__)}; "
            "fetch it again"
        )
    if kind is float and not math.isfinite(value):
        raise BraidError(f"config.json sets {key} to {value!r}, expected a finite number")
    return value


_KINDS = {int: "an integer", float: "a number", dict: "a mapping", list: "a list"}


def option(config: Config, key: str, usual: Any, kind: type = object) -> Any:
    """Return a value of config.json, or the usual one where it is absent or null; see `need`."""
    return usual if config.get(key) is None else need(config, key, kind)


def refuse(config: Config, where: str = "config.json", /, **allowed: Any) -> None:
    """Refuse a config.json with other values than these; what is absent or null is allowed."""
    for key, value in allowed.items():
        if config.get(key) not in (None, value):
            raise BraidError(f"{where} sets {key} to {config[key]!r}; only {value!r} is supported")


def causal(config: Config) -> None:
    """Refuse a model of the layout of a causal one whose tokens see what comes after."""
    refuse(config, is_causal=True)


def rope(config: Config) -> tuple[float, RopeScaling | None]:
    """Return the base and the scaling of the rotary frequencies, as of any version of config.json.

    Raises:
        BraidError: the scaling is of an unknown kind, or told twice and differently.
    """
    told = _rope(config)
    theta = float(option(told, "rope_theta", option(config, "rope_theta", 10000.0, float), float))
    kind = told.get("rope_type", told.get("type", "default"))
    refuse(config, partial_rotary_factor=1.0)
    refuse(told, partial_rotary_factor=1.0)
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=float(need(told, "factor", float)))
    if kind != "llama3":
        raise BraidError(
            f"config.json scales rotary positions by {kind!r}; known are default, linear, llama3. "
            "If the context you need fits the unscaled model, remove rope_scaling from a copy of "
            "config.json"
        )
    return theta, RopeScaling(
        kind="llama3",
        factor=float(need(told, "factor", float)),
        low=float(need(told, "low_freq_factor", float)),
        high=float(need(told, "high_freq_factor", float)),
        context=need(told, "original_max_position_embeddings", int),
    )


def _rope(config: Config) -> dict[str, Any]:
    """Return what rope_parameters and rope_scaling, its older name, say together."""
    both: dict[str, dict[str, Any]] = {}
    for name in ("rope_parameters", "rope_scaling"):
        told = config.get(name) or {}
        if not isinstance(told, dict) or any(isinstance(x, dict) for x in told.values()):
            raise BraidError(
                f"config.json sets {name} to {told!r}, expected one scaling for all layers"
            )
        if told:
            kind = told.get("rope_type", told.get("type", "default"))
            both[name] = {**{k: v for k, v in told.items() if k != "type"}, "rope_type": kind}
    new, old = both.get("rope_parameters", {}), both.get("rope_scaling", {})
    if new and old:
        keys = ((new.keys() | old.keys()) - {"rope_theta"}) | (new.keys() & old.keys())
        for key in sorted(keys, key=lambda k: (k != "rope_type", k)):  # the kind says most
            if new.get(key) != old.get(key):
                raise BraidError(
                    f"config.json sets {key} to {new.get(key)!r} in rope_parameters and to "
                    f"{old.get(key)!r} in rope_scaling; remove one of the two from a copy of it"
                )
    return {**new, **old}


def text(config: Config, files: Files, size: int, **further: Any) -> Options:
    """Return the options of a released text modality.

    Documents begin as the release's tokenizer begins them, and end with its eos_token_id.

    Args:
        config: the part of config.json that names the special symbols.
        files: the small files.
        size: rows of the embedding.
        further: more options of `ReleasedText`.
    """
    ends = read_json(files, "generation_config.json").get(
        "eos_token_id", config.get("eos_token_id")
    )
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    if any(type(end) is not int for end in ends):
        raise BraidError(
            f"the release sets eos_token_id to {ends}, expected integers; fetch config.json and "
            "generation_config.json again"
        )
    return {
        "kind": "released_text",
        "size": size,
        "begin": _begin(config, files),
        "ends": ends,
        **further,
    }


def _begin(config: Config, files: Files) -> list[int]:
    """Return the symbols that the released tokenizer puts before a text."""
    settings = read_json(files, "tokenizer_config.json")
    first = option(config, "bos_token_id", None, int)
    if "add_bos_token" in settings:  # it stands above what tokenizer.json does
        return [first] if settings["add_bos_token"] and first is not None else []
    if "tokenizer.json" not in files:
        return []
    tokenizer = read_tokenizer(files["tokenizer.json"], "tokenizer.json")
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    starts = [i for i in range(len(whole)) if whole[i : i + len(plain)] == plain]
    return whole[: starts[0]] if starts else []


def named(config: Config) -> str:
    """Return a name for the experiment of a released model."""
    return str(config.get("model_type") or "released")
