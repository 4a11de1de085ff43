"""A small convolutional picture codec: patches in, residual blocks, any quantiser, patches out."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from braid.errors import BraidError
from braid.modalities.codecs.codec import QuantisedCodec


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


class ImageCodec(QuantisedCodec):
    """Pictures of any size that is a multiple of the stride.

    Nearly all work is done on the grid of cells, where convolutions are large matrix products; one
    step at twice the resolution smooths the borders of cells.
    """

    kind = "image"
    medium = "image"

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
        if stride < 2 or stride % 2:
            raise BraidError(f"codec stride {stride} must be an even number of pixels")
        if width % 8 or width < 8 or fine % 8 or fine < 8:
            raise BraidError(f"codec widths {width} and {fine} must be multiples of 8")
        super().__init__(
            {
                "quantiser": quantiser,
                "stride": stride,
                "width": width,
                "encoder": encoder,
                "decoder": decoder,
                "fine": fine,
                "channels": channels,
            }
        )
        self.stride, self.channels, q = stride, channels, self.quantiser
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

    def cells(self, media: Tensor) -> Tensor:
        """Return [B, rows, columns, inputs] of pictures [B, channels, height, width]."""
        height, width = media.shape[-2:]
        if height % self.stride or width % self.stride:
            raise BraidError(
                f"the codec's cells are {self.stride} pixels wide; {width}x{height} is no multiple"
            )
        return self.encoder(media).movedim(1, -1)

    def media(self, vectors: Tensor) -> Tensor:
        """Return pictures [B, channels, height, width] of [B, rows, columns, width]."""
        return self.decoder(vectors.movedim(-1, 1))
