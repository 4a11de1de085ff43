"""Small paths and processes, every option that matters, over which the laws range."""

from __future__ import annotations

import torch
from torch import Tensor

from braid.processes import (
    PROCESSES,
    Autoregressive,
    DiscreteFlow,
    GaussianFlow,
    Masked,
    MetricPath,
    MixturePath,
    Noised,
    Path,
    Process,
)
from braid.randomness import Keys, uniform
from braid.spaces import Continuous, Discrete, Space

V = 6


def table(size: int = V, width: int = 3, seed: int = 0) -> Tensor:
    """Return rows of a random table, float64."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(size, width, generator=rng, dtype=torch.float64)


def levels(size: int = V) -> Tensor:
    """Return grey levels, float64."""
    return torch.arange(size, dtype=torch.float64)[:, None]


PATHS: dict[str, Path] = {
    "mask, linear": MixturePath("mask"),
    "mask, cosine": MixturePath("mask", "cosine"),
    "mask, kinetic": MixturePath("mask", "kinetic"),
    "uniform, linear": MixturePath("uniform"),
    "uniform, polynomial": MixturePath("uniform", "polynomial:2"),
    "uniform, kinetic": MixturePath("uniform", "kinetic"),
    "metric, cosine": MetricPath(table()),
    "metric, cosine, power 2": MetricPath(table(), a=1.2, c=1.0, power=2),
    "metric, ordinal": MetricPath(levels(), distance="ordinal", c=5.0, power=2),
    "metric, ordinal in 3 dimensions": MetricPath(table(), distance="ordinal", c=5.0, power=1),
}
METRIC = {name: path for name, path in PATHS.items() if isinstance(path, MetricPath)}
MIXTURE = {name: path for name, path in PATHS.items() if isinstance(path, MixturePath)}

SYMBOLS = Discrete(V)
GROUPS = Discrete(V, groups=3)
VECTORS = Continuous(4)


def _flow(path: str, objective: str = "cross_entropy", **options: float) -> DiscreteFlow:
    return DiscreteFlow(path=PATHS[path], objective=objective, **options)


INSTANCES: dict[str, tuple[Process, Space]] = {
    "autoregressive": (Autoregressive(), SYMBOLS),
    "autoregressive, z-loss, groups": (Autoregressive(z_loss=1e-4), GROUPS),
    "masked, mdlm": (Masked(), SYMBOLS),
    "masked, llada, groups": (Masked(weighting="llada", schedule="polynomial:2"), GROUPS),
    "masked, maskgit": (Masked(weighting="maskgit", schedule="cosine", shift=1), SYMBOLS),
    "masked, blocks": (Masked(size_of_block=2), SYMBOLS),
    "flow, uniform": (_flow("uniform, linear"), SYMBOLS),
    "flow, uniform, kinetic, groups": (_flow("uniform, kinetic", early=2.0), GROUPS),
    "flow, uniform, kl": (_flow("uniform, polynomial", "kl"), SYMBOLS),
    "flow, mask": (_flow("mask, linear", latest=0.9), SYMBOLS),
    "flow, mask, kl, groups": (_flow("mask, cosine", "kl"), GROUPS),
    "flow, mask, errors, groups": (_flow("mask, linear", errors=0.2), GROUPS),
    "flow, metric": (_flow("metric, cosine"), SYMBOLS),
    "flow, metric, kl": (_flow("metric, ordinal", "kl"), SYMBOLS),
    "flow, metric, groups": (_flow("metric, ordinal"), GROUPS),
    "flow, metric, kl, groups": (_flow("metric, cosine", "kl"), GROUPS),
    "gaussian, velocity": (GaussianFlow(times="logit_normal"), VECTORS),
    "gaussian, data": (GaussianFlow(prediction="data", noise_limit=0.5), VECTORS),
    "gaussian, noise": (GaussianFlow(prediction="noise"), VECTORS),
    "gaussian, cosine velocity": (GaussianFlow(schedule="cosine", clip=1.0), VECTORS),
    "gaussian, cosine data": (GaussianFlow(schedule="cosine", prediction="data"), VECTORS),
    "gaussian, cosine noise": (
        GaussianFlow(schedule="cosine", prediction="noise", clip=1.0, levels=17),
        VECTORS,
    ),
}
for _name, _process in PROCESSES.items():  # a process that was added is under the laws at once
    if not any(isinstance(process, _process) for process, _ in INSTANCES.values()):
        INSTANCES[_name] = (_process(), VECTORS if _process.continuous else SYMBOLS)
DISCRETE = {name: at for name, at in INSTANCES.items() if isinstance(at[1], Discrete)}
CONTINUOUS = {name: at for name, at in INSTANCES.items() if isinstance(at[1], Continuous)}


def clean_tokens(space: Space, n: int, seed: int = 0) -> Tensor:
    """Return n tokens of data; vectors take 17 levels in [-1, 1]."""
    u = uniform(Keys.of(1000 + seed, n), space.shape(n))
    return (u * 17).floor() / 8 - 1 if isinstance(space, Continuous) else (u * space.size).long()


def perfect_logits(clean: Tensor, size: int) -> Tensor:
    """Return normalised logits that leave no doubt about the clean symbols."""
    hot = torch.nn.functional.one_hot(clean, size).float()
    return (hot - 1) * 60


def perfect(process: Process, space: Space, noised: Noised) -> Tensor:
    """Return the prediction of a model that knows the clean tokens."""
    if isinstance(space, Discrete):
        return perfect_logits(noised.clean, space.size)
    assert isinstance(process, GaussianFlow)
    return perfect_vectors(process, noised.clean, noised.source, noised.time)


def perfect_vectors(process: GaussianFlow, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Return the prediction that stands for known data and noise."""
    if process.prediction == "data":
        return clean
    if process.prediction == "noise":
        return noise
    d_alpha, d_sigma = (x[..., None] for x in process.rates(time))
    return d_alpha * clean + d_sigma * noise
