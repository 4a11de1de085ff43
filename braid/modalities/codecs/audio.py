"""A small sound codec: a lapped transform, residual blocks at the rate of codes, any quantiser."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from braid.errors import BraidError
from braid.modalities.codecs.codec import QuantisedCodec
from braid.modalities.codecs.mel import FLOOR, filterbank, spectrum


class Lapped(nn.Module):
    """The modified discrete cosine transform with a sine window (Princen and Bradley, 1987).

    Frames of 2 `hop` samples overlap by half and hold `hop` numbers each; samples come back
    exactly. The transform is orthonormal.
    """

    basis: Tensor
    bell: Tensor

    def __init__(self, hop: int) -> None:
        super().__init__()
        self.hop = hop
        at = torch.arange(2 * hop, dtype=torch.float64)[:, None] + 0.5  # [2 hop, 1]
        k = torch.arange(hop, dtype=torch.float64) + 0.5  # [hop]
        window = (math.pi * at / (2 * hop)).sin()
        basis = window * (math.pi / hop * (at + hop / 2) * k).cos() * math.sqrt(2 / hop)
        self.register_buffer("basis", basis.float(), persistent=False)  # [2 hop, hop]
        self.register_buffer("bell", window[:, 0].square().float(), persistent=False)  # [2 hop]

    def forward(self, samples: Tensor) -> Tensor:
        """Return coefficients [B, n + 1, hop] of samples [B, n hop]."""
        return self._frames(samples) @ self.basis

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Return samples [B, n hop] of coefficients [B, n + 1, hop]."""
        early, late = (coefficients @ self.basis.T).chunk(2, -1)  # [B, n + 1, hop] each
        return (late[:, :-1] + early[:, 1:]).flatten(1)

    def spectra(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return coefficients and powers of the Fourier transform, each [B, n + 1, hop].

        The powers are those of Hann-windowed frames, without the constant; never 0.
        """
        frames = self._frames(samples)
        bins = torch.view_as_real(torch.fft.rfft(frames * self.bell))[..., 1:, :]
        return frames @ self.basis, bins.square().sum(-1) + 1e-6

    def _frames(self, samples: Tensor) -> Tensor:
        padded = functional.pad(samples, (self.hop, self.hop))
        return padded.unfold(-1, 2 * self.hop, self.hop)  # [B, n + 1, 2 hop]


class Block(nn.Module):
    """x + a convolution over time within channels, then two layers within a frame (ConvNeXt).

    Normalised frame by frame: what is far away in time does not matter. Starts as the identity.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.into = nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, frames, width] to the same shape."""
        near = self.time(x.movedim(-1, 1)).movedim(1, -1)
        return x + self.out(functional.silu(self.into(self.norm(near))))


class AudioCodec(QuantisedCodec):
    """Speech and other sound of one channel, of any length.

    The lapped transform and its inverse are fixed; the network maps `fold` of its frames to a cell
    and back. It also reads the logarithms of a short-time spectrum, whose magnitudes do not depend
    on where a wave stands in its period. A cell knows only its surroundings: with the default
    options the 8 cells on each side.
    """

    kind = "audio"
    medium = "audio"

    def __init__(
        self,
        quantiser: str = "vq:256x8x8",
        rate: int = 8000,
        stride: int = 200,
        fold: int = 2,
        width: int = 192,
        encoder: int = 2,
        decoder: int = 4,
        fine: int = 128,
    ) -> None:
        """Make a codec.

        Args:
            quantiser: short form, see `quantisers.quantiser`.
            rate: samples a second.
            stride: samples of a cell; rate / stride cells make a second.
            fold: frames of the lapped transform to a cell; each overlaps its neighbours by half.
            width: channels of the residual blocks.
            encoder: residual blocks of the encoder.
            decoder: residual blocks of the decoder.
            fine: channels at the rate of the frames.
        """
        if rate < 1000:
            raise BraidError(f"codec rate {rate} must be at least 1000 samples a second")
        if fold < 1 or stride < 2 * fold or stride % fold:
            raise BraidError(
                f"codec stride {stride} must be a multiple of its fold {fold}, 2 or more times it"
            )
        if min(width, fine) < 1 or min(encoder, decoder) < 0:
            raise BraidError(
                f"codec widths {width} and {fine} must be positive, and its blocks {encoder} and "
                f"{decoder} not negative"
            )
        super().__init__(
            {
                "quantiser": quantiser,
                "rate": rate,
                "stride": stride,
                "fold": fold,
                "width": width,
                "encoder": encoder,
                "decoder": decoder,
                "fine": fine,
            }
        )
        self.stride, self.rate, q = stride, rate, self.quantiser
        hop = stride // fold
        self.lapped = Lapped(hop)
        # n cells have n fold + 1 frames: convolutions of fold + 1 frames lead there and back
        self.into = nn.Linear(2 * hop, fine)
        self.gather = nn.Conv1d(fine, width, fold + 1, stride=fold)
        self.encoder = nn.Sequential(
            *(Block(width) for _ in range(encoder)), nn.LayerNorm(width), nn.Linear(width, q.inputs)
        )
        self.decoder = nn.Sequential(
            nn.Linear(q.width, width), *(Block(width) for _ in range(decoder))
        )
        self.spread = nn.ConvTranspose1d(width, fine, fold + 1, stride=fold)
        self.out = nn.Sequential(nn.LayerNorm(fine), nn.Linear(fine, hop))

    def cells(self, media: Tensor) -> Tensor:
        """Return [B, frames, inputs] of sound [B, samples]; silence fills the last cell."""
        if media.ndim != 2 or not media.shape[1]:
            raise BraidError(
                f"the codec reads sound [B, samples] of one channel, got {tuple(media.shape)}; "
                "average the channels"
            )
        media = functional.pad(media, (0, -media.shape[1] % self.stride))
        waves, power = self.lapped.spectra(media)  # [B, fold frames + 1, hop] each
        # roots and logarithms: what is soft counts too
        seen = torch.cat([_SCALE * waves.sign() * (waves.abs() + 1e-6).sqrt(), power.log() / 4], -1)
        x = self.gather(self.into(seen).movedim(-1, 1))
        return self.encoder(x.movedim(1, -1))

    def media(self, vectors: Tensor) -> Tensor:
        """Return sound [B, frames * stride] of [B, frames, width]."""
        x = self.spread(self.decoder(vectors).movedim(-1, 1))
        root = self.out(x.movedim(1, -1)) / _SCALE
        # a square that keeps its sign, and a slope at 0
        return self.lapped.inverse(root * (root.abs() + 0.005))


_SCALE = 4.0
"""Brings the roots of the transform of speech near to 1."""


def audio_loss(target: Tensor, made: Tensor, rate: int) -> Tensor:
    """Return how far sounds [B, samples] are from their targets, as a scalar.

    The sum over windows of 16, 32 and 64 ms of the spectral convergence and the L1 of log
    magnitudes (arXiv:1910.11480, eq. 4 to 6) and of log-mel powers; and a small L1 of the samples,
    since spectra say little of phases.
    """
    total = 10 * functional.l1_loss(made, target)
    for milliseconds, bands in ((16, 20), (32, 40), (64, 80)):
        window = rate * milliseconds // 1000
        with torch.no_grad():
            a = spectrum(target, window, window // 4)  # [B, frames, bins]
            loudness = a.square().sum((1, 2))
        b = spectrum(made, window, window // 4)
        bank = filterbank(rate, a.shape[-1], bands).to(a)
        # the root of 0, where silence meets silence, has no derivative
        error = (a - b).square().sum((1, 2)) / loudness.clamp(min=1e-6) + 1e-8
        magnitudes = ((a + 1e-4).log() - (b + 1e-4).log()).abs()
        mels = ((a.square() @ bank + FLOOR).log() - (b.square() @ bank + FLOOR).log()).abs()
        total = total + 0.3 * (error.sqrt().mean() + magnitudes.mean() + mels.mean())
    return total
