"""Masked decoding by confidence.

MaskGIT (arXiv:2202.04200), LLaDA (arXiv:2502.09992), threshold-parallel (arXiv:2505.22618).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from braid.errors import BraidError, unknown
from braid.processes import MixturePath, Process, schedules
from braid.randomness import Keys, Rng, uniform
from braid.samplers.filters import Drawing
from braid.samplers.sampler import Predict, Sampler, Stepped


@dataclass(frozen=True, kw_only=True)
class Confidence(Stepped, Drawing, Sampler):
    """Uncover the symbols the model is surest of, a few at each step; what is uncovered stays.

    Attributes:
        order: how sure the model is: "confidence" (probability of the drawn symbol), "margin"
            (first minus second), "entropy", or "random".
        schedule: share of symbols uncovered over the steps; None follows the process.
        even: uncover equally many symbols at each step whatever the schedule, one more at the first
            ones where it does not come out even (LLaDA).
        choice_temperature: Gumbel noise on log confidence, falling to zero over the steps
            (MaskGIT's temperature).
        size_of_block: uncover block after block of this many tokens, each in its share of the steps
            (LLaDA); None is one block.
        threshold: uncover every symbol whose confidence reaches it, at least one a step:
            fewer steps where the model is sure, and more than `steps` where it is not.
    """

    order: Literal["confidence", "margin", "entropy", "random"] = "confidence"
    schedule: str | None = None
    even: bool = False
    choice_temperature: float = 0.0
    size_of_block: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        Stepped.__post_init__(self)
        Drawing.__post_init__(self)
        if self.order not in ("confidence", "margin", "entropy", "random"):
            raise unknown("order", self.order, ("confidence", "margin", "entropy", "random"))
        if self.schedule is not None:
            schedules.get(self.schedule)
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise BraidError(
                f"threshold {self.threshold} is out of range; use more than 0, up to 1, or none"
            )
        if self.size_of_block is not None and self.size_of_block < 1:
            raise BraidError(f"size_of_block {self.size_of_block} must be at least 1, or none")

    @staticmethod
    def suits(process: Process) -> bool:
        """Run processes whose noise is a mask."""
        return getattr(getattr(process, "path", None), "masked", False)

    def calls(self, n: int, groups: int = 1) -> int:
        """Return at least one for each block, and one for each symbol where a threshold decides."""
        if self.threshold is not None:
            return n * groups
        return max(self.steps, -(-n // (self.size_of_block or n)))

    def __call__(self, predict: Predict, x: Tensor, process: Process, rng: Rng) -> Tensor:
        """Uncover the masked symbols of x [B, n, ...]."""
        n = x.shape[1]
        block = self.size_of_block or n
        blocks = [slice(i, min(i + block, n)) for i in range(0, n, block)]
        share, more = divmod(self.steps, len(blocks))
        counts = [max(1, share + (i < more)) for i in range(len(blocks))]
        grid = [self.start + (1 - self.start) * k / sum(counts) for k in range(sum(counts))]
        for i, (part, count) in enumerate(zip(blocks, counts, strict=True)):
            times, grid = grid[:count], grid[count:]
            # rows may take unlike numbers of steps: none shall see how many another took
            own = rng.apart(i) if isinstance(rng, Keys) else rng
            x = self._uncover(predict, x, process, own, part, times)
        return x

    def _uncover(
        self,
        predict: Predict,
        x: Tensor,
        process: Process,
        rng: Rng,
        part: slice,
        times: Sequence[float],
    ) -> Tensor:
        """Uncover one block at these times.

        A threshold takes as many steps as it needs; those past the last time are made at that one,
        as time 1 would say that nothing is masked.
        """
        steps = len(times)
        path: MixturePath = process.path  # type: ignore[attr-defined]
        schedule = schedules.get(self.schedule) if self.schedule else path.schedule
        total: Tensor | None = None
        step = 0
        while True:
            done = min(step / steps, 1.0)
            logits = predict(x, times[min(step, steps - 1)])
            masked = _within(x == logits.shape[-1], part).flatten(1)  # [B, symbols]
            total = masked.sum(1) if total is None else total
            guess, sure = self._guess(logits, masked, rng)
            noise = -(-uniform(rng, tuple(sure.shape)).log()).log()
            rank = sure.log() + self.choice_temperature * (1 - done) * noise
            rank = rank.masked_fill(~masked, -torch.inf)
            uncovered = schedule.kappa(torch.tensor((step + 1) / steps, dtype=torch.float64))
            left = (total * (1 - float(uncovered)) + 1e-3).long()  # floor, past rounding
            if self.even:
                left = total - total // steps * (step + 1) - (total % steps).clamp(max=step + 1)
            count = (masked.sum(1) - left).clamp(min=1)
            if step + 1 >= steps:
                count = masked.sum(1)
            place = rank.argsort(-1, descending=True).argsort(-1)
            keep = (place < count[:, None]) & masked
            if self.threshold is not None:
                keep = masked & ((sure >= self.threshold) | (place == 0))
            x = torch.where(keep.view_as(x), guess.view_as(x), x)
            step += 1
            if not bool(_within(x == logits.shape[-1], part).any()):
                return x

    def _guess(self, logits: Tensor, masked: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Return the masked symbols' guesses and how sure the model is of each, [B, symbols].

        That lies in (0, 1]. Where there is no mask both are without meaning.
        """
        draw = self.begin(logits, rng)
        rows = masked.flatten().nonzero()[:, 0]
        if self.order == "random":
            symbols, sure = draw.symbols(rows), uniform(rng, tuple(masked.shape))
        else:
            symbols, judged = draw.judged(rows, self._confidence)
            sure = torch.ones(masked.shape, device=masked.device)
            sure = sure.flatten().index_copy(0, rows, judged).view_as(sure)
        guess = torch.zeros_like(masked, dtype=torch.int64)
        return guess.flatten().index_copy(0, rows, symbols).view_as(guess), sure

    def _confidence(self, p: Tensor, symbols: Tensor) -> Tensor:
        """Return how sure probabilities p [n, V] are of symbols [n], in (0, 1]."""
        if self.order == "margin":
            best = p.topk(min(2, p.shape[-1]), -1).values
            return (best[..., 0] - best[..., -1]).clamp(min=1e-9)
        if self.order == "entropy":
            entropy = -torch.special.xlogy(p, p).sum(-1)
            return (1 - entropy / math.log(max(2, p.shape[-1]))).clamp(min=1e-9)
        return p.gather(-1, symbols[..., None]).squeeze(-1).clamp(min=1e-30)


def _within(masked: Tensor, part: slice) -> Tensor:
    inside = torch.zeros_like(masked)
    inside[:, part] = masked[:, part]
    return inside
