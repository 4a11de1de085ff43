"""Judges what is said, and by whom: a classifier of clips, trained on real ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from braid.data.rows import require
from braid.errors import BraidError
from braid.modalities.codecs.mel import log_mel
from braid.modalities.resampling import resample
from braid.modalities.sounds import Sound

FRAMES = 24
"""Log-mel frames that a clip of any length is brought to."""


@dataclass(frozen=True)
class Listener:
    """A classifier trained on real clips, independent of every model.

    A support vector machine on log-mel spectra of what lies between the silences, resampled to
    FRAMES frames; and the duration. Loudness does not matter.

    Attributes:
        machine: what predicts.
        rate: samples a second of arrays.
        mean, deviation: of the features of the training clips.
    """

    machine: Any
    rate: int
    mean: np.ndarray
    deviation: np.ndarray

    @staticmethod
    def train(
        clips: Sequence[Sound | np.ndarray], labels: Sequence[str] | Sequence[int], rate: int
    ) -> Listener:
        """Fit a listener to clips; arrays [samples] have this rate, sounds are brought to it.

        Raises:
            BraidError: there are fewer than 2 labels, or not one for each clip.
        """
        svm = require("sklearn.svm", "eval")
        if len(clips) != len(labels) or len(set(labels)) < 2:
            raise BraidError(
                f"a listener needs clips of at least 2 labels, and a label for each; got "
                f"{len(clips)} clips and {len(labels)} labels of {len(set(labels))} kinds"
            )
        rows = _features(clips, rate)
        mean, deviation = rows.mean(0), rows.std(0).clip(1e-6)
        machine = svm.SVC(C=10, gamma=0.5 / rows.shape[1])
        machine.fit((rows - mean) / deviation, list(labels))
        return Listener(machine, rate, mean, deviation)

    def __call__(self, clips: Sequence[Sound | np.ndarray]) -> list[Any]:
        """Return the label of each clip."""
        if not len(clips):
            return []
        rows = (_features(clips, self.rate) - self.mean) / self.deviation
        return self.machine.predict(rows).tolist()


def _features(clips: Sequence[Sound | np.ndarray], rate: int) -> np.ndarray:
    """Return a row for each clip, [n, numbers]."""
    return np.stack([_row(_samples(clip, rate), rate) for clip in clips])


def _samples(clip: Sound | np.ndarray, rate: int) -> Tensor:
    if isinstance(clip, Sound):
        return resample(torch.from_numpy(clip.samples), clip.rate, rate)
    samples = torch.from_numpy(np.asarray(clip, dtype=np.float32))
    if samples.ndim != 1 or not len(samples):
        raise BraidError(f"expected a clip as samples [n], got an array of {tuple(samples.shape)}")
    return samples


def _row(samples: Tensor, rate: int, quiet: float = 50.0, silence: float = 25.0) -> np.ndarray:
    """Return the features of a clip.

    Bands are cut `quiet` decibels below the loudest one, frames at the ends that are `silence`
    decibels softer than the loudest one are left out.
    """
    mels = log_mel(samples[None] / samples.abs().max().clamp(min=1e-9), rate)[0]  # [frames, bands]
    mels = mels.clamp(min=float(mels.max()) - quiet * math.log(10) / 10)
    loudness = mels.logsumexp(1)
    loud = (loudness > loudness.max() - silence * math.log(10) / 10).nonzero()[:, 0]
    mels = mels[int(loud[0]) : int(loud[-1]) + 1]
    even = torch.nn.functional.interpolate(
        mels.T[None], size=FRAMES, mode="linear", align_corners=True
    )
    return np.append(even.flatten().numpy(), math.log(len(mels)))
