"""A small convolutional picture codec: patches in, residual blocks, any quantiser, patches out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from braid.errors import BraidError
from braid.modalities.codecs.codec import Codec, Coded
from braid.modalities.codecs.quantisers import Gaussian, Quantiser, quantiser
from braid.spaces import Continuous, Discrete


class Residual(nn.Module):
    """x + convolutions of a normalised x; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.into = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, width, rows, columns] to the same shape."""
        return x + self.out(functional.silu(self.into(functional.silu(self.norm(x)))))


class ImageCodec(Codec):
    """Pictures of any size that is a multiple of the stride.

    Nearly all work is done on the grid of cells, where convolutions are large matrix products; one
    step at twice the resolution smooths the borders of cells.
    """

    kind = "image"
    medium = "image"
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        quantiser: str = "fsq:8,5,5,5",
        stride: int = 4,
        width: int = 128,
        encoder: int = 2,
        decoder: int = 4,
        fine: int = 48,
        channels: int = 3,
    ) -> None:
        """Make a codec.

        Args:
            quantiser: short form, see `quantisers.quantiser`.
            stride: pixels along an edge of a cell; even.
            width: channels of the residual blocks.
            encoder: residual blocks of the encoder.
            decoder: residual blocks of the decoder.
            fine: channels at twice the resolution of the grid.
            channels: 1 for grey, 3 for RGB.
        """
        super().__init__()
        if stride < 2 or stride % 2:
            raise BraidError(f"codec stride {stride} must be an even number of pixels")
        if width % 8 or width < 8 or fine % 8 or fine < 8:
            raise BraidError(f"codec widths {width} and {fine} must be multiples of 8")
        self.options: dict[str, Any] = {
            "quantiser": quantiser,
            "stride": stride,
            "width": width,
            "encoder": encoder,
            "decoder": decoder,
            "fine": fine,
            "channels": channels,
        }
        self.stride, self.channels, self.card = stride, channels, {}
        self.quantiser = q = _quantiser(quantiser)
        self.space = Discrete(q.size, q.groups) if q.size else Continuous(q.width)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(stride // 2),
            nn.Conv2d(channels * stride**2 // 4, fine, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(fine, width, 4, stride=2, padding=1),
            *(Residual(width) for _ in range(encoder)),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, q.inputs, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(q.width, width, 3, padding=1),
            *(Residual(width) for _ in range(decoder)),
            nn.Conv2d(width, 4 * fine, 1),
            nn.PixelShuffle(2),
            Residual(fine),
            nn.Conv2d(fine, channels * stride**2 // 4, 3, padding=1),
            nn.PixelShuffle(stride // 2),
        )
        # a continuous code is shown with mean 0 and deviation 1, measured after training
        self.register_buffer("mean", torch.zeros(q.width))
        self.register_buffer("scale", torch.ones(q.width))

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self.options)

    def forward(self, media: Tensor) -> Coded:
        """Encode and decode pictures [B, channels, height, width]."""
        cells = self._cells(media)  # [B, rows, columns, inputs]
        coded = self.quantiser(cells.flatten(0, 2))
        vectors = coded.vectors.view(*cells.shape[:3], -1)
        codes = None if coded.codes is None else coded.codes.view(*cells.shape[:3], -1)
        return Coded(self.decoder(vectors.movedim(-1, 1)), codes, coded.penalty)

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Return codes [B, rows, columns] (with groups or width as a last axis)."""
        cells = self._cells(media)
        coded = self.quantiser(cells.flatten(0, 2))
        shape = cells.shape[:3]
        if coded.codes is None:
            return (coded.vectors.view(*shape, -1) - self.mean) / self.scale
        return coded.codes.view(*shape, *coded.codes.shape[1:])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Return pictures [B, channels, height, width] in [-1, 1]."""
        if isinstance(self.space, Continuous):
            vectors = codes * self.scale + self.mean
        else:
            vectors = self.quantiser.vectors(codes)
        return self.decoder(vectors.movedim(-1, 1)).clamp(-1, 1)

    def table(self) -> Tensor | None:
        """Return the quantiser's vectors."""
        return self.quantiser.table() if self.quantiser.size else None

    @torch.no_grad()
    def standardise(self, media: Tensor) -> None:
        """Measure mean and deviation of a continuous code on pictures [B, ...]."""
        if not self.quantiser.size:
            vectors = self.encode(media).flatten(0, 2) * self.scale + self.mean
            self.mean.copy_(vectors.mean(0))
            self.scale.copy_(vectors.std(0).clamp(min=1e-4))

    def _cells(self, media: Tensor) -> Tensor:
        height, width = media.shape[-2:]
        if height % self.stride or width % self.stride:
            raise BraidError(
                f"the codec's cells are {self.stride} pixels wide; {width}x{height} is no multiple"
            )
        return self.encoder(media).movedim(1, -1)


def _quantiser(text: str) -> Quantiser:
    made = quantiser(text)
    if not isinstance(made, Gaussian) and made.size < 2:
        raise BraidError(f"quantiser {text!r} has fewer than 2 symbols")
    return made
