"""What an evaluation returns: plain numbers under plain names, and pictures to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from braid.modalities.sounds import Sound
    from braid.parts import Parts

Number = float | int | str | None


@dataclass
class Evaluation:
    """Result of a suite.

    Attributes:
        numbers: name -> number; None where the model cannot do it, with the reason under
            "name_note".
        panels: title -> rows of (caption, picture) to show.
        trajectory: a generation with its frames, and the number of the part that was generated.
        sounds: title -> (caption, clip) to listen to.
        settings: what the numbers depend on besides the model: suite, data, seed and options.
    """

    numbers: dict[str, Number] = field(default_factory=dict)
    panels: dict[str, list[list[tuple[str, Image.Image]]]] = field(default_factory=dict)
    trajectory: tuple[Parts, int] | None = None
    sounds: dict[str, list[tuple[str, Sound]]] = field(default_factory=dict)
    settings: dict[str, Number] = field(default_factory=dict)
