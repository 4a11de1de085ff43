"""Samplers, one algorithm a file. To add one: write a file, add a line to SAMPLERS."""

from braid.errors import BraidError
from braid.processes import Process
from braid.samplers.ancestral import Ancestral
from braid.samplers.confidence import Confidence
from braid.samplers.ddpm import DDPM
from braid.samplers.euler import Euler
from braid.samplers.filters import Drawing
from braid.samplers.heun import Heun
from braid.samplers.jump import Jump
from braid.samplers.next_token import NextToken
from braid.samplers.sampler import Predict, Sampler, Stepped

SAMPLERS: dict[str, type[Sampler]] = {
    "next_token": NextToken,
    "jump": Jump,
    "euler": Euler,
    "confidence": Confidence,
    "ancestral": Ancestral,
    "heun": Heun,
    "ddpm": DDPM,
}


def suitable(process: Process) -> list[str]:
    """Return the names of the samplers that can run a process; the first is its default."""
    return [name for name, sampler in SAMPLERS.items() if sampler.suits(process)]


def check(sampler: Sampler, process: Process) -> None:
    """Refuse a sampler that cannot run the process."""
    if not sampler.suits(process):
        raise BraidError(
            f"sampler {type(sampler).__name__} cannot run {type(process).__name__}; "
            f"valid: {', '.join(suitable(process)) or 'none'}"
        )


__all__ = [
    "DDPM",
    "SAMPLERS",
    "Ancestral",
    "Confidence",
    "Drawing",
    "Euler",
    "Heun",
    "Jump",
    "NextToken",
    "Predict",
    "Sampler",
    "Stepped",
    "check",
    "suitable",
]
