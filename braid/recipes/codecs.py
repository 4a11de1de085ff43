"""Recipes of codecs: what to train before a braid reads real pictures and sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from braid.codec_config import CodecExperiment, CodecTrain
from braid.config import DataConfig
from braid.errors import unknown
from braid.settings import load_as, override


def scenes() -> CodecExperiment:
    """Scenes and digits at 32x32: 8x8 cells of 4 numbers with 9 levels each.

    codec.quantiser=vq:512x8 gives one symbol a cell, kl:4,1e-4 continuous latents.
    """
    return CodecExperiment(
        name="scenes",
        codec={"kind": "image", "quantiser": "levels:9x4", "width": 64, "fine": 32},
        size=32,
        data=DataConfig(
            mix={"scenes": DataConfig(source="scenes"), "digits": DataConfig(source="digits")}
        ),
        train=CodecTrain(minutes=5, batch=32, augment=False, examples=24_000),
    )


def emoji() -> CodecExperiment:
    """Emoji at 64x64: 16x16 cells of 1024 symbols; half an hour on two CPU cores.

    Set data.path and data.validation; codec.quantiser=kl:4,1e-6 gives continuous latents.
    """
    return CodecExperiment(
        name="emoji",
        codec={"kind": "image", "quantiser": "vq:1024x8", "width": 96, "fine": 32},
        size=64,
        data=DataConfig(source="files"),
        train=CodecTrain(minutes=30, batch=8, optimizer="muon", learning_rate=8e-3),
    )


def cifar10() -> CodecExperiment:
    """CIFAR-10 photos at 32x32: 8x8 cells of 1024 symbols; set data.path and data.validation."""
    return CodecExperiment(
        name="cifar10",
        codec={"kind": "image", "quantiser": "vq:1024x8", "width": 96, "fine": 32},
        size=32,
        data=DataConfig(source="files"),
        train=CodecTrain(minutes=6, batch=16, optimizer="muon", learning_rate=8e-3),
    )


def speech() -> CodecExperiment:
    """Speech at 8 kHz; set data.path and data.validation; codec.quantiser=kl:16 for latents."""
    return CodecExperiment(
        name="speech",
        codec={"kind": "audio"},
        size=0.8,
        data=DataConfig(source="files"),
        train=CodecTrain(minutes=8, batch=16),
    )


CODEC_RECIPES: dict[str, Callable[[], CodecExperiment]] = {
    "scenes": scenes,
    "emoji": emoji,
    "cifar10": cifar10,
    "speech": speech,
}


def resolve_codec(name: str, settings: Sequence[str] = ()) -> CodecExperiment:
    """Return a codec's recipe or experiment file, with `key.path=value` overrides."""
    if name in CODEC_RECIPES:
        return override(CODEC_RECIPES[name](), settings)
    if Path(name).suffix in (".json", ".yaml", ".yml"):
        return override(load_as(CodecExperiment, Path(name)), settings)
    raise unknown("codec recipe", name, CODEC_RECIPES)
