"""Processes and samplers need no transformer: here they sample two correlated symbols.

The model is the exact posterior of a joint distribution, by enumeration; the jump sampler turns
noise into samples of that distribution.

    python examples/processes_alone.py
"""

import torch

from braid.processes import DiscreteFlow, MixturePath
from braid.samplers import Jump
from braid.spaces import Discrete

V = 4
joint = torch.eye(V) * 0.2 + 0.0125  # two symbols that mostly agree, [V, V]
joint = joint / joint.sum()
process = DiscreteFlow(path=MixturePath("uniform", "linear"))
path = process.path


def predict(x: torch.Tensor, t: float) -> torch.Tensor:
    """Return logits of clean symbols given noisy ones, [B, 2, V]: Bayes' rule over all pairs."""
    symbols = torch.arange(V)
    likely = path.probabilities(symbols, torch.tensor(t), V)  # [clean, noisy]
    weight = joint * likely[:, x[:, 0]].T[:, :, None] * likely[:, x[:, 1]].T[:, None, :]
    return torch.stack([weight.sum(2), weight.sum(1)], 1).log()


rng = torch.Generator().manual_seed(0)
noise = process.source(Discrete(V), 2 * 20_000, rng).view(-1, 2)
x = Jump(steps=64)(predict, noise, process, rng)
counts = torch.bincount(x[:, 0] * V + x[:, 1], minlength=V * V).view(V, V) / len(x)
print(f"agree: {counts.trace():.3f} in the samples, {joint.trace():.3f} in truth")
print(f"largest error of a probability: {(counts - joint).abs().max():.4f}")
