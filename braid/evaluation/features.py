"""A classifier trained here on real pictures: a judge of drawn ones, and features to compare by.

Frechet and kernel distance on its features are distances of *this* classifier: they compare
models on one data set, and not with published figures, which use an Inception network. Its
`about` says what it was trained on and how often it is right on pictures held out.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from braid import storage
from braid.errors import BraidError
from braid.evaluation.quality import accuracy

Pictures = Sequence[Image.Image] | np.ndarray
"""Pictures of one size, or uint8 [n, H, W, C]."""

_WIDTHS = (32, 64, 128)
_AT_ONCE = 512  # pictures in one pass of evaluation


@dataclass(frozen=True)
class Training:
    """How a classifier is trained.

    Attributes:
        batch: pictures a step.
        rate: the highest learning rate, reached after a quarter of the training.
        momentum: Nesterov momentum.
        decay: weight decay.
        smoothing: share of each label that is spread over all classes.
        shift: pixels by which a picture is moved at random, each way.
        flip: mirror half of the pictures; not for digits or letters.
    """

    batch: int = 64
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.1
    shift: int = 2
    flip: bool = False


class Classifier(nn.Module):
    """A small residual convolutional network: three stages, the mean over places, a linear layer.

    Attributes:
        channels: of the pictures, 1 or 3.
        size: of the pictures, in pixels each way.
        classes: names of the labels.
        about: what is known of the training; JSON.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: Sequence[str],
        about: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if channels not in (1, 3) or size < 4:
            raise BraidError(
                f"a classifier of {channels} channels and {size} pixels each way; expected 1 or 3 "
                "channels and at least 4 pixels"
            )
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise BraidError(
                f"a classifier got the classes {list(classes)}; give at least 2, each once"
            )
        self.channels, self.size, self.classes = channels, size, tuple(classes)
        self.about = dict(about or {})
        self.body = nn.Sequential(*_stages(channels, size))
        self.head = nn.Linear(_WIDTHS[-1], len(classes))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits [n, classes] of pixels uint8 [n, C, H, W]."""
        return self.head(self.pool(pixels))

    def pool(self, pixels: Tensor) -> Tensor:
        """Return the features [n, 128] of pixels uint8 [n, C, H, W]."""
        x = pixels.to(self.head.weight.dtype) / 127.5 - 1
        return self.body(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))

    def features(self, pictures: Pictures) -> np.ndarray:
        """Return the features of each picture, float32 [n, 128]."""
        return self._evaluate(pictures, logits=False).numpy()

    def predict(self, pictures: Pictures) -> list[str]:
        """Return the most likely label of each picture."""
        chosen = self._evaluate(pictures, logits=True).argmax(1)
        return [self.classes[i] for i in chosen.tolist()]

    @torch.no_grad()
    def _evaluate(self, pictures: Pictures, logits: bool) -> Tensor:
        """Return what the network makes of each picture, without the noise of training."""
        pixels = as_pixels(pictures, self.channels, self.size)
        device, training = self.head.weight.device, self.training
        self.eval()
        run = self.forward if logits else self.pool
        found = torch.cat([run(part.to(device)).cpu() for part in pixels.split(_AT_ONCE)])
        self.train(training)
        return found

    def save(self, folder: Path) -> None:
        """Write classifier.safetensors and classifier.json into a folder of their own."""
        shape = {"channels": self.channels, "size": self.size, "classes": list(self.classes)}
        texts = {"classifier": {**shape, "about": self.about}}
        storage.save(folder, {"classifier": self.state_dict()}, texts)

    @staticmethod
    def load(folder: Path) -> Classifier:
        """Read a classifier that `save` has written, ready to judge."""
        told = storage.read_json(folder / "classifier.json")
        try:
            model = Classifier(told["channels"], told["size"], told["classes"], told["about"])
        except (KeyError, TypeError) as e:
            raise BraidError(
                f"{str(folder / 'classifier.json')!r} describes no classifier ({e!r}); train it "
                "again"
            ) from e
        tensors = storage.read_tensors(folder / "classifier.safetensors")
        storage.adopt(model, tensors, str(folder))
        return model.eval()


class _Residual(nn.Module):
    """A convolution beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = _convolution(width, width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus what the convolution makes of it."""
        return x + self.inner(x)


def _stages(channels: int, size: int) -> Iterator[nn.Module]:
    """Yield the layers; pictures are halved while they have more than 4 pixels each way."""
    before = channels
    for width in _WIDTHS:
        halved = size > 4
        # the first layer is large pictures' dearest, and looks at 4 x 4 pixels at once
        kernel = 4 if halved and before == channels else 3
        yield _convolution(before, width, kernel, 2 if halved else 1)
        yield _Residual(width)
        before, size = width, (size + 1) // 2 if halved else size


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
    """Return a convolution, batch normalisation and a rectifier."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def as_pixels(pictures: Pictures, channels: int, size: int) -> Tensor:
    """Return pictures as uint8 [n, C, H, W]; images are converted to grey or RGB."""
    if len(pictures) == 0:
        raise BraidError("got 0 pictures; give at least one")
    if not isinstance(pictures, np.ndarray):
        mode = "L" if channels == 1 else "RGB"
        for i, picture in enumerate(pictures):
            if picture.size != (size, size):
                raise BraidError(
                    f"picture {i} is {picture.width} x {picture.height}, expected {size} x {size}; "
                    "resize it"
                )
        grids = [np.asarray(picture.convert(mode)) for picture in pictures]
        pictures = np.stack(grids).reshape(-1, size, size, channels)
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (size, size, channels):
        raise BraidError(
            f"pictures are {pictures.dtype} {list(pictures.shape)}, expected uint8 "
            f"[n, {size}, {size}, {channels}]; scale or resize them"
        )
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))


def train_classifier(
    pictures: Pictures,
    labels: Sequence[str],
    *,
    seconds: float = 60,
    steps: int | None = None,
    seed: int = 0,
    validation: tuple[Pictures, Sequence[str]] | None = None,
    trained_on: str = "",
    training: Training | None = None,
) -> Classifier:
    """Train a classifier on real pictures for a time, or for `steps`, which repeats exactly.

    `validation` holds pictures and labels that are not trained on: `about` then says how often the
    classifier is right on them. `trained_on` is the name of the data, for `about`.
    """
    if len(pictures) != len(labels) or (steps is not None and steps < 1) or seconds <= 0:
        raise BraidError(
            f"training got {len(pictures)} pictures, {len(labels)} labels, {seconds} seconds and "
            f"{steps} steps; give one label a picture, and a time or steps above 0"
        )
    options = training or Training()
    channels, size = _shape(pictures)
    pixels = as_pixels(pictures, channels, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(channels, size, sorted(set(labels)))
    number = {name: i for i, name in enumerate(model.classes)}
    targets = torch.tensor([number[label] for label in labels])
    began = time.monotonic()
    took = _fit(model, pixels, targets, seconds, steps, seed, options)
    model.about = {
        "trained_on": trained_on,
        "pictures": len(labels),
        "steps": took,
        "seconds": round(time.monotonic() - began, 1),
        "seed": seed,
    }
    if validation is not None:
        judged = accuracy(model.predict(validation[0]), list(validation[1]))
        model.about |= {"validation_pictures": len(validation[1]), "validation_accuracy": judged}
    return model


def _shape(pictures: Pictures) -> tuple[int, int]:
    """Return the channels and the size of the first picture."""
    if len(pictures) == 0:
        raise BraidError("got 0 pictures; give at least one")
    first = pictures[0]
    if isinstance(first, Image.Image):
        return (1 if first.mode in ("1", "L") else 3), first.width
    if first.ndim != 3:
        raise BraidError(f"pictures are [n, *{list(first.shape)}], expected uint8 [n, H, W, C]")
    return first.shape[2], first.shape[1]


def _fit(
    model: Classifier,
    pixels: Tensor,
    targets: Tensor,
    seconds: float,
    steps: int | None,
    seed: int,
    options: Training,
) -> int:
    """Train a model in place, and return the number of steps."""
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=options.rate,
        momentum=options.momentum,
        weight_decay=options.decay,
        nesterov=True,
    )
    model.train()
    began = time.monotonic()
    for step, chosen in enumerate(_batches(len(pixels), options.batch, rng)):
        spent = (time.monotonic() - began) / seconds if steps is None else step / steps
        if spent >= 1:
            return step
        for group in optimizer.param_groups:
            group["lr"] = options.rate * one_cycle(spent)
        logits = model(_disturbed(pixels[chosen], rng, options.shift, options.flip))
        loss = F.cross_entropy(logits, targets[chosen], label_smoothing=options.smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError("the batches have no end")


def one_cycle(spent: float) -> float:
    """Return the share of the highest rate when a share of the training is spent.

    It rises for a quarter, and then falls as a cosine to 0.
    """
    if spent < 0.25:
        return 0.1 + 0.9 * spent / 0.25
    return 0.5 + 0.5 * math.cos(math.pi * (spent - 0.25) / 0.75)


def _batches(n: int, batch: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of batches without end; every epoch has its own order."""
    size = min(batch, n)
    for _ in itertools.count():
        order = torch.randperm(n, generator=rng)
        yield from order[: n // size * size].split(size)


def _disturbed(pixels: Tensor, rng: torch.Generator, shift: int, flip: bool) -> Tensor:
    """Return pictures, each moved by up to `shift` pixels and perhaps mirrored, [n, C, H, W]."""
    n, _, height, width = pixels.shape
    down, right = torch.randint(-shift, shift + 1, (2, n, 1), generator=rng)
    row = (torch.arange(height) + down).clamp(0, height - 1)  # [n, H]; the edge is repeated
    column = (torch.arange(width) + right).clamp(0, width - 1)  # [n, W]
    if flip:
        mirrored = torch.rand(n, 1, generator=rng) < 0.5
        column = torch.where(mirrored, column.flip(1), column)
    item = torch.arange(n)[:, None, None]
    return pixels.permute(0, 2, 3, 1)[item, row[:, :, None], column[:, None]].permute(0, 3, 1, 2)
