"""braid: one transformer, many modalities, any generative process.

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from braid import modalities, paradigms, processes, recipes, samplers
    from braid.braid import Braid
    from braid.errors import BraidError
    from braid.layout import Span
    from braid.loading import load
    from braid.modalities.sounds import Sound
    from braid.parts import Hole, Part, Parts
    from braid.pipeline import Pipeline
    from braid.strand import Strand

_HOME = {
    "Braid": "braid.braid",
    "BraidError": "braid.errors",
    "Hole": "braid.parts",
    "Part": "braid.parts",
    "Parts": "braid.parts",
    "Pipeline": "braid.pipeline",
    "Sound": "braid.modalities.sounds",
    "Span": "braid.layout",
    "Strand": "braid.strand",
    "load": "braid.loading",
}
_MODULES = ("modalities", "paradigms", "processes", "recipes", "samplers")

__version__ = "0.1.0"
__all__ = [
    "Braid",
    "BraidError",
    "Hole",
    "Part",
    "Parts",
    "Pipeline",
    "Sound",
    "Span",
    "Strand",
    "load",
    "modalities",
    "paradigms",
    "processes",
    "recipes",
    "samplers",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"braid.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(
        f"module 'braid' has no attribute {name!r}; public are {', '.join(__all__)}"
    )


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
