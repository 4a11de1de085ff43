"""A codec's training as data, like `config.Experiment`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from braid.config import DataConfig, Model, make
from braid.modalities.codecs import CODECS, Codec


def _codec(value: object) -> object:
    make(CODECS, "codec", value)  # type: ignore[arg-type]
    return value


class CodecTrain(Model):
    """How long and how to train a codec."""

    steps: int = Field(default=100_000, ge=1)
    """Optimiser steps at most."""
    minutes: float | None = Field(default=5.0, gt=0, allow_inf_nan=False)
    """Wall-clock budget; the learning rate falls over it."""
    batch: int = Field(default=16, ge=1)
    """Pictures or clips in a step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon turns all matrices and convolutions (Jordan et al., 2024)."""
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    """Peak learning rate; muon learns well at four times that of adamw."""
    augment: bool = True
    """Flip, shift and recolour pictures; change the loudness of sound."""
    adversary: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of a patch adversary; sharper pictures, more distortion."""
    examples: int = Field(default=50_000, ge=1)
    """Read at most so many examples into memory."""
    log_every: int = Field(default=100, ge=1)
    """Steps between lines of progress."""


class CodecExperiment(Model):
    """Everything that fixes the training of a codec."""

    name: str
    seed: int = Field(default=0, ge=0, lt=2**31)
    codec: Annotated[dict[str, Any], BeforeValidator(_codec)]
    """{"kind": "image" or "audio", options}."""
    size: float = Field(gt=0, allow_inf_nan=False)
    """Side of the training pictures in pixels, or length of the clips in seconds."""
    data: DataConfig
    train: CodecTrain = CodecTrain()

    def make(self) -> Codec:
        """Make the codec, untrained."""
        return make(CODECS, "codec", self.codec)


class Reading(Model):
    """How data is read that a codec encodes beforehand."""

    columns: dict[str, str] | None = None
    """Field -> column; None infers them."""
    split: str | None = None
    """Split of data that has several."""
