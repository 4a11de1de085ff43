"""Masked diffusion: symbols disappear behind a mask and are predicted from those that are left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from braid.errors import BraidError, unknown
from braid.processes.paths import MixturePath
from braid.processes.process import Noised, Process, cross_entropy, each, evenly, per_token_sum
from braid.randomness import Rng
from braid.spaces import Discrete, Space

_LEAST = 1e-3  # least masked share in a weight, as LLaDA clips it


@dataclass(frozen=True, kw_only=True)
class Masked(Process):
    """The mixture path with the mask as source.

    The model is not told the time, and never outputs the mask.

    Attributes:
        weighting: "mdlm" weighs a masked symbol by kappa' / (1 - kappa), which gives the likelihood
            bound (arXiv:2406.07524); "llada" by 1 / masked share (arXiv:2502.09992), the same for
            the linear schedule up to its clipping; "maskgit" not at all (arXiv:2202.04200).
        schedule: share of clean symbols over time; "cosine" goes with "maskgit".
        size_of_block: tokens refined together, while later blocks wait (block diffusion,
            arXiv:2503.09573); None is all.
        shift: read the prediction of token i at token i - shift, as in models that began
            autoregressive (Dream).
    """

    timed: ClassVar[bool] = False
    extra_symbols: ClassVar[int] = 1  # type: ignore[override] - not an option here
    keeps: ClassVar[bool] = True  # type: ignore[override] - not an option here
    weighting: Literal["mdlm", "llada", "maskgit"] = "mdlm"
    schedule: str = "linear"
    size_of_block: int | None = None
    shift: int = 0
    horizon: float = 1 - _LEAST

    def __post_init__(self) -> None:
        if self.weighting not in ("mdlm", "llada", "maskgit"):
            raise unknown("weighting", self.weighting, ("mdlm", "llada", "maskgit"))
        if self.size_of_block is not None and self.size_of_block < 1:
            raise BraidError(
                f"masked: size_of_block {self.size_of_block} must be at least 1, or none"
            )
        _ = self.path  # refuses an unknown schedule

    @property
    def path(self) -> MixturePath:
        """The probability path."""
        return MixturePath("mask", self.schedule)

    def block(self, length: int) -> int:
        """Return the block, or all that is left."""
        return min(self.size_of_block or length, length)

    def source(self, space: Space, n: int, rng: Rng) -> Tensor:
        """Return n masked tokens."""
        assert isinstance(space, Discrete), "bind() admits discrete spaces only"
        return self.path.source(space.shape(n), space.size, rng)

    def corrupt(self, space: Space, clean: Tensor, time: Tensor, rng: Rng) -> Noised:
        """Mask each symbol with probability 1 - kappa(time)."""
        assert isinstance(space, Discrete), "bind() admits discrete spaces only"
        noisy = self.path.corrupt(clean, time, rng, space.size)
        return Noised(clean, noisy, clean.new_full(clean.shape, space.size), time)

    def _masked_entropy(self, prediction: Tensor, noised: Noised) -> Tensor:
        return cross_entropy(prediction, noised.clean) * (noised.noisy == prediction.shape[-1])

    def loss(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return the weighted cross-entropy of the masked symbols; zero for those that are seen."""
        factor = self.factor(noised, prediction.shape[-1])
        return per_token_sum(factor * cross_entropy(prediction, noised.clean))

    def factor(self, noised: Noised, size: int) -> Tensor:
        """Return the weight of the masked symbols; 0 for those that are seen."""
        factor = evenly(noised) * (noised.noisy == size)
        if self.weighting == "maskgit":
            return factor
        time = noised.time.clamp(max=1 - _LEAST)
        if self.weighting == "llada":
            weight = 1 / (1 - self.path.kappa(time, size)).clamp(min=_LEAST)
        else:
            weight = self.path.rate(time, size)
        return factor * each(weight, factor)

    def bound(self, prediction: Tensor, noised: Noised, rng: Rng | None = None) -> Tensor:
        """Return kappa' / (1 - kappa) times the nats of the masked symbols (MDLM)."""
        nats = self._masked_entropy(prediction, noised)
        return per_token_sum(nats * each(self.path.rate(noised.time, prediction.shape[-1]), nats))

    def terminal(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return the nats of the symbols still masked at the horizon."""
        return per_token_sum(self._masked_entropy(prediction, noised))

    def belief(self, prediction: Tensor, noisy: Tensor, time: float) -> Tensor:
        """Return what is seen, and the most likely symbols behind the masks."""
        guess = prediction.argmax(-1)
        return guess.where(noisy == prediction.shape[-1], noisy)
