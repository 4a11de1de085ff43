"""Log-mel spectra of sound, and how far two sounds are apart in them."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from braid.errors import BraidError

FLOOR = 1e-8
"""Power added to every band before the logarithm: 80 dB below a full-scale sine's amplitude 1."""


def hertz_to_mel(hertz: Tensor) -> Tensor:
    """Return the mel of frequencies: linear up to about 700 Hz, logarithmic above."""
    return 2595 * (1 + hertz / 700).log10()


def mel_to_hertz(mel: Tensor) -> Tensor:
    """Return the frequencies of mels; inverts `hertz_to_mel`."""
    return 700 * (10 ** (mel / 2595) - 1)


@lru_cache(maxsize=32)
def filterbank(rate: int, bins: int, bands: int) -> Tensor:
    """Return triangles over a spectrum's bins, [bins, bands].

    Their corners are equally spaced in mel between 0 and half the rate; each triangle rises to 1
    at its middle corner, so that between the first and the last middle they add up to 1.

    Raises:
        BraidError: a triangle is so narrow that no bin lies under it.
    """
    double = torch.float64
    top = hertz_to_mel(torch.tensor(rate / 2, dtype=double))
    corner = mel_to_hertz(torch.linspace(0, 1, bands + 2, dtype=double) * top)  # [bands + 2]
    at = torch.linspace(0, rate / 2, bins, dtype=double)[:, None]  # [bins, 1]
    rise = (at - corner[:-2]) / (corner[1:-1] - corner[:-2])
    fall = (corner[2:] - at) / (corner[2:] - corner[1:-1])
    bank = torch.minimum(rise, fall).clamp(min=0)
    if bool((bank.sum(0) == 0).any()):
        raise BraidError(
            f"{bands} mel bands are too many for {bins} bins at {rate} Hz; use fewer bands or a "
            "longer window"
        )
    return bank.float()


def spectrum(samples: Tensor, window: int, hop: int) -> Tensor:
    """Return magnitudes of Hann-windowed frames [B, frames, bins] of samples [B, S].

    Frames are centred on multiples of `hop`, with silence beyond the ends: S // hop + 1 of them.
    A sine of amplitude 1 has magnitude 1/2 in its bin.
    """
    size = 1 << (window - 1).bit_length()
    taper = torch.hann_window(window, device=samples.device, dtype=samples.dtype)
    bins = torch.stft(
        samples,
        size,
        hop,
        window,
        taper / taper.sum(),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    # a power of exactly zero has no derivative of its root
    return (torch.view_as_real(bins).square().sum(-1) + 1e-14).sqrt().movedim(1, -1)


def log_mel(
    samples: Tensor,
    rate: int,
    bands: int = 40,
    hop: int | None = None,
    window: int | None = None,
) -> Tensor:
    """Return the natural logarithm of mel powers, [B, frames, bands], of samples [B, S].

    Args:
        samples: sound in [-1, 1].
        rate: samples a second.
        bands: mel bands between 0 and half the rate.
        hop: samples between frames; 10 ms if None.
        window: samples of a frame; 32 ms if None.
    """
    hop, window = hop or max(1, rate // 100), window or round(rate * 0.032)
    power = spectrum(samples, window, hop).square()
    bank = filterbank(rate, power.shape[-1], bands).to(power)
    return (power @ bank + FLOOR).log()


def log_mel_distance(a: Tensor, b: Tensor, rate: int) -> Tensor:
    """Return how far sounds [B, S] are apart, [B]: the mean over frames and bands, in decibels.

    0 for equal sounds, about 10 for speech of other words.

    Raises:
        BraidError: the sounds differ in shape.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise BraidError(
            f"the sounds have shapes {tuple(a.shape)} and {tuple(b.shape)}; give two of one shape "
            "[B, samples]"
        )
    decibels = 10 / torch.tensor(10.0).log()
    return (log_mel(a, rate) - log_mel(b, rate)).abs().mean((1, 2)) * decibels.to(a)
