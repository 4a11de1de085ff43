"""Rate and distortion of a codec on held-out media."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from braid.data import Source
from braid.data.rows import require
from braid.errors import BraidError
from braid.evaluation.evaluation import Number
from braid.evaluation.metrics import mean, psnr, si_sdr, ssim
from braid.evaluation.quality import shuffled
from braid.modalities.codecs import Codec
from braid.modalities.codecs.mel import log_mel_distance
from braid.modalities.pictures import convert, fit_to, open_picture
from braid.modalities.sounds import SILENCE, open_sound
from braid.spaces import Discrete

Media = Tensor
"""All media of a data set: pictures uint8 [n, C, H, W] or sound float32 [n, samples]."""

SSIM_SIDE = 11
"""Side of the smallest pictures whose structural similarity is measured: that of its window."""


class MediaReader(Protocol):
    """Reads the media of a data set, and makes batches of them."""

    def read(self, source: Source, limit: int) -> Media:
        """Return at most `limit` media."""
        ...

    def batch(
        self, media: Media, rows: Tensor, augment: bool, rng: torch.Generator | None = None
    ) -> Tensor:
        """Return what a codec reads, [B, ...]."""
        ...


class Pictures:
    """Reads pictures for a codec."""

    field = "image"

    def __init__(self, codec: Codec, size: float) -> None:
        if not 1 <= size < 2**15:
            raise BraidError(f"size {size:g} is no side of a picture; give 1 pixel or more")
        self.channels, self.size = codec.channels, int(size)

    def read(self, source: Source, limit: int) -> Media:
        """Return pictures as uint8 [n, C, H, W]; others than square are cropped."""
        shape = (self.size, self.size)

        def pixels(raw: Any) -> Tensor:
            picture = fit_to(convert(open_picture(raw), self.channels), shape, resize=True)
            return torch.from_numpy(np.array(picture)).view(*shape, self.channels)

        return torch.stack(_column(source, self.field, limit, pixels)).movedim(-1, 1).contiguous()

    def batch(
        self, media: Media, rows: Tensor, augment: bool, rng: torch.Generator | None = None
    ) -> Tensor:
        """Return pictures float32 [B, C, H, W] in [-1, 1]."""
        x = media[rows].float() / 127.5 - 1
        if not augment:
            return x
        return torch.stack([_augmented(p, rng) for p in x])


def _augmented(picture: Tensor, rng: torch.Generator | None) -> Tensor:
    """Mirror, shift by up to 3 pixels and exchange colours of [C, H, W]."""
    u = torch.rand(4, generator=rng)
    if u[0] < 0.5:
        picture = picture.flip(-1)
    down, right = int(u[1] * 7) - 3, int(u[2] * 7) - 3
    height, width = picture.shape[1:]
    rows = (torch.arange(height) - down).clamp(0, height - 1)
    columns = (torch.arange(width) - right).clamp(0, width - 1)
    picture = picture[:, rows][:, :, columns]
    if len(picture) > 1 and u[3] < 0.5:
        picture = picture[torch.randperm(len(picture), generator=rng)]
    return picture


class Sounds:
    """Reads sound for a codec."""

    field = "audio"

    def __init__(self, codec: Codec, size: float) -> None:
        self.rate, self.samples = codec.rate, round(size * codec.rate)
        if self.samples < 1:
            raise BraidError(
                f"a clip of {size:g} s has no sample at {codec.rate} Hz; give more seconds"
            )

    def read(self, source: Source, limit: int) -> Media:
        """Return clips as float32 [n, samples]: short ones end in silence, long ones are cut.

        Those of which the cut leaves nothing that can be heard are left out.
        """

        def samples(raw: Any) -> Tensor:
            clip = open_sound(raw, self.rate)[: self.samples]
            if float(clip.abs().max()) < SILENCE:  # there is nothing to compare a copy with
                raise BraidError(
                    f"audio: the first {len(clip) / self.rate:g} s are silent; cut the silence "
                    "off, or read more seconds"
                )
            return torch.nn.functional.pad(clip, (0, self.samples - len(clip)))

        return torch.stack(_column(source, self.field, limit, samples))

    def batch(
        self, media: Media, rows: Tensor, augment: bool, rng: torch.Generator | None = None
    ) -> Tensor:
        """Return clips float32 [B, samples], a little louder or softer."""
        x = media[rows]
        return x * (0.6 + 0.6 * torch.rand(len(x), 1, generator=rng)) if augment else x


MEDIA: dict[str, Callable[[Codec, float], MediaReader]] = {"image": Pictures, "audio": Sounds}


def _column(source: Source, field: str, limit: int, read: Callable[[Any], Tensor]) -> list[Tensor]:
    """Read `limit` media from all over a source; those that cannot be read are left out."""
    if field not in source.fields:
        raise BraidError(
            f"the data has no {field!r}; it has {', '.join(source.fields)}: map a column with "
            f"data.columns.{field}"
        )
    out: list[Tensor] = []
    why: Exception | None = None
    for i in shuffled(len(source))[:limit]:
        try:
            out.append(read(source[i][field]))
        except (BraidError, OSError) as e:
            why = e
    if not out:
        raise BraidError(f"no {field} of {source.name} can be read; the last: {why}")
    return out


@torch.no_grad()
def evaluate_codec(
    codec: Codec, source: Source, size: float, limit: int = 1000
) -> dict[str, Number]:
    """Measure a codec on held-out media.

    Pictures: PSNR (at most 100 dB) and, from 11x11 pixels on, SSIM of 8-bit pictures, with
    bootstrap intervals. Sound: SI-SDR (within 100 dB of 0; a copy that is silent has -100) and the
    distance of log-mel spectra. Both: bits, and how much of the codebook is used.
    """
    if codec.medium == "image" and size >= SSIM_SIDE:
        require("torchmetrics.functional.image", "eval")  # what is missing is found before any work
    reader = MEDIA[codec.medium](codec, size)
    media = reader.read(source, limit)
    codes, made = [], []
    began = time.monotonic()
    for first in range(0, len(media), 32):
        rows = torch.arange(first, min(first + 32, len(media)))
        codes.append(codec.encode(reader.batch(media, rows, augment=False)))
        made.append(codec.decode(codes[-1]))
    seconds = time.monotonic() - began
    cells = torch.cat(codes)
    count = math.prod(cells.shape[1 : 3 if codec.medium == "image" else 2])
    numbers: dict[str, Number] = {
        "held_out": len(media),
        "cells": count,
        "bits_per_cell": codec.bits,
        "seconds_per_item": seconds / len(media),
    }
    if isinstance(codec.space, Discrete):
        numbers |= _use(cells, codec.space)
        numbers["symbols"] = count * codec.space.groups
    else:
        numbers["numbers"] = count * codec.space.width
    numbers |= _distortion(codec, media, torch.cat(made))
    return numbers


def _distortion(codec: Codec, media: Media, made: Tensor) -> dict[str, Number]:
    if codec.medium == "image":
        shown = ((made + 1) * 127.5).round().clamp(0, 255)
        real, drawn = (x.permute(0, 2, 3, 1).numpy().astype(np.uint8) for x in (media, shown))
        found: dict[str, Number] = dict(mean(np.minimum(psnr(real, drawn), 100)).numbers("psnr"))
        if min(real.shape[1:3]) >= SSIM_SIDE:
            found |= mean(ssim(real, drawn)).numbers("ssim")
        return found
    n = min(media.shape[1], made.shape[1])
    real, heard = media[:, :n], made[:, :n]
    ratio = mean(si_sdr(list(heard.numpy()), list(real.numpy())).clip(-100, 100))
    distance = mean(log_mel_distance(real, heard, codec.rate).numpy())
    return {**ratio.numbers("si_sdr"), **distance.numbers("log_mel_distance")}


def _use(cells: Tensor, space: Discrete) -> dict[str, Number]:
    """Return the share of symbols that occur, and the perplexity, averaged over the groups."""
    groups: Sequence[Tensor] = cells.reshape(-1, space.groups).unbind(-1)
    counts = [torch.bincount(g, minlength=space.size).double() for g in groups]
    shares = [c / c.sum() for c in counts]
    entropy = [float(-(p * p.clamp(min=1e-12).log()).sum()) for p in shares]
    return {
        "codebook_size": space.size,
        "codebook_used": float(np.mean([float((c > 0).double().mean()) for c in counts])),
        "codebook_perplexity": float(np.mean(np.exp(entropy))),
    }
