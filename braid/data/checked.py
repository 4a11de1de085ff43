"""Encoded rows of a source, where bad rows are skipped, counted and limited."""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from braid.data.rows import Row, Source
from braid.errors import BraidError, unknown

T = TypeVar("T")


@dataclass(frozen=True)
class Found(Generic[T]):
    """What stands for a row.

    Attributes:
        row: number of the row that was used.
        encoded: that row, encoded.
        reason: why the row that was asked for was not used; None if it was.
    """

    row: int
    encoded: T
    reason: str | None


class Checked(Generic[T]):
    """Encoded rows of a source; a bad row is counted and the next one taken in its place.

    A row is bad if it cannot be read (BraidError, OSError), lacks a field, or `encode` refuses it
    (BraidError, OSError). Encoded rows are kept while they fit into `cache_bytes`; callers must not
    write into them. Bad rows are remembered, to be neither read nor counted again; there are never
    more than a share `limit` of the rows, and one.

    Attributes:
        skipped: bad rows counted by reason.
        bad: the first bad rows that were met, at most 100, as (index, message).
    """

    most_remembered = 100

    def __init__(
        self,
        source: Source,
        encode: Callable[[Row], T],
        size_of: Callable[[T], int],
        *,
        cache_bytes: int = 256 << 20,
        limit: float | None = None,
        on_skip: Callable[[int, str], None] | None = None,
        fields: Sequence[str] | None = None,
    ) -> None:
        """Check the rows of a source.

        Args:
            source: where raw rows come from.
            encode: turns a raw row into what is trained on; deterministic.
            size_of: bytes that an encoded row takes in memory.
            cache_bytes: room for encoded rows.
            limit: share of bad rows beyond which `get` raises; None leaves it to `check_limit`.
            on_skip: called once for every bad row, with its index and what is wrong with it.
            fields: fields that a row must have; all of the source's otherwise.
        """
        self.source = source
        self._encode, self._size_of = encode, size_of
        self._room, self._limit, self.on_skip = cache_bytes, limit, on_skip
        self._fields = tuple(source.fields if fields is None else fields)
        for field in self._fields:
            if field not in source.fields:
                raise unknown(f"field of {source.name}", field, source.fields)
        self._lock = threading.Lock()
        self._cache: dict[int, T] = {}
        self._skip: dict[int, str] = {}
        self._reasons: Counter[str] = Counter()
        self._bad: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self.source)

    @property
    def skipped(self) -> dict[str, int]:
        """Return how many rows were bad, by reason, most frequent first."""
        with self._lock:
            return dict(self._reasons.most_common())

    @property
    def bad(self) -> list[tuple[int, str]]:
        """Return the first bad rows that were met, as (index, message)."""
        with self._lock:
            return list(self._bad)

    def get(self, i: int) -> T:
        """Return row i encoded, or the next good one after it, as `find` does."""
        return self.find(i).encoded

    def find(self, i: int) -> Found[T]:
        """Return row i, or the next good one after it; the last is followed by the first.

        What is found follows from i and the source alone.

        Raises:
            BraidError: every row is bad, or more than `limit` allows.
        """
        length = len(self)
        if not 0 <= i < length:
            raise IndexError(f"row {i} of {self.source.name} is out of range 0..{length - 1}")
        for step in range(length):
            index = (i + step) % length
            if index not in self._skip and (encoded := self._read(index)) is not None:
                return Found(index, encoded, self._skip[i] if step else None)
        raise self._too_many("none could be used; repair the rows")

    def refuse(self, index: int, reason: str, message: str) -> None:
        """Count a bad row, unless it was before; another process may have met it.

        Raises:
            BraidError: there are more than `limit` allows.
        """
        with self._lock:
            if index in self._skip:
                return
            self._skip[index] = sys.intern(reason)
            if reason not in self._reasons and len(self._reasons) >= self.most_remembered:
                reason = "other reasons"
            self._reasons[reason] += 1
            if len(self._bad) < self.most_remembered:
                self._bad.append((index, message))
        if self.on_skip is not None:
            self.on_skip(index, message)
        if self._limit is not None:
            self.check_limit(self._limit)

    def why(self, index: int) -> str:
        """Return the reason for which a row was refused."""
        return self._skip[index]

    def share(self, processes: int) -> None:
        """Take only a part of the room for encoded rows, as one of several processes."""
        with self._lock:
            self._room //= processes

    def check_limit(self, limit: float) -> None:
        """Raise if more than a share `limit` of the source's rows, and at least one, was bad."""
        with self._lock:
            count = len(self._skip)
        if count > limit * len(self):
            raise self._too_many(
                f"data.bad_limit {limit:g} allows {int(limit * len(self))}; repair the rows or "
                "raise data.bad_limit"
            )

    def _complete(self, row: Row) -> Row:
        for field in self._fields:
            if row.get(field) is None:
                raise BraidError(f"{field}: the value is missing; fill it in or remove the row")
        return row

    def _read(self, index: int) -> T | None:
        """Return an encoded row; None if it is bad."""
        if index in self._cache:
            return self._cache[index]
        try:
            encoded = self._encode(self._complete(self.source[index]))
        except (BraidError, OSError) as e:
            message = str(e)
            if isinstance(e, OSError):
                message = f"{type(e).__name__}: {e.strerror or e}"
            self.refuse(index, _reason(e), f"{self.source.describe(index)}: {message}")
            return None
        except Exception as e:
            e.add_note(f"while encoding {self.source.describe(index)}")
            raise
        self._keep(index, encoded)
        return encoded

    def _keep(self, index: int, encoded: T) -> None:
        size = self._size_of(encoded)
        with self._lock:
            if index not in self._cache and size <= self._room:
                self._cache[index] = encoded
                self._room -= size

    def _too_many(self, remedy: str) -> BraidError:
        with self._lock:
            count, (_, first) = len(self._skip), self._bad[0]
            reasons = [f"{n} x {reason}" for reason, n in self._reasons.most_common(3)]
        return BraidError(
            f"{count} of {len(self)} rows of {self.source.name!r} are bad "
            f"({', '.join(reasons)}; for instance {first}); {remedy}"
        )


def _reason(error: BraidError | OSError) -> str:
    """Return what is wrong without remedy, names and numbers, so that like rows count together."""
    if isinstance(error, OSError):
        return f"{type(error).__name__}: {error.strerror or 'cannot be read'}"
    text = re.sub(r"(?<!\w)(?:'[^']*'|\"[^\"]*\")", "...", str(error)).split(";")[0]
    while (shorter := re.sub(r"\s*\([^()]*\)", "", text)) != text:
        text = shorter
    return re.sub(r"(?<![-\d])\d+", "N", text)[:120]  # UTF-8 is a name
