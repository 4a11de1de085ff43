"""Pictures as patches: grouped grey or colour levels (discrete) or pixel values (continuous)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PIL
from PIL import UnidentifiedImageError
from torch import Tensor

from braid.errors import BraidError
from braid.modalities.modality import Modality
from braid.spaces import Continuous, Discrete

MOST_PIXELS = 64_000_000
"""Largest picture that is decoded; checked in the header, before any memory is taken."""

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""What is decoded; some other formats would start programs."""

_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX")


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
        return isinstance(raw, PIL.Image | Path) or (
            isinstance(raw, np.ndarray) and raw.ndim in (2, 3)
        )

    def encode(self, raw: Any, following: str | None = None) -> Tensor:
        """Cut a picture into patches.

        Takes PIL, uint8 arrays, bytes of a file, a path, or a {"bytes": ...} cell.
        """
        picture = self._fit(open_picture(raw, self.name))
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

    def _fit(self, picture: PIL.Image) -> PIL.Image:
        """Convert the mode, and the size where `resize` allows."""
        if picture.mode not in _MODES:
            raise BraidError(
                f"{self.name}: mode {picture.mode} is not supported; convert the picture to RGB "
                "or L"
            )
        if picture.mode != ("L" if self.channels == 1 else "RGB"):
            if picture.mode in ("P", "PA", "LA", "La", "RGBa"):
                picture = picture.convert("RGBA")
            if picture.mode == "RGBA":  # what shows through is white paper
                picture = PIL.alpha_composite(PIL.new("RGBA", picture.size, "white"), picture)
            picture = picture.convert("L" if self.channels == 1 else "RGB")
        if picture.size == (self.width, self.height):
            return picture
        if not self.resize:
            w, h = picture.size
            raise BraidError(
                f"{self.name}: the picture is {w}x{h}, the model reads "
                f"{self.width}x{self.height}; resize it, or set the modality's `resize: true`"
            )
        scale = max(self.width / picture.width, self.height / picture.height)
        size = (
            max(self.width, round(picture.width * scale)),
            max(self.height, round(picture.height * scale)),
        )
        picture = picture.resize(size, PIL.Resampling.LANCZOS)
        left, top = (size[0] - self.width) // 2, (size[1] - self.height) // 2
        return picture.crop((left, top, left + self.width, top + self.height))


# noqa: ANN401 - pictures come in many forms
def open_picture(raw: Any, name: str = "image") -> PIL.Image:
    """Open and decode a picture.

    Refuses what cannot be read, and sizes beyond MOST_PIXELS before decoding.

    Raises:
        BraidError: names what is wrong with the picture.
    """
    if isinstance(raw, dict):
        raw = raw.get("bytes") or raw.get("path") or b""
    if isinstance(raw, np.ndarray):
        if raw.dtype != np.uint8 or raw.ndim not in (2, 3):
            raise BraidError(
                f"{name}: expected a uint8 array [height, width] or [height, width, channels], "
                f"got {raw.dtype} {raw.shape}"
            )
        return PIL.fromarray(raw[..., 0] if raw.ndim == 3 and raw.shape[2] == 1 else raw)
    if isinstance(raw, str | Path):
        if not Path(raw).is_file():
            raise BraidError(f"{name}: {str(raw)!r} does not exist; give the path of a picture")
        raw = Path(raw).read_bytes()
    if isinstance(raw, bytes | bytearray):
        if not raw:
            raise BraidError(f"{name}: the picture is empty (0 bytes)")
        try:
            raw = PIL.open(io.BytesIO(raw), formats=FORMATS)
        except PIL.DecompressionBombError as e:
            raise BraidError(f"{name}: {e}; shrink the picture") from e
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, RuntimeError) as e:
            raise BraidError(f"{name}: not a readable picture; save it again as PNG or JPEG") from e
    if not isinstance(raw, PIL.Image):
        raise BraidError(
            f"{name}: expected a picture, its bytes or its path, got {type(raw).__name__}"
        )
    if raw.width * raw.height > MOST_PIXELS:
        raise BraidError(
            f"{name}: {raw.width}x{raw.height} pixels are more than {MOST_PIXELS}; shrink the "
            "picture"
        )
    try:
        raw.load()
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, RuntimeError) as e:
        raise BraidError(f"{name}: the picture is truncated or damaged ({e}); save it again") from e
    return raw
