"""A pipeline's call in the words of diffusers, for those who know them."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from braid.errors import BraidError
from braid.generation import Frame

if TYPE_CHECKING:
    from braid.pipeline import Pipeline

StepEnd = Callable[[Any, int, float, dict[str, Any]], Mapping[str, Any] | None]
"""(pipeline, network call, time, {"latents": state, "belief": belief}) -> what it changes."""


def one(**given: Any) -> Any:
    """Return the one of several names of an option that was given, or None.

    Raises:
        BraidError: more than one was given, whatever their values.
    """
    used = {name: value for name, value in given.items() if value is not None}
    if len(used) > 1:
        raise BraidError(f"{' and '.join(used)} are two names of one option; give one of them")
    return next(iter(used.values()), None)


def prompted(parts: Sequence[Any] | str, drawn: Any, words: Sequence[Any]) -> Sequence[Any]:
    """Return the parts of a call; a bare prompt means a picture of it, as it does in diffusers.

    Args:
        parts: the parts, or a prompt.
        drawn: the hole that a bare prompt asks to fill.
        words: the options in the words of diffusers; without any of them a bare prompt stays as
            it is, and is refused later.
    """
    if isinstance(parts, str) and any(word is not None for word in words):
        return [parts, drawn]
    return parts


def seed_of(given: int | torch.Generator | None) -> int:
    """Return a seed; a generator draws it, so that its next call gives another result."""
    if isinstance(given, torch.Generator):
        device = given.device
        return int(torch.randint(2**63 - 1, (), generator=given, device=device))
    return 0 if given is None else whole("seed", given)


def whole(name: str, value: Any, least: int | None = None) -> int:
    """Return an option that is a whole number.

    Raises:
        BraidError: it is none, or below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise BraidError(f"{name} {value!r} is no whole number; give one") from None
    if least is not None and number < least:
        raise BraidError(f"{name} {number} must be at least {least}")
    return number


def step_end(pipe: Pipeline, callback: StepEnd | None) -> Callable[[Frame], bool] | None:
    """Return what watches a generation for `callback_on_step_end`.

    The callback gets braid's time, from 0 (noise) to 1 (data). It stops the generation by
    returning {"interrupt": True} or by setting `pipe._interrupt`; the state is read only.
    """
    if callback is None:
        return None
    pipe._interrupt = False
    calls = itertools.count()

    def watch(frame: Frame) -> bool:
        told = {"latents": frame.state, "belief": frame.belief}
        answer = callback(pipe, next(calls), frame.time, dict(told)) or {}
        _refuse_changes(answer, told)
        return not (answer.get("interrupt", False) or pipe._interrupt)

    return watch


def _refuse_changes(answer: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    changed = [k for k in answer if k != "interrupt" and answer[k] is not told.get(k)]
    if changed:
        raise BraidError(
            f"callback_on_step_end returned another {changed[0]!r}; braid's samplers take no state "
            'from a callback: return {}, or {"interrupt": True} to stop'
        )
