"""Rows of one source, each beside a row of another with which it agrees."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from braid.data.rows import Source
from braid.errors import BraidError


class Paired(Source):
    """Rows of `left`, with the fields of a row of `right` that has the same value of a field.

    Which of them is drawn from the row's number, so that a row stays the same. What both have is
    taken from the left.
    """

    def __init__(
        self,
        left: Source,
        right: Source,
        on: Mapping[str, str],
        seed: int = 0,
        times: int = 1,
    ) -> None:
        """Match rows.

        Args:
            left: the rows.
            right: what is put beside them.
            on: one field of the left -> the field of the right that has to be equal.
            seed: of the choice.
            times: how often each row of the left comes, each time with a partner of its own.

        Raises:
            BraidError: a field is missing. A row that finds no partner, or one that cannot be
                read, is a bad row.
        """
        if len(on) != 1:
            raise BraidError(f"data.agree_on {dict(on)}: name one field, as label: digit")
        (self._own, other), self.left, self.right, self._seed = *on.items(), left, right, seed
        self.times = times
        for source, field in ((left, self._own), (right, other)):
            if field not in source.fields:
                raise BraidError(
                    f"{source.name} has no field {field!r} to match on; it has "
                    f"{', '.join(source.fields)}"
                )
        self._rows: dict[Hashable, list[int]] = defaultdict(list)
        for i in range(len(right)):
            try:
                self._rows[_plain(other, right.value(i, other))].append(i)
            except (BraidError, OSError):
                continue  # it is nobody's partner
        self.name = f"{left.name} with {right.name}"
        self.fields = tuple(dict.fromkeys([*left.fields, *right.fields]))
        theirs = {f: x for f, x in right.encoded.items() if f not in left.fields}
        self.encoded = {**theirs, **left.encoded}

    def __len__(self) -> int:
        return len(self.left) * self.times

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = self.left[i % len(self.left)]
        return {**self.right[self._partner(i, row[self._own])], **row}

    def value(self, i: int, field: str) -> Any:
        """Return one value of a row, of its own or of its partner's."""
        own = i % len(self.left)
        partner = self._partner(i, self.left.value(own, self._own))
        if field in self.left.fields:
            return self.left.value(own, field)
        return self.right.value(partner, field)

    def _partner(self, i: int, key: object) -> int:
        """Return the row of the right for row i, whose field to match on holds `key`."""
        partners = self._rows.get(_plain(self._own, key))
        if not partners:
            raise BraidError(
                f"no row of {self.right.name} has the {self._own} {key!r}; leave the row out, or "
                "match on another field"
            )
        return partners[np.random.default_rng([self._seed, i]).integers(len(partners))]

    def describe(self, i: int) -> str:
        """Name the row of the left."""
        return self.left.describe(i % len(self.left))


def _plain(field: str, value: object) -> Hashable:
    """Return a value that equals others of its meaning: 7, 7.0 and "7" are the same class.

    What is missing is like nothing, not even like what is missing elsewhere.
    """
    number = float(value) if isinstance(value, float | np.floating) else None
    if value is None or number != number or (isinstance(value, str) and not value.strip()):
        raise BraidError(f"{field}: the value is missing; fill it in or remove the row")
    if number is not None and number.is_integer():
        value = int(number)  # a column of numbers is read as floats where one of them is missing
    return str(value)
