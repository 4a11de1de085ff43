"""Quantisers: vectors of an encoder to symbols and back, and the Gaussian of a KL codec."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from braid.errors import BraidError, unknown


@dataclass(frozen=True)
class Quantised:
    """What a quantiser makes of vectors [N, width].

    Attributes:
        vectors: [N, width] what the decoder reads; gradients reach the encoder.
        codes: [N] or [N, groups] int64 symbols; None for a continuous code.
        penalty: scalar to add to the loss.
    """

    vectors: Tensor
    codes: Tensor | None
    penalty: Tensor


class Quantiser(nn.Module):
    """Base of all quantisers.

    Attributes:
        size: symbols of a group; 0 for a continuous code.
        groups: symbols of a cell.
        inputs: numbers that the encoder gives for a cell.
        width: numbers that the decoder reads for a cell.
    """

    size: int
    groups: int = 1
    inputs: int
    width: int

    def forward(self, x: Tensor) -> Quantised:
        """Quantise vectors [N, inputs]."""
        raise NotImplementedError

    def vectors(self, codes: Tensor) -> Tensor:
        """Return what the decoder reads for codes [N] or [N, groups], [N, width]."""
        raise NotImplementedError

    def table(self) -> Tensor:
        """Return a vector for each symbol, [size, d], whose distances say how alike they are."""
        raise NotImplementedError


class FiniteScalar(Quantiser):
    """Finite scalar quantisation (arXiv:2309.15505): each number is rounded to a few levels."""

    basis: Tensor
    levels: Tensor

    def __init__(self, *levels: int) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise BraidError(f"fsq levels {levels}: give at least one number, each 2 or more")
        self.size = math.prod(levels)
        self.inputs = self.width = len(levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        self.register_buffer("basis", basis, persistent=False)

    def forward(self, x: Tensor) -> Quantised:
        """Bound, round with a straight-through gradient, and count in mixed radix."""
        half = (self.levels - 1) / 2
        # an even number of levels has no middle one: its rounding is shifted by a half
        shift = (self.levels % 2 == 0) * 0.5
        bounded = (x + (shift / (half * 1.001)).atanh()).tanh() * half * 1.001 - shift
        rounded = bounded + (bounded.round() - bounded).detach()
        digits = (rounded.detach() + shift + half).round().long()
        codes = (digits * self.basis).sum(-1)
        return Quantised((rounded + shift) / half, codes, x.new_zeros(()))

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the levels of codes, each in [-1, 1]."""
        digits = codes[..., None] // self.basis % self.levels
        return digits * (2 / (self.levels - 1)) - 1

    def table(self) -> Tensor:
        """Return the vector of each symbol."""
        return self.vectors(torch.arange(self.size, device=self.basis.device))


class ScalarLevels(FiniteScalar):
    """Finite scalar quantisation whose numbers stay symbols of their own: groups of a few levels.

    A symbol then says the same of every picture (a little more of this, a little less of that),
    which a model learns from fewer pictures than the joint symbols of `fsq`.
    """

    def __init__(self, levels: int, numbers: int) -> None:
        if numbers < 1:
            raise BraidError(f"levels:{levels}x{numbers}: give at least one number a cell")
        super().__init__(*[levels] * numbers)
        self.size, self.groups = levels, numbers

    def forward(self, x: Tensor) -> Quantised:
        """Bound, round, and keep each number's level."""
        joint = super().forward(x)
        assert joint.codes is not None, "finite scalar quantisation gives codes"
        digits = joint.codes[..., None] // self.basis % self.levels
        return Quantised(
            joint.vectors, digits if self.groups > 1 else digits[..., 0], joint.penalty
        )

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the levels of codes [..., groups], each in [-1, 1]."""
        codes = codes if self.groups > 1 else codes[..., None]
        return codes * (2 / (self.levels - 1)) - 1

    def table(self) -> Tensor:
        """Return the levels themselves: they differ by how far apart they are."""
        return torch.linspace(-1, 1, self.size, device=self.basis.device)[:, None]


class LookupFree(Quantiser):
    """Lookup-free quantisation (arXiv:2310.05737): each number is a bit, its sign.

    The penalty makes bits sure of themselves and evenly used.
    """

    basis: Tensor

    def __init__(self, bits: int, entropy: float = 0.02) -> None:
        super().__init__()
        if not 1 <= bits <= 18:
            raise BraidError(f"lfq bits {bits} is out of range; use 1 to 18")
        self.size, self.inputs, self.width, self.entropy = 2**bits, bits, bits, entropy
        self.register_buffer("basis", 2 ** torch.arange(bits), persistent=False)

    def forward(self, x: Tensor) -> Quantised:
        """Take signs with a straight-through gradient."""
        sign = torch.where(x > 0, 1.0, -1.0)
        p = (4 * x).sigmoid()
        penalty = self.entropy * (_entropy(p).mean() - _entropy(p.mean(0)).mean())
        through = x.clamp(-1, 1)
        codes = ((x > 0) * self.basis).sum(-1)
        return Quantised(through + (sign - through).detach(), codes, penalty)

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the signs of codes."""
        return (codes[..., None] // self.basis % 2) * 2.0 - 1

    def table(self) -> Tensor:
        """Return the signs of each symbol."""
        return self.vectors(torch.arange(self.size, device=self.basis.device))


def _entropy(p: Tensor) -> Tensor:
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())


class VectorQuantiser(Quantiser):
    """Nearest rows of a table that follows the encoder's averages (arXiv:1711.00937, appendix A).

    With several groups each one quantises what the groups before it left over (residual
    quantisation, arXiv:2107.03312). Rows that are hardly used restart at vectors of the batch.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    ready: Tensor

    def __init__(
        self,
        size: int,
        width: int = 8,
        groups: int = 1,
        decay: float = 0.97,
        commitment: float = 0.25,
    ) -> None:
        super().__init__()
        if min(size, width, groups) < 1 or size < 2:
            raise BraidError(
                f"vq:{size}x{width}x{groups}: give at least 2 rows, 1 number and 1 group"
            )
        self.size, self.inputs, self.width, self.groups = size, width, width, groups
        self.decay, self.commitment = decay, commitment
        self.register_buffer("codebook", torch.randn(groups, size, width))
        self.register_buffer("counts", torch.ones(groups, size))
        self.register_buffer("sums", torch.zeros(groups, size, width))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Quantised:
        """Quantise group by group; in training the table follows."""
        rest, total, codes = x, torch.zeros_like(x), []
        penalty = x.new_zeros(())
        first = self.training and not bool(self.ready)
        for group in range(self.groups):
            if first:
                self._begin(group, rest.detach())
            code = _nearest(rest.detach(), self.codebook[group])
            chosen = self.codebook[group][code]
            if self.training:
                self._follow(group, rest.detach(), code)
            penalty = penalty + self.commitment * functional.mse_loss(rest, chosen)
            rest, total = rest - chosen, total + chosen
            codes.append(code)
        if first:
            self.ready.fill_(True)
        symbols = torch.stack(codes, -1) if self.groups > 1 else codes[0]
        return Quantised(x + (total - x).detach(), symbols, penalty / self.groups)

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the sum of the rows of codes [...] or [..., groups]."""
        if self.groups == 1:
            return self.codebook[0][codes]
        group = torch.arange(self.groups, device=codes.device)
        return self.codebook[group, codes].sum(-2)

    def table(self) -> Tensor:
        """Return the rows; those of residual groups are joined, scaled by what they explain."""
        return self.codebook.transpose(0, 1).reshape(self.size, -1)

    @torch.no_grad()
    def _begin(self, group: int, x: Tensor) -> None:
        """Start at vectors of the batch."""
        row = torch.randint(len(x), (self.size,), device=x.device)
        self.codebook[group] = x[row] + 0.01 * x.std() * torch.randn_like(x[row])
        self.counts[group] = 1
        self.sums[group] = self.codebook[group]

    @torch.no_grad()
    def _follow(self, group: int, x: Tensor, code: Tensor) -> None:
        """Move each row towards the mean of the vectors that chose it."""
        one = torch.bincount(code, minlength=self.size).to(x.dtype)
        near = torch.zeros_like(self.sums[group]).index_add_(0, code, x)
        self.counts[group].lerp_(one, 1 - self.decay)
        self.sums[group].lerp_(near, 1 - self.decay)
        dead = self.counts[group] < 0.03 * self.counts[group].mean()
        self.codebook[group] = self.sums[group] / self.counts[group].clamp(min=1e-6)[:, None]
        row = torch.randint(len(x), (self.size,), device=x.device)
        mean = self.counts[group].mean()
        self.codebook[group] = torch.where(dead[:, None], x[row], self.codebook[group])
        self.sums[group] = torch.where(dead[:, None], x[row] * mean, self.sums[group])
        self.counts[group] = torch.where(dead, mean, self.counts[group])


def _nearest(x: Tensor, table: Tensor) -> Tensor:
    """Return the number of the nearest row for x [N, width], [N]."""
    return (table.square().sum(-1) - 2 * x @ table.T).argmin(-1)


class Gaussian(Quantiser):
    """The continuous code of a KL autoencoder (arXiv:1312.6114): a mean and a log-variance."""

    def __init__(self, width: int, weight: float = 1e-5) -> None:
        super().__init__()
        if width < 1:
            raise BraidError(f"kl width {width} must be at least 1 number a cell")
        self.size, self.inputs, self.width, self.weight = 0, 2 * width, width, weight

    def forward(self, x: Tensor) -> Quantised:
        """Draw from the Gaussian in training; otherwise take its mean."""
        mean, log_variance = x.chunk(2, -1)
        log_variance = log_variance.clamp(-20, 5)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
        if self.training:
            mean = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        return Quantised(mean, None, self.weight * kl)


QUANTISERS: dict[str, Callable[..., Quantiser]] = {
    "fsq": FiniteScalar,
    "levels": ScalarLevels,
    "lfq": LookupFree,
    "vq": VectorQuantiser,
    "kl": Gaussian,
}


def quantiser(text: str) -> Quantiser:
    """Make a quantiser from its short form.

    "fsq:8,5,5,5" (levels), "levels:9x4" (levels x numbers, each a symbol), "lfq:10" (bits),
    "vq:1024x8" (rows x width), "vq:256x8x6" (and groups), "kl:4" or "kl:4,1e-4" (width, weight of
    the divergence).

    Raises:
        BraidError: the kind is unknown, or its numbers are not numbers.
    """
    kind, _, rest = text.partition(":")
    if kind not in QUANTISERS:
        raise unknown("quantiser", kind, QUANTISERS)
    try:
        numbers = [float(x) for x in rest.replace("x", ",").split(",")]
        whole = [int(n) if n.is_integer() else n for n in numbers]
        made = QUANTISERS[kind](*whole)
        if not all(isinstance(n, int) for n in (made.size, made.groups, made.inputs, made.width)):
            raise TypeError("sizes are whole numbers")
        return made
    except BraidError:
        raise
    except (ValueError, TypeError, RuntimeError, OverflowError) as e:
        raise BraidError(
            f"quantiser {text!r}: expected whole numbers, as in fsq:8,5,5,5, levels:9x4, lfq:10, "
            "vq:1024x8, vq:256x8x6 or kl:4"
        ) from e
