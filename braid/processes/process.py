"""The contract of a process: how a clean token is destroyed, and what a prediction of it costs.

A process sees flat tokens [N, ...] with one time each; it never sees a sequence, a batch or a
network. Time runs from 0 (source, noise) to 1 (data) in every process.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from braid.errors import BraidError
from braid.randomness import Rng, uniform
from braid.spaces import Continuous, Discrete, Space

if TYPE_CHECKING:
    from braid.modalities import Modality


@dataclass(frozen=True)
class Noised:
    """Destroyed tokens and what was done to them.

    Attributes:
        clean: [N, ...] the data.
        noisy: [N, ...] what the model reads.
        source: [N, ...] the noise that was mixed in.
        time: [N] float32, 0 is noise, 1 is data.
    """

    clean: Tensor
    noisy: Tensor
    source: Tensor
    time: Tensor


class Process:
    """Base of all processes; subclasses are frozen dataclasses of their options.

    Attributes:
        continuous: it runs on vectors, not on symbols.
        causal: inside its span a token sees only what came before.
        shift: the prediction of token i is read from the hidden vector of token i - shift.
        timed: the model is told the time.
        extra_symbols: symbols (such as a mask) with an input row but no output column.
        keeps: a symbol that has left the mask is known, and is not drawn again.
        exact: `bound` is the likelihood itself and needs no average over times.
        horizon: time at which the likelihood bound ends and `terminal` takes over.
        time_floor: least time of a span that later spans read while it is noised.
        z_loss: weight of (log Z)^2 beside the cross-entropy of `factor`.
    """

    continuous: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    shift: int = 0
    timed: ClassVar[bool] = True
    extra_symbols: int = 0
    keeps: bool = False
    exact: ClassVar[bool] = False
    horizon: float = 1.0
    time_floor: float = 0.0
    z_loss: float = 0.0

    def bind(self, modality: Modality) -> Process:
        """Return the process with what it takes from the modality, such as a table of distances."""
        wanted = Continuous if self.continuous else Discrete
        if isinstance(modality.space, Continuous) != self.continuous:
            raise BraidError(
                f"{type(self).__name__} runs on {wanted.__name__} tokens, but modality "
                f"{modality.name!r} gives {modality.space}; exchange the process or set the "
                f"modality's `continuous: {str(self.continuous).lower()}`"
            )
        return self

    def block(self, length: int) -> int:
        """Return how many tokens are refined together, out of `length` that are left."""
        return length

    @property
    def whole(self) -> bool:
        """Whether all tokens of a span are refined together, however many they are."""
        return self.block(sys.maxsize) == sys.maxsize

    def sample_time(self, n: int, rng: Rng) -> Tensor:
        """Draw n training times, float32 in (0, 1)."""
        return uniform(rng, (n,))

    def source(self, space: Space, n: int, rng: Rng) -> Tensor:
        """Draw n tokens of pure noise."""
        raise NotImplementedError

    def corrupt(self, space: Space, clean: Tensor, time: Tensor, rng: Rng) -> Noised:
        """Destroy clean [N, ...] up to time [N]; at time 1 the tokens stay as they are."""
        raise NotImplementedError

    def disturb(self, space: Space, noised: Noised, rng: Rng) -> Noised:
        """Return what the model reads in training, if it is noised beyond the process itself."""
        return noised

    def loss(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return the training loss of each token, [N] float32; finite at time 1 too."""
        raise NotImplementedError

    def factor(self, noised: Noised, size: int) -> Tensor | None:
        """Return what -log p of each clean symbol is multiplied by in `loss`, [N, ...].

        None where the loss is anything but a weighted cross-entropy. With it the loss of `size`
        symbols is computed without holding all logits.
        """
        return None

    def bound(self, prediction: Tensor, noised: Noised, rng: Rng | None = None) -> Tensor | None:
        """Return nats [N]: the likelihood where `exact`, else an upper bound's integrand.

        The integrand is taken at `noised.time`, before the horizon. None where no bound is known.
        A bound that is estimated by drawing takes `rng`; None draws by the place in the batch.
        """
        return None

    def terminal(self, prediction: Tensor, noised: Noised) -> Tensor:
        """Return nats [N] of drawing the clean token at the horizon."""
        raise NotImplementedError

    def belief(self, prediction: Tensor, noisy: Tensor, time: float) -> Tensor:
        """Return the clean tokens the prediction holds most likely, in the shape of `noisy`."""
        raise NotImplementedError


def each(time: Tensor, tokens: Tensor) -> Tensor:
    """Give time [N] the trailing axes of tokens [N, ...]."""
    return time.view(time.shape + (1,) * (tokens.ndim - time.ndim))


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or in float64 if it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cross_entropy(logits: Tensor, symbols: Tensor) -> Tensor:
    """Return -log p(symbol) for logits [..., V] and symbols [...], at least float32."""
    flat = F.cross_entropy(wide(logits).flatten(0, -2), symbols.flatten(), reduction="none")
    return flat.view(symbols.shape)


def evenly(noised: Noised) -> Tensor:
    """Return factors of a mean over a token's symbols, float32 in the shape of the symbols."""
    symbols = noised.clean[0].numel() if len(noised.clean) else 1
    return torch.full(noised.clean.shape, 1 / symbols, device=noised.clean.device)


def per_token(value: Tensor) -> Tensor:
    """Average [N, ...] over a token's symbols, [N]."""
    return value if value.ndim == 1 else value.flatten(1).mean(1)


def per_token_sum(value: Tensor) -> Tensor:
    """Add [N, ...] over a token's symbols, [N]."""
    return value if value.ndim == 1 else value.flatten(1).sum(1)
