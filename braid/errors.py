"""Errors that a user can act on: each message names the value, the expectation and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BraidError(ValueError):
    """A mistake in the input; the command line prints its message alone and exits with code 2."""


def unknown(kind: str, name: str, valid: Iterable[str]) -> BraidError:
    """Return the error for a name that is not in a registry, with the nearest valid name."""
    names = sorted(valid)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return BraidError(f"unknown {kind} {name!r}; {hint}valid: {', '.join(names)}")
