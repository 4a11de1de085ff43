"""Discrete flow matching: a continuous-time Markov chain carries noise symbols to data.

References: arXiv:2407.15595, arXiv:2412.03487.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from braid.errors import BraidError, unknown
from braid.processes.metric_path import MetricPath
from braid.processes.paths import MixturePath, Path
from braid.processes.process import (
    Noised,
    Process,
    cross_entropy,
    each,
    evenly,
    per_token,
    per_token_sum,
    wide,
)
from braid.randomness import Keys, Rng, categorical, derive, integers, uniform
from braid.spaces import Discrete, Space

if TYPE_CHECKING:
    from braid.modalities import Modality

PATHS: dict[str, type[Path]] = {"mixture": MixturePath, "metric": MetricPath}
"""Name -> path; add one here."""

_GENERAL = 256  # largest vocabulary for which the general bound, quadratic in it, is computed


@dataclass(frozen=True, kw_only=True)
class DiscreteFlow(Process):
    """Predict the clean symbols from symbols somewhere on a probability path.

    Attributes:
        path: a path; or "uniform", "mask", "metric"; or options: {"kind": "metric", "c": 5.0}.
            A metric path without a table takes the modality's own (grey levels, a codebook, ...)
            when it is bound.
        objective: "cross_entropy" (as FUDOKI trains) or "kl", the generalised KL divergence of the
            rates, which is the likelihood bound's integrand.
        latest: largest training time; at 1 the path stands still and nothing is left to learn.
        early: times are drawn as u ** early; above 1 more of them are early, where most is decided.
        errors: share of symbols that are replaced at random in training, on top of the path's own
            noise: the model learns not to trust what it reads, and corrects its own mistakes and
            those of a draft.
        shift: read the prediction of token i at token i - shift (FUDOKI keeps 1 from its
            autoregressive start).
    """

    path: Any = "uniform"
    objective: Literal["cross_entropy", "kl"] = "cross_entropy"
    latest: float = 1 - 1e-3
    early: float = 1.0
    errors: float = 0.0
    shift: int = 0

    def __post_init__(self) -> None:
        if self.objective not in ("cross_entropy", "kl"):
            raise unknown("objective", self.objective, ("cross_entropy", "kl"))
        if not 0 < self.latest < 1:
            raise BraidError(f"discrete flow: latest {self.latest} must lie between 0 and 1")
        if not 0 <= self.errors < 1:
            raise BraidError(
                f"discrete flow: errors {self.errors} is out of range; use 0 up to (not with) 1"
            )
        if self.early <= 0:
            raise BraidError(f"discrete flow: early {self.early} must be positive")
        object.__setattr__(self, "path", _resolve(self.path))

    def bind(self, modality: Modality) -> DiscreteFlow:
        """Give a metric path without a table the modality's."""
        super().bind(modality)
        if isinstance(self.path, Path):
            return self
        options = {name: x for name, x in self.path.items() if name != "kind"}
        return replace(self, path=MetricPath(**{**modality.metric(), **options}))

    @property
    def extra_symbols(self) -> int:  # type: ignore[override]
        """One if noise is a mask."""
        return self.path.extra_symbols if isinstance(self.path, Path) else 0

    @property
    def keeps(self) -> bool:  # type: ignore[override]
        """Whether what has left a mask is known: it is, unless training showed errors."""
        return bool(self.extra_symbols) and not self.errors

    @property
    def horizon(self) -> float:  # type: ignore[override]
        """Where the bound's terminal term takes over."""
        return self.path.horizon

    def sample_time(self, n: int, rng: Rng) -> Tensor:
        """Draw times in (0, latest)."""
        return uniform(rng, (n,)) ** self.early * self.latest

    def source(self, space: Space, n: int, rng: Rng) -> Tensor:
        """Draw n tokens of noise symbols."""
        assert isinstance(space, Discrete), "bind() admits discrete spaces only"
        return self.path.source(space.shape(n), space.size, rng)

    def corrupt(self, space: Space, clean: Tensor, time: Tensor, rng: Rng) -> Noised:
        """Draw each symbol from p_t(. | clean)."""
        assert isinstance(space, Discrete), "bind() admits discrete spaces only"
        noisy = self.path.corrupt(clean, time, rng, space.size)
        return Noised(clean, noisy, noisy, time)

    def disturb(self, space: Space, noised: Noised, rng: Rng) -> Noised:
        """Replace a share of the symbols that are not held."""
        if not self.errors:
            return noised
        assert isinstance(space, Discrete), "bind() admits discrete spaces only"
        shape = tuple(noised.noisy.shape)
        wrong = uniform(rng, shape) < self.errors * each(noised.time < 1, noised.noisy)
        other = integers(rng, space.size, shape)
        return replace(noised, noisy=torch.where(wrong, other, noised.noisy))

    def loss(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return the cross-entropy of the clean symbols, or the divergence of the rates."""
        if self.objective == "kl":
            # a token at time 1 is context: its rates are infinite, and its gradient would be NaN
            nats = self.bound(prediction, replace(noised, time=noised.time.clamp(max=self.latest)))
            return nats / (noised.clean[0].numel() if len(noised.clean) else 1)
        return per_token(cross_entropy(prediction, noised.clean))

    def factor(self, noised: Noised, size: int) -> Tensor | None:
        """Return 1 for each token, where the loss is the cross-entropy."""
        return evenly(noised) if self.objective == "cross_entropy" else None

    def bound(self, prediction: Tensor, noised: Noised, rng: Rng | None = None) -> Tensor:
        """Return the bound's integrand, [N] nats.

        Mixture paths: kappa' / (1 - kappa) [[x_t = x1] - p(x_t) - [x_t != x1] log p(x1)], where p
        is the prediction. Metric paths: `general_bound`, quadratic in the number of symbols; above
        256 symbols the looser `cheap_bound`.
        """
        if isinstance(self.path, MetricPath):
            if prediction.shape[-1] <= _GENERAL:
                return self.general_bound(prediction, noised)
            return self.cheap_bound(prediction, noised, rng or _keys(noised.time))
        V, clean, noisy = prediction.shape[-1], noised.clean, noised.noisy
        equal = noisy == clean
        p = wide(prediction).softmax(-1)
        seen = p.gather(-1, noisy.clamp(max=V - 1)[..., None]).squeeze(-1)
        seen = seen * (noisy < V)  # the mask is never predicted
        nats = equal.to(p.dtype) - seen + ~equal * cross_entropy(prediction, clean)
        if self.keeps:  # a symbol without its mask stays, whatever the model says of it
            nats = nats * (noisy == V)
        return per_token_sum(nats * each(self.path.rate(noised.time, V), nats))

    def general_bound(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return sum_{x != x_t} [u_model(x) - u(x) + u(x) log(u(x) / u_model(x))], for any path.

        It costs O(V^2) a symbol.
        """
        V = prediction.shape[-1]
        p = prediction.flatten(0, -2).double().softmax(-1)
        clean, noisy = noised.clean.flatten(), noised.noisy.flatten()
        time = each(noised.time, noised.clean).expand(noised.clean.shape).flatten().double()
        out = []
        for rows in torch.arange(len(p), device=p.device).split(max(1, 4_000_000 // (V * V))):
            z, t = noisy[rows], time[rows]
            rates = torch.stack(
                [self.path.velocity(z, torch.full_like(z, x1), t, V) for x1 in range(V)], 1
            ).clamp(min=0)  # those to other symbols
            model = (p[rows][..., None] * rates).sum(1)  # [n, symbols]
            true = rates[torch.arange(len(rows)), clean[rows]]
            # two terms: the gradient of xlogy(u, u / u_model) is 0 / 0 where u is 0
            least = model.clamp(min=1e-300)
            ratio = torch.special.xlogy(true, true) - torch.special.xlogy(true, least)
            out.append((model - true + ratio).sum(-1))
        nats = per_token_sum(torch.cat(out).view(noised.clean.shape))
        return nats.to(wide(prediction[:0]).dtype)

    def cheap_bound(self, prediction: Tensor, noised: Noised, rng: Rng) -> Tensor:
        """Return rate(x1') - rate(x1) - rate(x1) log p(x1), with x1' drawn once from the model.

        Its mean lies above `general_bound`; it costs O(V) a symbol.
        """
        V = prediction.shape[-1]
        time = each(noised.time, noised.clean).expand(noised.clean.shape)

        def exit_rate(clean: Tensor) -> Tensor:
            u = self.path.velocity(noised.noisy, clean, time, V)
            return -u.gather(-1, noised.noisy[..., None]).squeeze(-1)

        rate, other = exit_rate(noised.clean), exit_rate(categorical(rng, prediction))
        return per_token_sum(other - rate + rate * cross_entropy(prediction, noised.clean))

    def terminal(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return the nats of drawing the clean symbols from the prediction at the horizon."""
        nats = cross_entropy(prediction, noised.clean)
        if self.extra_symbols:
            nats = nats * (noised.noisy == prediction.shape[-1])
        return per_token_sum(nats)

    def belief(self, prediction: Tensor, noisy: Tensor, time: float) -> Tensor:
        """Return the most likely clean symbols."""
        return prediction.argmax(-1)


def _resolve(path: Path | str | Mapping[str, Any]) -> Path | dict[str, Any]:
    """Turn names and options into a path.

    A metric path that still waits for its table stays a dictionary of options.
    """
    if isinstance(path, Path):
        return path
    options: dict[str, Any] = {"kind": path} if isinstance(path, str) else dict(path)
    kind = options.pop("kind", "mixture")
    if kind in ("mask", "uniform"):
        if options.get("source", kind) != kind:
            raise BraidError(
                f"path {kind!r} cannot have the source {options['source']!r}; drop one"
            )
        kind, options = "mixture", {**options, "source": kind}
    if kind not in PATHS:
        raise unknown("path", kind, [*PATHS, "mask", "uniform"])
    known = {"source", "schedule"}
    if kind == "metric":
        known = {"table", "a", "c", "power", "distance", "horizon"}
    for name in options:
        if name not in known:
            raise unknown(f"option of the {kind} path", name, known)
    if kind == "mixture":
        return MixturePath(**options)
    return MetricPath(**options) if "table" in options else {"kind": kind, **options}


def _keys(time: Tensor) -> Keys:
    """Return keys made from times [N], for a function that draws but takes no generator."""
    bits = time.float().contiguous().view(torch.int32).long()
    return Keys(derive(bits, torch.arange(len(time), device=time.device)))
