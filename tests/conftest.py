"""Tests run on one thread: the models are so small that threads only wait for each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from braid.modalities import codecs
from braid.modalities.codecs import AudioCodec, ImageCodec

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def untrained_codecs(tmp_path_factory) -> Path:
    """Return a folder with the codecs that recipes name, small and untrained."""
    folder = tmp_path_factory.mktemp("recipes")
    small = {"width": 8, "encoder": 0, "decoder": 0, "fine": 8}
    for name in ("scenes", "emoji", "cifar10"):
        for kind, quantiser in (("vq", "vq:16x2"), ("kl", "kl:2")):
            codecs.save(ImageCodec(quantiser, **small), folder / "codecs" / f"{name}-{kind}")
    codecs.save(AudioCodec("kl:2", **small), folder / "codecs" / "speech-kl")
    return folder


@pytest.fixture
def beside_codecs(untrained_codecs, monkeypatch) -> Path:
    """Run a test in the folder where recipes find their codecs."""
    monkeypatch.chdir(untrained_codecs)
    return untrained_codecs
