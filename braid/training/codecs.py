"""Train a codec: rate and distortion of pictures or sound, without any language."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from braid import storage
from braid.codec_config import CodecExperiment, CodecTrain
from braid.data import open_data
from braid.device import choose
from braid.errors import BraidError
from braid.evaluation.codecs import MEDIA, MediaReader
from braid.modalities import codecs
from braid.modalities.codecs import Codec
from braid.modalities.codecs.audio import audio_loss
from braid.training.muon import Muon


def train_codec(
    experiment: CodecExperiment,
    out: Path,
    console: Console | None = None,
    device: str | None = None,
) -> Codec:
    """Train a codec to the end of its budget and write it to a folder; returns it on the CPU.

    Raises:
        BraidError: the data has no such media, or the folder cannot be written.
    """
    console = console or Console()
    storage.writable(out.parent)
    c = experiment.train
    torch.manual_seed(experiment.seed)
    codec = experiment.make().to(choose(device))
    if c.adversary and codec.medium != "image":
        raise BraidError("train.adversary judges pictures; set it to 0 for sound")
    data = open_data(experiment.data, experiment.seed)
    media: MediaReader = MEDIA[codec.medium](codec, experiment.size)
    console.print(
        f"{experiment.name}: {sum(p.numel() for p in codec.parameters()):,} parameters; reading "
        f"{data.train.name}",
        highlight=False,
        soft_wrap=True,
    )
    sources = [d.train for d in data.parts.values()] or [data.train]
    training = torch.cat([media.read(s, c.examples // len(sources)) for s in sources])
    run = _Run(experiment, codec, media, training)
    began = time.monotonic()
    while (done := _progress(c.minutes, c.steps, run.steps, time.monotonic() - began)) < 1:
        loss = run.step(done)
        if run.steps % c.log_every == 0:
            spent = time.monotonic() - began
            console.print(
                f"step {run.steps}  loss {float(loss):.4f}  {spent:,.0f} s  {100 * done:.0f} %",
                highlight=False,
            )
    trained = run.average.to("cpu").eval().requires_grad_(False)
    standardise = getattr(trained, "standardise", None)
    if standardise is not None:
        standardise(media.batch(training, torch.randperm(len(training))[:256], augment=False))
    trained.card = {
        "recipe": experiment.model_dump(mode="json"),
        "steps": run.steps,
        "seconds": round(time.monotonic() - began, 1),
    }
    codecs.save(trained, out)
    return trained


def _progress(minutes: float | None, most: int, steps: int, seconds: float) -> float:
    return max(steps / most, 0.0 if minutes is None else seconds / (60 * minutes))


class _Run:
    """What a training step needs."""

    def __init__(
        self, experiment: CodecExperiment, codec: Codec, media: MediaReader, training: Tensor
    ) -> None:
        self.c, self.codec, self.media, self.training = (
            experiment.train,
            codec.train(),
            media,
            training,
        )
        self.average, self.device = copy.deepcopy(codec), next(codec.parameters()).device
        self.optimizer = _optimizer(codec, self.c)
        self.rng = torch.Generator().manual_seed(experiment.seed)
        self.steps = 0
        self.adversary: Adversary | None = None
        if self.c.adversary:
            self.adversary = Adversary(codec.channels, self.c.learning_rate / 4, self.device)

    def step(self, done: float) -> Tensor:
        """Do one step at a share of the budget; returns the loss."""
        c = self.c
        warm = min(1.0, (self.steps + 1) / 100)
        for group in self.optimizer.param_groups:
            group["lr"] = c.learning_rate * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))
        row = torch.randint(len(self.training), (c.batch,), generator=self.rng)
        real = self.media.batch(self.training, row, c.augment, self.rng).to(self.device)
        coded = self.codec(real)
        loss = LOSSES[self.codec.medium](real, coded.media, self.codec) + coded.penalty
        if self.adversary is not None and done > 0.3:  # first get the picture roughly right
            loss = loss + c.adversary * self.adversary.judge(coded.media)
        loss.backward()
        nn.utils.clip_grad_norm_(self.codec.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.adversary is not None and done > 0.25:
            self.adversary.learn(real, coded.media.detach())
        self._follow(min(0.998, (1 + self.steps) / (10 + self.steps)))
        self.steps += 1
        return loss.detach()

    @torch.no_grad()
    def _follow(self, decay: float) -> None:
        """Average the weights; tables and counts are taken as they are."""
        for ours, theirs in zip(self.average.parameters(), self.codec.parameters(), strict=True):
            ours.lerp_(theirs, 1 - decay)
        for ours, theirs in zip(self.average.buffers(), self.codec.buffers(), strict=True):
            ours.copy_(theirs)


def _optimizer(codec: Codec, config: CodecTrain) -> torch.optim.Optimizer:
    betas, decay = (0.9, 0.99), 0.01
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            codec.parameters(), lr=config.learning_rate, betas=betas, weight_decay=decay
        )
    groups = [
        {
            "params": [p for p in codec.parameters() if (p.ndim > 1) == orthogonal],
            "orthogonal": orthogonal,
            "weight_decay": decay,
        }
        for orthogonal in (True, False)
    ]
    return Muon(groups, lr=config.learning_rate, betas=betas)


def picture_loss(real: Tensor, made: Tensor, codec: Codec) -> Tensor:
    """Return L1 + squared error + L1 of the gradients, of pictures [B, C, H, W]."""
    across = functional.l1_loss(made.diff(dim=-1), real.diff(dim=-1))
    down = functional.l1_loss(made.diff(dim=-2), real.diff(dim=-2))
    return (
        functional.l1_loss(made, real) + 4 * functional.mse_loss(made, real) + 0.5 * (across + down)
    )


def sound_loss(real: Tensor, made: Tensor, codec: Codec) -> Tensor:
    """Return the distance of sounds [B, samples]: spectra at several resolutions."""
    return audio_loss(real, made, codec.rate)


LOSSES: dict[str, Callable[[Tensor, Tensor, Codec], Tensor]] = {
    "image": picture_loss,
    "audio": sound_loss,
}


class Adversary:
    """Judges patches as real or made, with the hinge loss (arXiv:1611.07004, arXiv:1705.02894)."""

    def __init__(self, channels: int, rate: float, device: torch.device, width: int = 32) -> None:
        self.net = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        ).to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=rate, betas=(0.5, 0.9))

    def judge(self, made: Tensor) -> Tensor:
        """Return the loss of pictures that should look real."""
        return -self.net(made).mean()

    def learn(self, real: Tensor, made: Tensor) -> None:
        """Do one step of telling real pictures from made ones."""
        loss = (
            functional.relu(1 - self.net(real)).mean() + functional.relu(1 + self.net(made)).mean()
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
