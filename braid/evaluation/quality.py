"""Measures of pictures: Frechet distance, and a judge trained on real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from braid.errors import BraidError


def pixels(pictures: Sequence[Image.Image]) -> np.ndarray:
    """Return pictures of one size as rows of pixel values in 0..1, [n, numbers]."""
    return np.stack([np.asarray(p, dtype=np.float64).reshape(-1) / 255 for p in pictures])


def shuffled(n: int) -> list[int]:
    """Return 0..n-1 in an order of its own, always the same.

    The first rows of a file are often of one kind.
    """
    return np.random.RandomState(0).permutation(n).tolist()


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of two sets of rows.

    This is eq. 6 of arXiv:1706.08500.

    It is biased upwards for small sets: always read it beside the distance of two real sets.
    """
    if min(len(a), len(b)) < 2 or a.shape[1] != b.shape[1]:
        raise BraidError(
            f"Frechet distance needs two sets of at least 2 rows of one width, got {a.shape} and "
            f"{b.shape}"
        )
    mean = a.mean(0) - b.mean(0)
    c_a, c_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    roots = np.sqrt(np.clip(np.linalg.eigvals(c_a @ c_b).real, 0, None))
    squared = float(mean @ mean + np.trace(c_a) + np.trace(c_b) - 2 * roots.sum())
    return max(0.0, squared)  # which rounding may leave below


def accuracy(said: Sequence[object], true: Sequence[object]) -> float:
    """Return the share of equal entries."""
    return float(np.mean([a == b for a, b in zip(said, true, strict=True)]))


@dataclass(frozen=True)
class Judge:
    """A classifier trained on real pictures, independent of every model.

    A support vector machine on pixels.
    """

    machine: Any

    @staticmethod
    def train(pictures: Sequence[Image.Image], labels: Sequence[str]) -> Judge:
        """Fit the judge."""
        try:
            from sklearn.svm import SVC
        except ImportError as e:
            raise BraidError(
                'judging drawings needs scikit-learn: pip install "braid-models[demo]"'
            ) from e
        machine = SVC(gamma=0.25, C=10)  # pyright: ignore[reportArgumentType]
        return Judge(machine.fit(pixels(pictures), list(labels)))

    def __call__(self, pictures: Sequence[Image.Image]) -> list[str]:
        """Return the label of each picture."""
        return [str(x) for x in self.machine.predict(pixels(pictures))]
