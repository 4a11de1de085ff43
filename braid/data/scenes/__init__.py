"""Scenes: a small world of colored shapes, to measure whether pictures and words agree.

Like the public tests of composition, a prompt names things, colors, numbers, relations and places;
unlike them, everything is generated from a seed and read back exactly, without another model.
"""

from braid.data.scenes.ask import Question, ask
from braid.data.scenes.compose import Edit
from braid.data.scenes.language import (
    Description,
    Named,
    caption,
    describes,
    judge,
    parse,
    prompts,
)
from braid.data.scenes.reader import look
from braid.data.scenes.source import Scenes, scenes
from braid.data.scenes.world import Scene, Thing, arranged, draw, held_out, same

__all__ = [
    "Description",
    "Edit",
    "Named",
    "Question",
    "Scene",
    "Scenes",
    "Thing",
    "arranged",
    "ask",
    "caption",
    "describes",
    "draw",
    "held_out",
    "judge",
    "look",
    "parse",
    "prompts",
    "same",
    "scenes",
]
