"""Gaussian diffusion and flow matching on real vectors: noisy = alpha x1 + sigma noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from braid.errors import BraidError, unknown
from braid.processes.process import Noised, Process, each, per_token_sum
from braid.randomness import Rng, normal, uniform
from braid.spaces import Continuous, Space

if TYPE_CHECKING:
    from braid.modalities import Modality

_TINY = 1e-3
_LEAST_SIGNAL = 0.05
"""Where alpha is smaller, data is estimated from predicted noise as if it were this: an error of
the prediction is divided by it, and would drown the data. The estimate shrinks to the mean."""


@dataclass(frozen=True, kw_only=True)
class GaussianFlow(Process):
    """Predict noise, data or velocity with a squared error.

    Attributes:
        schedule: "linear" has alpha = t, sigma = 1 - t (rectified flow, arXiv:2209.03003); "cosine"
            has alpha = sin(pi t / 2), sigma = cos(pi t / 2), variance preserving, near the schedule
            of arXiv:2102.09672.
        prediction: "velocity" d x / dt, "data" x1, or "noise".
        noise_limit: least time of a span that later spans read while it is noised; 0.5 is
            Transfusion's limit of 500 steps of 1000 for pictures that stand before their caption.
        clip: bound on the absolute value of the data estimate while sampling; None where data is
            unbounded.
        levels: number of equidistant values in [-1, 1] that data takes, for a likelihood of the
            levels; None gives a density.
        times: "uniform" or "logit_normal" (arXiv:2403.03206) training times.
    """

    continuous: ClassVar[bool] = True
    schedule: Literal["linear", "cosine"] = "linear"
    prediction: Literal["velocity", "data", "noise"] = "velocity"
    noise_limit: float = 0.0
    clip: float | None = None
    levels: int | None = None
    times: Literal["uniform", "logit_normal"] = "uniform"
    horizon: float = 0.98

    def __post_init__(self) -> None:
        for name, valid in (
            ("schedule", ("linear", "cosine")),
            ("prediction", ("velocity", "data", "noise")),
            ("times", ("uniform", "logit_normal")),
        ):
            if getattr(self, name) not in valid:
                raise unknown(name, getattr(self, name), valid)
        if not 0 <= self.noise_limit < 1:
            raise BraidError(
                f"gaussian flow: noise_limit {self.noise_limit} is out of range; "
                "use 0 (no limit) up to (not including) 1"
            )
        if self.levels is not None and self.levels < 2:
            raise BraidError(f"gaussian flow: levels {self.levels} must be at least 2, or none")
        if self.clip is not None and self.clip <= 0:
            raise BraidError(f"gaussian flow: clip {self.clip} must be positive, or none")

    @property
    def time_floor(self) -> float:  # type: ignore[override]
        """The noise limit."""
        return self.noise_limit

    def bind(self, modality: Modality) -> GaussianFlow:
        """Take range and levels from the modality, where they are not set."""
        super().bind(modality)
        return replace(
            self,
            clip=modality.limit if self.clip is None else self.clip,
            levels=modality.levels if self.levels is None else self.levels,
        )

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of data and of noise."""
        if self.schedule == "linear":
            return t, 1 - t
        return (t * (math.pi / 2)).sin(), (t * (math.pi / 2)).cos()

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return d alpha / dt and d sigma / dt."""
        if self.schedule == "linear":
            return torch.ones_like(t), -torch.ones_like(t)
        return (math.pi / 2) * (t * (math.pi / 2)).cos(), -(math.pi / 2) * (t * (math.pi / 2)).sin()

    def sample_time(self, n: int, rng: Rng) -> Tensor:
        """Draw n training times."""
        return normal(rng, (n,)).sigmoid() if self.times == "logit_normal" else uniform(rng, (n,))

    def source(self, space: Space, n: int, rng: Rng) -> Tensor:
        """Draw n standard normal vectors."""
        return normal(rng, space.shape(n))

    def corrupt(self, space: Space, clean: Tensor, time: Tensor, rng: Rng) -> Noised:
        """Mix data and noise; at time 1 the vectors stay bit-identical."""
        assert isinstance(space, Continuous), "bind() admits continuous spaces only"
        noise = normal(rng, tuple(clean.shape)).to(clean.dtype)
        alpha, sigma = (each(x, clean) for x in self.alpha_sigma(time))
        noisy = torch.where(each(time, clean) >= 1, clean, alpha * clean + sigma * noise)
        return Noised(clean, noisy, noise, time)

    def loss(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return the squared error of the prediction, averaged over a vector."""
        if self.prediction == "data":
            goal = noised.clean
        elif self.prediction == "noise":
            goal = noised.source
        else:
            d_alpha, d_sigma = (each(x, noised.clean) for x in self.rates(noised.time))
            goal = d_alpha * noised.clean + d_sigma * noised.source
        return (prediction.float() - goal.float()).square().mean(-1)

    def split(self, prediction: Tensor, noisy: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Return the data, clipped, and the noise that a prediction stands for."""
        (a, s), (da, ds) = self.alpha_sigma(time), self.rates(time)
        a, s, da, ds = (each(x, noisy) for x in (a, s, da, ds))
        if self.prediction == "data":
            clean = prediction
        elif self.prediction == "noise":
            clean = (noisy - s * prediction) / a.clamp(min=_LEAST_SIGNAL)
        else:
            clean = (ds * noisy - s * prediction) / (a * ds - s * da)
        if self.clip is not None:
            clean = clean.clamp(-self.clip, self.clip)
        elif self.prediction == "noise":
            return clean, prediction
        return clean, (noisy - a * clean) / s.clamp(min=_TINY)

    def velocity(self, prediction: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Return d x / dt of the probability-flow equation."""
        if self.prediction == "velocity" and self.clip is None:
            return prediction
        clean, noise = self.split(prediction, noisy, time)
        da, ds = (each(x, noisy) for x in self.rates(time))
        return da * clean + ds * noise

    def bound(self, prediction: Tensor, noised: Noised, rng: Rng | None = None) -> Tensor:
        """Return the bound's integrand, 1/2 d SNR / dt |x1 - estimate|^2 (arXiv:2107.00630)."""
        t = noised.time.double()
        (a, s), (da, ds) = self.alpha_sigma(t), self.rates(t)
        clean, _ = self.split(prediction.float(), noised.noisy, noised.time)
        rate = 2 * a * (da * s - a * ds) / s**3
        return (0.5 * rate * per_token_sum((clean - noised.clean).square())).float()

    def terminal(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return the nats of the data given the vectors at the horizon.

        They are those of its level where `levels` is known, else of a density.
        """
        a, s = (each(x, noised.clean) for x in self.alpha_sigma(noised.time))
        mean, deviation = noised.noisy / a, s / a
        if self.levels is None:
            nats = (
                0.5 * ((noised.clean - mean) / deviation).square()
                + (deviation * math.sqrt(2 * math.pi)).log()
            )
            return per_token_sum(nats)
        values = torch.linspace(-1, 1, self.levels, device=mean.device)
        logits = -0.5 * ((mean[..., None] - values) / deviation[..., None]).square()
        level = ((noised.clean + 1) * (self.levels - 1) / 2).round().long()
        return per_token_sum(-logits.log_softmax(-1).gather(-1, level[..., None]).squeeze(-1))

    def belief(self, prediction: Tensor, noisy: Tensor, time: float) -> Tensor:
        """Return the data estimate."""
        return self.split(
            prediction, noisy, torch.full(noisy.shape[:-1], time, device=noisy.device)
        )[0]
