"""Recipes: functions that return an experiment. To add one.

Write a function, add a line to RECIPES.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from braid.config import Experiment, unsettled
from braid.errors import BraidError, unknown
from braid.recipes.adapt_ar import adapt_ar
from braid.recipes.digits import digits
from braid.recipes.image_text import image_text
from braid.recipes.omni import omni
from braid.recipes.pictures import cifar10, emoji
from braid.recipes.scenes import scenes
from braid.recipes.speech import speech
from braid.recipes.toy import toy
from braid.settings import explained, load, override

RECIPES: dict[str, Callable[..., Experiment]] = {
    "adapt-ar": adapt_ar,
    "cifar10": cifar10,
    "digits": digits,
    "emoji": emoji,
    "image-text": image_text,
    "omni": omni,
    "scenes": scenes,
    "speech": speech,
    "toy": toy,
}


def resolve(name: str, settings: Sequence[str] = ()) -> Experiment:
    """Return the experiment of a recipe's name or of a file, with `key.path=value` overrides.

    A setting without a dot, such as paradigm=transfusion, is an argument of the recipe where it has
    one of that name. A recipe with an argument `settings` gets the others and applies them itself.
    """
    if name in RECIPES:
        recipe = RECIPES[name]
        known = inspect.signature(recipe).parameters
        own = [s for s in settings if s.partition("=")[0] in known.keys() - {"settings"}]
        rest = [s for s in settings if s not in own]
        arguments: dict[str, Any] = dict(s.split("=", 1) for s in own)
        _complete(name, arguments)
        try:
            if "settings" in known:
                return recipe(**arguments, settings=rest)
            with unsettled():
                made = recipe(**arguments)
            return override(made, rest)
        except ValidationError as e:
            raise explained(e, Experiment) from e
    if Path(name).suffix in (".json", ".yaml", ".yml") or Path(name).exists():
        with unsettled():
            made = load(Path(name) / "experiment.json" if Path(name).is_dir() else Path(name))
        return override(made, settings)
    raise unknown("recipe", name, RECIPES)


def _complete(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse a recipe without an argument that it cannot do without."""
    for parameter in inspect.signature(RECIPES[name]).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in arguments:
            raise BraidError(f"recipe {name!r} needs {parameter.name}=...; add it")


def describe() -> dict[str, str]:
    """Return recipe -> first line of its docstring."""
    return {name: (inspect.getdoc(f) or "").split("\n")[0] for name, f in RECIPES.items()}


__all__ = [
    "RECIPES",
    "adapt_ar",
    "describe",
    "digits",
    "image_text",
    "omni",
    "resolve",
    "scenes",
    "speech",
    "toy",
]
