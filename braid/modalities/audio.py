"""Sound as the codes of a frozen codec: symbols of a VQ codec, or latents of a KL autoencoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from braid.errors import BraidError
from braid.modalities.codecs import Codes
from braid.modalities.coded import CodedModality
from braid.modalities.sounds import SUFFIXES, Sound, open_sound
from braid.spaces import Discrete, metric_table


class Audio(CodedModality):
    """Clips as the codes of a frozen codec; one or more of its frames make a token.

    Every clip fills the same canvas: silence before and after it is cut off (see `trim`), and
    silence fills up the end. So a span has the same length under every process, and needs no
    symbol that closes it.
    """

    medium, means = "audio", "sound"

    def __init__(
        self,
        name: str = "audio",
        codec: str = "mini/audio-codec",
        seconds: float = 1.0,
        frames_per_token: int = 1,
        field: str | None = None,
    ) -> None:
        """Make an audio modality.

        Args:
            name: name of its strand.
            codec: folder of a codec, a name of `braid codec list`, or a Hub id.
            seconds: length of the canvas, rounded up to whole tokens; the default of a hole.
            frames_per_token: frames of the codec that make a token.
            field: field of the raw examples that holds the sound; the name if None.
        """
        super().__init__(name, field or name, codec)
        if not (math.isfinite(seconds) and seconds > 0):
            raise BraidError(f"{name} seconds {seconds} must be a positive number")
        if frames_per_token < 1:
            raise BraidError(f"{name} frames_per_token {frames_per_token} must be at least 1")
        self.rate, self.stride, self.seconds = self.shell.rate, self.shell.stride, seconds
        self.frames_per_token = frames_per_token
        # a hundredth of a sample is no reason for another token
        n = math.ceil((seconds * self.rate - 0.01) / (self.stride * frames_per_token))
        self.shape, self.samples = (n,), n * self.stride * frames_per_token
        self.space = self._joined(frames_per_token)

    def accepts(self, raw: object) -> bool:
        """Accept sounds, and paths that end like one."""
        return isinstance(raw, Sound) or (isinstance(raw, Path) and raw.suffix.lower() in SUFFIXES)

    def encode(self, raw: Any, following: str | None = None) -> Tensor:
        """Return the tokens of a clip, or of `Codes` that a cache holds.

        Takes all that `open_sound` does, and refuses what is silent, and longer than the canvas
        once it is trimmed.
        """
        if isinstance(raw, Codes):
            return self.tokens(raw.of(self.card["fingerprint"], self.name))
        clip = trim(open_sound(raw, self.rate, self.name, note=self._note), self.rate)
        if len(clip) > self.samples:
            raise BraidError(
                f"{self.name}: the clip is {len(clip) / self.rate:.2f} s long without its silence, "
                f"the canvas {self.samples / self.rate:.2f} s; raise the modality's `seconds`, or "
                "cut the clip"
            )
        canvas = torch.nn.functional.pad(clip, (0, self.samples - len(clip)))
        with torch.no_grad():
            return self.tokens(self.codec.encode(canvas[None])[0])

    def tokens(self, cells: Tensor) -> Tensor:
        """Join the cells [frames, ...] of each token."""
        frames = self.shape[0] * self.frames_per_token
        if len(cells) != frames:
            raise BraidError(
                f"{self.name}: the codes are of {len(cells)} frames, the model reads {frames}; "
                "encode the data at the model's `seconds`"
            )
        return cells.reshape(self.space.shape(self.shape[0]))

    def decode(self, tokens: Tensor, shape: tuple[int, ...] | None = None) -> Sound:
        """Return the clip of tokens [n, ...] without the silence around it.

        One that was interrupted ends early.
        """
        if not len(tokens):
            return Sound(torch.zeros(self.samples).numpy(), self.rate)
        cells = tokens.cpu().reshape(self.shell.space.shape(len(tokens) * self.frames_per_token))
        samples = self.codec.decode(cells[None])[0].float()
        return Sound(trim(samples, self.rate).numpy(), self.rate)

    def hole_shape(self, shape: int | tuple[int, ...] | None, causal: bool) -> tuple[int, ...]:
        """Return at most the asked number of tokens; a parallel process fills the whole canvas."""
        (n,) = super().hole_shape(shape, causal)
        if n > self.shape[0]:
            raise BraidError(
                f"a hole of {self.name} spans at most {self.shape[0]} tokens, not {n}; train with "
                "more `seconds`"
            )
        return (n,) if causal else self.shape

    def metric(self) -> dict[str, Any]:
        """Return the codec's vectors, where all symbols of a token are rows of one table.

        Symbols of residual groups have a table each; theirs are nearly equal distances.
        """
        cell = self.shell.space
        if not isinstance(cell, Discrete):
            return super().metric()
        table = self.codec.table() if cell.groups == 1 else None
        if table is None:
            return {"table": metric_table(cell.size)}
        return {"table": table.detach().clone(), "distance": "ordinal", "power": 2, "c": 12.0}


def trim(samples: Tensor, rate: int, below: float = 40.0, margin: float = 0.05) -> Tensor:
    """Cut the silence off the ends of samples [n].

    Silence is what is `below` decibels softer than the loudest 10 ms; `margin` seconds of it stay
    at each end. Samples that are 0 throughout stay whole.
    """
    step = max(1, rate // 100)
    frames = torch.nn.functional.pad(samples, (0, -len(samples) % step)).view(-1, step)
    power = frames.square().mean(1)
    loud = (power > power.max() * 10 ** (-below / 10)).nonzero()[:, 0]
    if not len(loud):
        return samples
    room = round(margin * rate)
    first, last = int(loud[0]) * step, (int(loud[-1]) + 1) * step
    return samples[max(0, first - room) : last + room]
