"""Picture codecs of diffusers: AutoencoderKL and VQModel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from braid.errors import BraidError
from braid.modalities.codecs.codec import Coded
from braid.modalities.codecs.released import Released
from braid.spaces import Continuous, Discrete


class _Gaussians(nn.Module):
    """AutoencoderKL: a cell is the mean of its Gaussian, brought to about unit variance.

    Codes are (mean of the Gaussian - mean) * factor, as released latent diffusions see them.
    """

    weight = 1e-5  # of the divergence, as for codecs of our own
    model: Any  # a class of diffusers, which is imported when it is used
    mean: Tensor
    factor: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        options, width = model.config, model.config.latent_channels
        self.model, self.space = model, Continuous(width)
        mean = options.get("latents_mean") or [options.get("shift_factor") or 0.0] * width
        deviation = torch.tensor(options.get("latents_std") or [1.0] * width)
        self.register_buffer("mean", torch.tensor(mean), persistent=False)  # [width]
        factor = options.scaling_factor / deviation  # [width]
        self.register_buffer("factor", factor, persistent=False)

    def forward(self, media: Tensor) -> Coded:
        """Draw from the Gaussians in training; otherwise take their means."""
        gaussians = self.model.encode(media).latent_dist
        latents = gaussians.sample() if self.training else gaussians.mode()  # [B, width, r, c]
        divergence = gaussians.kl().mean() / latents[0, 0].numel()  # of a cell
        return Coded(self.model.decode(latents).sample, None, self.weight * divergence)

    def encode(self, media: Tensor) -> Tensor:
        """Return codes [B, rows, columns, width]."""
        latents = self.model.encode(media).latent_dist.mode().movedim(1, -1)
        return (latents - self.mean) * self.factor

    def decode(self, codes: Tensor) -> Tensor:
        """Return pictures of codes [B, rows, columns, width]."""
        latents = codes / self.factor + self.mean
        return self.model.decode(latents.movedim(-1, 1).contiguous()).sample

    def table(self) -> None:
        """Return None: a continuous code has no symbols."""


class _Symbols(nn.Module):
    """VQModel: a cell is the number of its nearest row of the codebook."""

    model: Any  # as above

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.space = model, Discrete(model.config.num_vq_embeddings)

    def forward(self, media: Tensor) -> Coded:
        """Quantise with a straight-through gradient; the penalty holds both ends together."""
        latents = self.model.encode(media).latents  # [B, d, rows, columns]
        vectors, penalty, (_, _, symbols) = self.model.quantize(latents)
        codes = symbols.view(len(media), *latents.shape[-2:])
        return Coded(self._pictures(vectors), codes, penalty)

    def encode(self, media: Tensor) -> Tensor:
        """Return codes [B, rows, columns]."""
        latents = self.model.encode(media).latents
        symbols = self.model.quantize(latents)[2][2]
        return symbols.view(len(media), *latents.shape[-2:])

    def decode(self, codes: Tensor) -> Tensor:
        """Return pictures of codes [B, rows, columns]."""
        return self._pictures(self.model.quantize.embedding(codes).movedim(-1, 1).contiguous())

    def table(self) -> Tensor:
        """Return the codebook, [size, d]."""
        return self.model.quantize.embedding.weight.detach()

    def _pictures(self, vectors: Tensor) -> Tensor:
        # not `decode`, whose arguments depend on an option, and which quantises once more
        guide = vectors if self.model.config.norm_type == "spatial" else None
        return self.model.decoder(self.model.post_quant_conv(vectors), guide)


_NETWORKS = {"AutoencoderKL": _Gaussians, "VQModel": _Symbols}


class DiffusersCodec(Released):
    """A picture codec of diffusers.

    Args:
        model: "AutoencoderKL" (continuous) or "VQModel" (discrete).
        config: the configuration of that class.
    """

    kind = "diffusers"
    medium = "image"
    models = tuple(_NETWORKS)
    reading = {"low_cpu_mem_usage": False}  # True needs a library more
    network: _Gaussians | _Symbols

    def __init__(self, model: str, config: dict[str, Any]) -> None:
        super().__init__()
        built = self.build(model, config)
        self.network = _NETWORKS[model](built)
        options = self.model.config
        self.stride = 2 ** (len(options.block_out_channels) - 1)
        self.channels, self.space = options.in_channels, self.network.space

    @staticmethod
    def make(network: Any, config: dict[str, Any]) -> Any:
        """Make an instance of one of the library's classes."""
        return network.from_config(config)

    @property
    def model(self) -> Any:
        """The library's network."""
        return self.network.model

    def forward(self, media: Tensor) -> Coded:
        """Encode and decode pictures [B, channels, height, width]."""
        self._check(media)
        return self.network(media)

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Return codes [B, rows, columns], with the width as a last axis where continuous."""
        self._check(media)
        return self.network.encode(media)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Return pictures [B, channels, height, width] in [-1, 1]."""
        return self.network.decode(codes).clamp(-1, 1)

    def table(self) -> Tensor | None:
        """Return the codebook [size, d] of a discrete code."""
        return self.network.table()

    def _check(self, media: Tensor) -> None:
        if media.ndim != 4 or media.shape[1] != self.channels:
            raise BraidError(
                f"the codec reads pictures [B, {self.channels}, height, width], got "
                f"{tuple(media.shape)}; give {self.channels} channels"
            )
        height, width = media.shape[-2:]
        if height % self.stride or width % self.stride or not height * width:
            raise BraidError(
                f"the codec's cells are {self.stride} pixels wide; {width}x{height} is no "
                "multiple: crop or resize"
            )
