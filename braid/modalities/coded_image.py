"""Pictures through a codec: symbols of a VQ codec, or the latents of a KL autoencoder."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image as PIL
from torch import Tensor, nn

from braid.errors import BraidError, unknown
from braid.modalities.codecs import Codes
from braid.modalities.coded import CodedModality
from braid.modalities.image import Image
from braid.modalities.patching import Ascent, Descent
from braid.modalities.pictures import convert, fit_to, open_picture
from braid.spaces import Discrete


class CodedImage(CodedModality):
    """Pictures as the codes of a frozen codec; patch x patch cells make a token."""

    medium, means = "image", "pictures"

    def __init__(
        self,
        name: str = "image",
        codec: str = "mini/image-codec",
        size: int | tuple[int, int] = 32,
        patch: int = 1,
        resize: bool = False,
        budget: int | None = None,
        patching: Literal["linear", "unet"] = "linear",
        field: str = "image",
    ) -> None:
        """Make an image modality.

        Args:
            name: name of its strand.
            codec: folder of a codec, a name of `braid codec list`, or a Hub id.
            size: height and width of pictures in pixels; the default of a hole.
            patch: cells along an edge of a token.
            resize: scale and crop pictures of another size; otherwise they are refused.
            budget: take any size and aspect ratio, scaled to at most this many tokens.
            patching: how vectors enter and leave the model: "linear", or "unet" with convolutions
                over the cells of a picture (Transfusion, arXiv:2408.11039, section 3.3).
            field: field of the raw examples that holds the picture.
        """
        height, width = (size, size) if isinstance(size, int) else size
        super().__init__(name, field, codec)
        self.channels, self.edge = self.shell.channels, self.shell.stride * patch
        if patch < 1 or height % self.edge or width % self.edge or min(height, width) < 1:
            raise BraidError(
                f"image size {(height, width)} is not a multiple of the {self.edge} pixels of a "
                f"token (codec stride {self.shell.stride} x patch {patch}); change one of them"
            )
        self.height, self.width, self.patch, self.resize = height, width, patch, resize
        self.shape = self.rectangle = (height // self.edge, width // self.edge)
        if budget is not None and budget < math.prod(self.shape):
            raise BraidError(
                f"image budget {budget} is less than the {math.prod(self.shape)} tokens of size "
                f"{(height, width)}, the default of a hole; raise the one or lower the other"
            )
        self.budget = budget
        side = budget if budget is not None else 0
        self.grid = (max(self.shape[0], side), max(self.shape[1], side))
        self.space = self._joined(patch**2)
        if patching not in ("linear", "unet"):
            raise unknown("patching", patching, ("linear", "unet"))
        if patching == "unet" and (budget is not None or isinstance(self.space, Discrete)):
            raise BraidError("patching 'unet' needs continuous codes and pictures of one size")
        self.patching = patching

    def accepts(self, raw: object) -> bool:
        """Accept PIL pictures, arrays of 2 or 3 axes, and paths of pictures."""
        return Image.accepts(self, raw)  # type: ignore[arg-type]

    def encode(self, raw: Any, following: str | None = None) -> Tensor:
        """Return the tokens of a picture, or of `Codes` that a cache holds; of it [rows, columns].

        Takes PIL, uint8 arrays, bytes of a file, a path, or a {"bytes": ...} cell.
        """
        if isinstance(raw, Codes):
            return self.tokens(raw.of(self.card["fingerprint"], self.name))
        picture = convert(open_picture(raw, self.name), self.channels, self.name, self._note)
        size = self._size(picture)
        picture = fit_to(picture, size, self.resize or self.budget is not None, self.name)
        pixels = torch.from_numpy(np.array(picture)).view(size[1], size[0], self.channels)
        with torch.no_grad():
            cells = self.codec.encode(pixels.permute(2, 0, 1)[None].float() / 127.5 - 1)[0]
        return self.tokens(cells)

    def tokens(self, cells: Tensor) -> Tensor:
        """Join the cells [rows, columns, ...] of each token; flat where all pictures are alike."""
        p = self.patch
        rows, columns = cells.shape[0] // p, cells.shape[1] // p
        whole = (rows * p, columns * p) == tuple(cells.shape[:2])
        fits = (rows, columns) == self.shape if self.budget is None else True
        if not (whole and fits and rows * columns <= (self.budget or rows * columns)):
            reads = f"{self.shape[0]}x{self.shape[1]} tokens of {p}x{p} cells"
            if self.budget is not None:
                reads = f"at most {self.budget} tokens of {p}x{p} cells"
            raise BraidError(
                f"{self.name}: the codes are of a picture of {cells.shape[0]}x{cells.shape[1]} "
                f"cells, the model reads {reads}; encode the data at the model's size"
            )
        flat = cells.reshape(rows, p, columns, p, -1).permute(0, 2, 1, 3, 4)
        flat = flat.reshape(rows, columns, -1)
        if flat.shape[-1] == 1 and isinstance(self.space, Discrete):
            flat = flat[..., 0]
        return flat if self.budget is not None else flat.flatten(0, 1)

    def decode(self, tokens: Tensor, shape: tuple[int, ...] | None = None) -> PIL.Image:
        """Return the picture of tokens [n, ...]; one that was interrupted ends in zeros."""
        rows, columns = shape or self.shape
        if len(tokens) < rows * columns:
            rest = tokens.new_zeros(rows * columns - len(tokens), *tokens.shape[1:])
            tokens = torch.cat([tokens, rest])
        p = self.patch
        cells = (
            tokens.reshape(rows, columns, p, p, -1)
            .permute(0, 2, 1, 3, 4)
            .reshape(rows * p, columns * p, -1)
        )
        if isinstance(self.shell.space, Discrete) and self.shell.space.groups == 1:
            cells = cells[..., 0]
        pixels = ((self.codec.decode(cells[None].cpu())[0] + 1) * 127.5).round().clamp(0, 255)
        array = pixels.permute(1, 2, 0).to(torch.uint8).numpy()
        return PIL.fromarray(array[..., 0] if self.channels == 1 else array)

    def hole_shape(self, shape: int | tuple[int, ...] | None, causal: bool) -> tuple[int, ...]:
        """Return the asked shape, which may not exceed the budget; a U-Net draws its own alone."""
        asked = super().hole_shape(shape, causal)
        if self.patching == "unet" and asked != self.shape:
            raise BraidError(
                f"a hole of {asked} tokens: patching 'unet' draws whole pictures of {self.shape}; "
                "leave the shape out"
            )
        if self.budget is not None and math.prod(asked) > self.budget:
            raise BraidError(
                f"a hole of {asked} tokens exceeds the budget of {self.budget}; ask for less"
            )
        return asked

    def metric(self) -> dict[str, Any]:
        """Return the codec's vectors: symbols are as far apart as what they stand for."""
        table = self.codec.table()
        if table is None:
            return super().metric()
        # levels in a row meet their neighbours early; rows of a codebook have many of them
        scale = 5.0 if table.shape[1] == 1 else 12.0
        return {"table": table.detach().clone(), "distance": "ordinal", "power": 2, "c": scale}

    def alike(self) -> Tensor | None:
        """Return a kernel that falls with the distance of two symbols."""
        table = self.codec.table() if isinstance(self.space, Discrete) else None
        if table is None:
            return None
        square = torch.cdist(table.double(), table.double()).square()
        return (-square / (0.5 * square.mean())).exp()

    def embedder(self, width: int, extra: int = 0) -> nn.Module:
        """Return the way in: of the space, or a U-Net's descent."""
        if self.patching == "unet":
            return Descent(self.shell.space, self.rectangle, self.patch, width)
        return super().embedder(width, extra)

    def head(self, width: int) -> nn.Module:
        """Return the way out: of the space, or a U-Net's ascent."""
        if self.patching == "unet":
            return Ascent(self.shell.space, self.rectangle, self.patch, width)
        return super().head(width)

    def _size(self, picture: PIL.Image) -> tuple[int, int]:
        """Return (width, height) in pixels to which a picture is brought."""
        if self.budget is None:
            return self.width, self.height
        w, h = picture.size
        scale = min(1.0, math.sqrt(self.budget * self.edge**2 / (w * h)))
        columns, rows = (max(1, round(x * scale / self.edge)) for x in (w, h))
        while rows * columns > self.budget:
            rows, columns = (rows - 1, columns) if rows > columns else (rows, columns - 1)
        return columns * self.edge, rows * self.edge
