"""Sound at another rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def resample(sound: Tensor, source: int, rate: int) -> Tensor:
    """Return [n] samples at `source` Hz as [ceil(n * rate / source)] samples at `rate` Hz.

    A low-pass of windowed sincs, the same on every machine: flat up to 0.84 of the narrower
    bandwidth, and below -70 dB outside it. The sound is silent outside its ends.
    """
    if source == rate:
        return sound
    divisor = math.gcd(source, rate)
    up, down = rate // divisor, source // divisor
    n = -(-len(sound) * up // down)
    phases = torch.arange(min(up, n)) * down % up
    bank, half = _filters(phases, up, down)  # [phases, taps]
    padded = torch.nn.functional.pad(sound.float(), (half - 1, half + 1))
    windows = padded.unfold(0, bank.shape[1], 1)  # [samples + 1, taps]
    out = torch.empty(n)
    at_once = max(1, (1 << 22) // bank.shape[1])  # outputs whose windows take 16 MiB
    for begin in range(0, n, at_once):
        index = torch.arange(begin, min(n, begin + at_once))
        chosen, taps = windows[index * down // up], bank[index % len(bank)]
        out[begin : begin + at_once] = torch.einsum("nk,nk->n", chosen, taps)
    return out


def _filters(phases: Tensor, up: int, down: int) -> tuple[Tensor, int]:
    """Return low-pass filters [phases, 2 * half] for points phase / up after a sample; and half.

    Tap k weighs the sample k - half + 1 after that one. A Kaiser window of beta 9 and 32 zero
    crossings a side; each filter sums to 1, so that a constant stays what it is.
    """
    cutoff = 0.92 * min(1.0, up / down)  # of the source's bandwidth; half the transition is above
    width = 32 / cutoff
    half = math.ceil(width)
    taps = torch.arange(1 - half, half + 1)
    distance = phases[:, None].double() / up - taps  # [phases, taps]
    window = torch.special.i0(9.0 * (1 - (distance / width) ** 2).clamp(min=0).sqrt())
    bank = torch.where(distance.abs() <= width, torch.sinc(cutoff * distance) * window, 0)
    return (bank / bank.sum(1, keepdim=True)).float(), half
