"""Pictures as patches: grouped grey or colour levels (discrete) or pixel values (continuous)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PIL
from torch import Tensor

from braid.errors import BraidError
from braid.modalities.modality import Modality
from braid.modalities.pictures import convert, fit_to, open_picture
from braid.modalities.sounds import SUFFIXES
from braid.spaces import Continuous, Discrete


class Image(Modality):
    """Pictures of one size, cut into square patches; a patch is a token.

    Discrete: patch * patch * channels symbols of `levels` levels each. Continuous: as many numbers
        in [-1, 1].
    """

    def __init__(
        self,
        name: str = "image",
        size: tuple[int, int] | int = 8,
        channels: int = 1,
        patch: int = 2,
        levels: int = 17,
        continuous: bool = False,
        resize: bool = False,
    ) -> None:
        """Make an image modality.

        Args:
            name: name of its strand.
            size: height and width in pixels.
            channels: 1 for grey, 3 for RGB.
            patch: side of a patch in pixels.
            levels: levels of a pixel, 2 to 256.
            continuous: tokens are vectors instead of symbols.
            resize: scale and crop pictures of another size; otherwise they are refused.
        """
        height, width = (size, size) if isinstance(size, int) else size
        if channels not in (1, 3):
            raise BraidError(f"image channels {channels}: use 1 (grey) or 3 (RGB)")
        if patch < 1 or height % patch or width % patch or min(height, width) < 1:
            raise BraidError(
                f"image size {(height, width)} is not a multiple of patch {patch}; change one of "
                "them"
            )
        if not 2 <= levels <= 256:
            raise BraidError(f"image levels {levels} is out of range; use 2 to 256")
        self.name = self.field = name
        self.height, self.width = height, width
        self.channels, self.patch, self.resize, self.continuous = (
            channels,
            patch,
            resize,
            continuous,
        )
        self.depth = levels
        self.shape = self.grid = (height // patch, width // patch)
        numbers = patch * patch * channels
        self.space = Continuous(numbers) if continuous else Discrete(levels, numbers)
        if continuous:
            self.limit, self.levels = 1.0, levels

    def accepts(self, raw: object) -> bool:
        """Accept PIL pictures, arrays of 2 or 3 axes, and paths."""
        if isinstance(raw, Path):
            return raw.suffix.lower() not in SUFFIXES
        return isinstance(raw, PIL.Image) or (isinstance(raw, np.ndarray) and raw.ndim in (2, 3))

    def encode(self, raw: Any, following: str | None = None) -> Tensor:
        """Cut a picture into patches.

        Takes PIL, uint8 arrays, bytes of a file, a path, or a {"bytes": ...} cell.
        """
        picture = self.picture_of(raw)
        pixels = (
            torch.from_numpy(np.array(picture)).view(self.height, self.width, self.channels).long()
        )
        levels = (pixels * (self.depth - 1) * 2 + 255).div(
            510, rounding_mode="floor"
        )  # round(pixel / 255 * (levels - 1))
        tokens = self._patches(levels)
        if self.continuous:
            return tokens.float() * (2 / (self.depth - 1)) - 1
        return tokens if tokens.shape[1] > 1 else tokens[:, 0]

    def picture_of(self, raw: Any) -> PIL.Image:
        """Return a picture in the mode and size that the modality takes; count conversions."""
        picture = open_picture(raw, self.name)
        picture = convert(picture, self.channels, self.name, self._note)
        return fit_to(picture, (self.width, self.height), self.resize, self.name)

    def decode(self, tokens: Tensor, shape: tuple[int, ...] | None = None) -> PIL.Image:
        """Return the picture of tokens [n, ...]; one that was interrupted ends in zeros."""
        rows, columns = shape or self.shape
        if len(tokens) < rows * columns:
            rest = tokens.new_zeros(rows * columns - len(tokens), *tokens.shape[1:])
            tokens = torch.cat([tokens, rest])
        if self.continuous:
            pixels = ((tokens.float().clamp(-1, 1) + 1) * 127.5).round()
        else:
            pixels = (tokens * 255 / (self.depth - 1)).round()
        p, c = self.patch, self.channels
        grid = (
            pixels.reshape(rows, columns, p, p, c)
            .permute(0, 2, 1, 3, 4)
            .reshape(rows * p, columns * p, c)
        )
        array = grid.to("cpu", torch.uint8).numpy()
        return PIL.fromarray(array[..., 0] if c == 1 else array)

    def metric(self) -> dict[str, Any]:
        """Return the levels themselves: grey levels differ by how far apart they are."""
        table = torch.arange(self.depth, dtype=torch.float32)[:, None]
        return {"table": table, "distance": "ordinal", "power": 2, "c": 5.0}

    def alike(self) -> Tensor | None:
        """Return a kernel that falls with the distance of two levels.

        Neighbours begin almost the same.
        """
        value = torch.linspace(0, 1, self.depth, dtype=torch.float64)
        return (-((value[:, None] - value) ** 2) / (2 * 0.3**2)).exp()

    def _patches(self, pixels: Tensor) -> Tensor:
        """Cut [height, width, channels] into [n, patch * patch * channels]."""
        (rows, columns), p = self.shape, self.patch
        return (
            pixels.view(rows, p, columns, p, self.channels)
            .permute(0, 2, 1, 3, 4)
            .reshape(rows * columns, -1)
        )
