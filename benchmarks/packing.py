"""How full the rows of a batch are: documents packed by best fit, by first fit, alone.

    python benchmarks/packing.py [--quick] [--json FILE]

Fill is tokens of documents over tokens of rows, the median over batches. Alone, each document has a
row of its own, as long as the longest of its batch. The limit is the least number of rows that
could hold the tokens if documents could be cut.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence

from figures import Figure, finish, parser

from braid.layout import fit


def captions(rng: random.Random) -> int:
    """Draw a short caption and a picture of 8 x 8 or 16 x 16 patches."""
    return rng.randint(8, 40) + rng.choice((64, 256))


def texts(rng: random.Random) -> int:
    """Draw a text whose length is log-normal, as those of web pages are, cut at 1000."""
    return max(4, min(1000, round(rng.lognormvariate(4.6, 0.9))))


def conversations(rng: random.Random) -> int:
    """Draw a conversation: up to four turns, each with or without a picture."""
    turns = rng.randint(1, 4)
    return min(1000, sum(rng.randint(10, 80) + 144 * (rng.random() < 0.4) for _ in range(turns)))


def mixed(rng: random.Random) -> int:
    """Draw any of them."""
    return rng.choices((captions, texts, conversations), (4, 4, 2))[0](rng)


MIXES: dict[str, Callable[[random.Random], int]] = {
    "captions": captions,
    "texts": texts,
    "conversations": conversations,
    "mixed": mixed,
}


def first_fit(lengths: Sequence[int], length: int) -> int:
    """Return the number of rows that first fit needs in the given order."""
    rooms: list[int] = []
    for n in lengths:
        row = next((r for r, room in enumerate(rooms) if room >= n), None)
        if row is None:
            rooms.append(length - n)
        else:
            rooms[row] -= n
    return len(rooms)


def fills(draw: Callable[[random.Random], int], row: int, batch: int, trials: int) -> dict:
    """Return the median fill of each way over batches of a mix."""
    found: dict[str, list[float]] = {}
    for trial in range(trials):
        rng = random.Random(trial)
        lengths = [draw(rng) for _ in range(batch)]
        total = sum(lengths)
        begin = time.perf_counter()
        rows = len(fit(lengths, row))
        spent = time.perf_counter() - begin
        each = {
            "best": total / (row * rows),
            "first": total / (row * first_fit(lengths, row)),
            "alone": total / (max(lengths) * batch),
            "limit": total / (row * math.ceil(total / row)),
            "microseconds": 1e6 * spent / batch,
        }
        for name, value in each.items():
            found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Print the fill of every mix, row and batch."""
    options = parser(__doc__, "fewer batches").parse_args()
    trials = 5 if options.quick else 50
    results = []
    print("mix            row  batch   best fit   first fit   alone   limit   us/document")
    for mix, draw in MIXES.items():
        for row in (1024, 2048, 4096):
            for batch in (64, 256, 1024):
                f = fills(draw, row, batch, trials)
                results.append({"mix": mix, "row": row, "batch": batch, **f})
                print(
                    f"{mix:13}{row:5}{batch:7}{f['best']:11.3f}{f['first']:12.3f}"
                    f"{f['alone']:8.3f}{f['limit']:8.3f}{f['microseconds']:14.1f}"
                )
    figures = [
        Figure(
            f"fill of {r['row']} tokens, {r['mix']}, {r['batch']} documents",
            r["best"],
            "of a row",
            r["alone"],
            "a row for each document",
            r["limit"],
            "more",
        )
        for r in results
        if r["row"] == 2048
    ]
    finish(options.json, "packing", figures, results)


if __name__ == "__main__":
    main()
