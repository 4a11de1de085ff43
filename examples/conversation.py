"""Hold a two-turn exchange with a picture in each turn, with the model that comes with braid.

The conversation is a list of parts; what the assistant says is a hole. Its answers join the parts,
so that the second turn reads the first.
"""

from __future__ import annotations

import sys

import braid


def main(folder: str = ".") -> None:
    """Ask for a picture, and then for a change of it."""
    pipe = braid.load("mini")
    talk: list = []
    for turn, asked in enumerate(("a small red circle", "make it blue"), start=1):
        talk.append(asked)
        answer = pipe([*talk, braid.Hole("image")], steps=32, guidance=1.0, seed=turn)[-1]
        talk.append(answer)
        path = f"{folder}/turn-{turn}.png"
        answer.resize((256, 256), 0).save(path)
        print(f"user:      {asked}")
        print(f"assistant: {path}, which shows {pipe([answer, braid.Hole('text')])[-1]!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
