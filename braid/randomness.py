"""Random numbers as pure functions of keys, so that no result depends on batch, rank or restart.

`Keys` holds one 64-bit key per row; each draw hashes (key, number of the draw, element) with the
SplitMix64 finaliser (Steele, Lea and Flood, 2014). Every function also takes a `torch.Generator`,
for those who have one.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def signed(value: int) -> int:
    """Return an integer of any size as the 64 bits with a sign that tensors hold (it wraps)."""
    value = int(value) & ((1 << 64) - 1)
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(z: Tensor, bits: int) -> Tensor:
    """Shift logically; torch's own shift is arithmetic."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * signed(_MIX_1)
    z = (z ^ _shift(z, 27)) * signed(_MIX_2)
    return z ^ _shift(z, 31)


def derive(key: Tensor, *salts: int | str | Tensor) -> Tensor:
    """Return new keys from `key`, int64 of any shape.

    Salts are integers, names of streams, or int64 tensors that broadcast.
    """
    for salt in salts:
        if isinstance(salt, str):
            salt = zlib.crc32(salt.encode())
        step = salt * signed(_GOLDEN) if isinstance(salt, Tensor) else signed(salt * _GOLDEN)
        key = _mix(_mix(key + signed(_GOLDEN)) + step)
    return key


@dataclass
class Keys:
    """Counter-based generator with one independent stream per row.

    Attributes:
        key: [R] int64, one key per row; draws have R as their first axis.
        draws: how many draws were made; rows advance together, so a row never sees its neighbours.
    """

    key: Tensor
    draws: int = 0

    @property
    def device(self) -> torch.device:
        """Where the draws are made."""
        return self.key.device

    @staticmethod
    def of(seed: int, rows: int | Tensor, device: torch.device | None = None) -> Keys:
        """Make keys from a seed and row numbers (a count, or int64 [R])."""
        index = rows if isinstance(rows, Tensor) else torch.arange(rows, device=device)
        return Keys(derive(torch.full_like(index, signed(seed)), index))

    def bits(self, shape: tuple[int, ...], first: int = 0) -> Tensor:
        """Draw int64 with 64 random bits, shape [R, ...]: elements `first` and on of each row."""
        if shape[0] != len(self.key):
            raise ValueError(
                f"a draw of shape {shape} from {len(self.key)} keys; "
                f"the first axis must be {len(self.key)}"
            )
        size = math.prod(shape[1:])
        counter = torch.arange(first, first + size, device=self.key.device) * signed(_GOLDEN)
        row = derive(self.key, self.draws)
        self.draws += 1
        return _mix(_mix(row[:, None] + counter)).view(shape)

    def apart(self, *salts: int | str) -> Keys:
        """Return keys of the same rows with draws of their own, whatever was drawn before."""
        return Keys(derive(self.key, "apart", *salts))

    def spread(self, size: int) -> Keys:
        """Return keys for R x size tokens, flat and row-major, independent of all other draws."""
        row = derive(self.key, "spread", self.draws)
        self.draws += 1
        return Keys(derive(row[:, None], torch.arange(size, device=row.device)[None]).flatten())


Rng = torch.Generator | Keys


def bits(rng: Rng, shape: tuple[int, ...]) -> Tensor:
    """Draw int64 with 64 random bits."""
    if isinstance(rng, Keys):
        return rng.bits(shape)
    low, high = (torch.randint(1 << 32, shape, generator=rng, device=rng.device) for _ in range(2))
    return low ^ (high << 32)


def uniform(rng: Rng, shape: tuple[int, ...]) -> Tensor:
    """Draw float32 in the open interval (0, 1)."""
    if isinstance(rng, Keys):
        drawn = _shift(rng.bits(shape), 41)
    else:
        drawn = torch.randint(1 << 23, shape, generator=rng, device=rng.device)
    # 23 bits and a half are exact in float32: never 0, never 1
    return (drawn.float() + 0.5) * 2.0**-23


def normal(rng: Rng, shape: tuple[int, ...]) -> Tensor:
    """Draw float32 standard normals (Box-Muller for keys)."""
    if isinstance(rng, Keys):
        radius = (-2 * uniform(rng, shape).log()).sqrt()
        return radius * (2 * math.pi * uniform(rng, shape)).cos()
    return torch.randn(shape, generator=rng, device=rng.device)


def integers(rng: Rng, high: int, shape: tuple[int, ...]) -> Tensor:
    """Draw int64 uniform on 0 .. high - 1."""
    if isinstance(rng, Keys):
        return _shift(rng.bits(shape), 11) % high
    return torch.randint(high, shape, generator=rng, device=rng.device)


def categorical(rng: Rng, logits: Tensor) -> Tensor:
    """Draw one symbol per row of `logits` [..., V], from one uniform a row."""
    weight = (logits.float() - logits.float().amax(-1, keepdim=True)).exp_()
    return weighted(rng, weight)


def weighted(rng: Rng, weight: Tensor) -> Tensor:
    """Draw one index per row of non-negative weights [..., V] in proportion; consumes `weight`."""
    total = weight.cumsum_(-1)
    last = total[..., -1:]
    mark = uniform(rng, tuple(weight.shape[:-1])).to(total.dtype)[..., None] * last
    # below the total and from the right: an index of weight 0 is never drawn, not even in a tie
    mark = torch.minimum(mark, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(total, mark, right=True).squeeze(-1).clamp_(max=weight.shape[-1] - 1)


def seed_of(rng: Rng | int) -> int:
    """Turn a generator into one 62-bit seed (draws once from it); an integer is its own seed."""
    if isinstance(rng, int):
        return rng
    if isinstance(rng, Keys):
        rng.draws += 1
        return int(_shift(derive(rng.key[:1], "seed", rng.draws), 2))
    return int(torch.randint(1 << 62, (1,), generator=rng, device=rng.device))
