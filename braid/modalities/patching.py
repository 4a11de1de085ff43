"""U-Net patching of latents: convolutions over a picture's cells on the way in and out.

Transfusion (arXiv:2408.11039, section 3.3) joins the two halves by skips around the transformer.
Here each half is complete in itself, so that a strand still embeds and reads independently.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from braid.errors import BraidError
from braid.spaces import Space


class _Grid(nn.Module):
    """What both halves share: cells to tokens and back."""

    def __init__(self, space: Space, shape: tuple[int, int], patch: int, width: int) -> None:
        super().__init__()
        self.channels: int = space.width  # type: ignore[union-attr]
        self.rows, self.columns = shape
        self.patch = patch
        self.inner = max(8, width // 2 // 8 * 8)

    def picture(self, x: Tensor) -> Tensor:
        """Return [pictures, width, rows, columns] of whole pictures' tokens [..., width]."""
        n = self.rows * self.columns
        if x.numel() // x.shape[-1] % n or x.ndim > 2 and x.shape[-2] % n:
            raise BraidError(f"patching 'unet' reads whole pictures of {n} tokens")
        return x.reshape(-1, self.rows, self.columns, x.shape[-1]).movedim(-1, 1)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.convolve = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.convolve.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolve(functional.silu(self.norm(x)))


class Descent(_Grid):
    """Cells to tokens: vectors [..., patch * patch * channels] of whole pictures to [..., D]."""

    def __init__(self, space: Space, shape: tuple[int, int], patch: int, width: int) -> None:
        super().__init__(space, shape, patch, width)
        self.into = nn.Conv2d(self.channels, self.inner, 3, padding=1)
        self.block = _Residual(self.inner)
        self.down = nn.Conv2d(self.inner, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Embed tokens."""
        p, c = self.patch, self.channels
        cells = self.picture(x).unflatten(1, (p, p, c)).permute(0, 3, 4, 1, 5, 2)
        cells = cells.reshape(len(cells), c, self.rows * p, self.columns * p)
        return self.down(self.block(self.into(cells))).movedim(1, -1).reshape(*x.shape[:-1], -1)


class Ascent(_Grid):
    """Tokens to cells: hidden vectors [..., D] to [..., patch * patch * channels]."""

    def __init__(self, space: Space, shape: tuple[int, int], patch: int, width: int) -> None:
        super().__init__(space, shape, patch, width)
        self.up = nn.ConvTranspose2d(width, self.inner, patch, stride=patch)
        self.block = _Residual(self.inner)
        self.out = nn.Conv2d(self.inner, self.channels, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor) -> Tensor:
        """Predict tokens; starts at zero, the mean of centred data."""
        p = self.patch
        cells = self.out(functional.silu(self.block(self.up(self.picture(hidden)))))
        tokens = cells.unflatten(3, (self.columns, p)).unflatten(2, (self.rows, p))
        tokens = tokens.permute(0, 2, 4, 3, 5, 1)  # [pictures, rows, columns, p, p, channels]
        return tokens.reshape(*hidden.shape[:-1], -1)
