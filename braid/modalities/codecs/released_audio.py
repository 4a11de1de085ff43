"""Sound codecs of transformers: EncodecModel and DacModel."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from braid.errors import BraidError
from braid.modalities.codecs.codec import Coded
from braid.modalities.codecs.released import Released
from braid.spaces import Discrete


class _Encodec(nn.Module):
    """EncodecModel (arXiv:2210.13438), of one channel and in one piece."""

    model: Any  # a class of transformers, which is imported when it is used

    def __init__(self, model: Any, bandwidth: float) -> None:
        super().__init__()
        options = model.config
        if options.audio_channels != 1 or options.normalize or options.chunk_length_s:
            raise BraidError(
                f"EnCodec of {options.audio_channels} channels, in chunks of "
                f"{options.chunk_length_s} s, normalised: {options.normalize}; its codes alone do "
                "not hold the sound: use one without these, such as facebook/encodec_24khz"
            )
        targets = [float(target) for target in options.target_bandwidths]
        self.bandwidth = float(bandwidth or targets[0])
        if self.bandwidth not in targets:
            raise BraidError(
                f"bandwidth {bandwidth} kbit/s is none that this EnCodec was trained for; choose "
                f"one of {targets}"
            )
        groups = model.quantizer.get_num_quantizers_for_bandwidth(self.bandwidth)
        # the groups beyond are never read, and need not be kept
        model.quantizer.layers = model.quantizer.layers[:groups]
        self.model, self.stride = model, options.hop_length
        self.space = Discrete(options.codebook_size, len(model.quantizer.layers))

    def forward(self, media: Tensor) -> Coded:
        """Raise: transformers has no straight-through gradient and no losses for it."""
        raise NotImplementedError(
            "transformers has EnCodec without its training losses; fine-tune a DacModel, or train "
            "a codec of kind 'audio'"
        )

    def encode(self, media: Tensor) -> Tensor:
        """Return codes [B, frames, groups]."""
        return self.model.quantizer.encode(self.model.encoder(media[:, None])).movedim(0, -1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return sound [B, samples] of codes [B, frames, groups]."""
        return self.model.decoder(self.model.quantizer.decode(codes.movedim(-1, 0)))[:, 0]

    def rows(self) -> Tensor:
        """Return what the decoder reads for each symbol of each group, [groups, size, d]."""
        return torch.stack([layer.codebook.embed for layer in self.model.quantizer.layers])


class _Dac(nn.Module):
    """DacModel (arXiv:2306.06546); any number of its groups can be used."""

    model: Any  # as above

    def __init__(self, model: Any, bandwidth: float) -> None:
        super().__init__()
        options, quantizer = model.config, model.quantizer
        self.model, self.stride = model, math.prod(options.downsampling_ratios)
        # kbit/s of a group
        step = math.log2(options.codebook_size) * options.sampling_rate / self.stride / 1000
        most = len(quantizer.quantizers)
        groups = math.floor(bandwidth / step + 0.01) if bandwidth else most
        if not 1 <= groups <= most:
            raise BraidError(
                f"bandwidth {bandwidth} kbit/s is out of range; this DAC has {most} groups of "
                f"{step:.3f} kbit/s: choose {step:.3f} to {most * step:.3f}"
            )
        self.bandwidth = round(groups * step, 3)
        # the groups beyond are never read, and need not be kept
        quantizer.quantizers, quantizer.n_codebooks = quantizer.quantizers[:groups], groups
        self.space = Discrete(options.codebook_size, groups)

    def forward(self, media: Tensor) -> Coded:
        """Quantise with the library's straight-through gradient and losses."""
        penalty, vectors, codes, _ = self.model.encode(media[:, None], return_dict=False)
        made = self.model.decode(vectors, return_dict=False)[0]
        return Coded(made, codes.movedim(1, -1), penalty.mean())

    def encode(self, media: Tensor) -> Tensor:
        """Return codes [B, frames, groups]."""
        return self.model.encode(media[:, None], return_dict=False)[2].movedim(1, -1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return sound [B, samples] of codes [B, frames, groups]."""
        return self.model.decode(audio_codes=codes.movedim(-1, 1), return_dict=False)[0]

    def rows(self) -> Tensor:
        """Return rows [groups, size, d], as far apart as what the decoder reads for them.

        The decoder reads W row, with W = QR and Q orthonormal: |W (a - b)| = |R (a - b)|.
        """
        return torch.stack(
            [
                group.codebook.weight @ torch.linalg.qr(group.out_proj.weight[..., 0])[1].T
                for group in self.model.quantizer.quantizers
            ]
        )


_NETWORKS = {"EncodecModel": _Encodec, "DacModel": _Dac}


class TransformersCodec(Released):
    """A sound codec of transformers with residual codes.

    Args:
        model: "EncodecModel" or "DacModel".
        config: the configuration of that class.
        bandwidth: kbit/s, which fixes the number of groups; 0 for the lowest of an EnCodec and
            the highest of a DAC, which are the library's defaults.
    """

    kind = "transformers"
    medium = "audio"
    models = tuple(_NETWORKS)
    network: _Encodec | _Dac

    def __init__(self, model: str, config: dict[str, Any], bandwidth: float = 0.0) -> None:
        super().__init__()
        built = self.build(model, config)
        self.network = _NETWORKS[model](built, bandwidth)
        self.options["bandwidth"] = self.network.bandwidth
        self.stride, self.rate = self.network.stride, self.model.config.sampling_rate
        self.channels, self.space = 1, self.network.space

    @staticmethod
    def make(network: Any, config: dict[str, Any]) -> Any:
        """Make an instance of one of the library's classes."""
        return network(network.config_class(**config))

    @property
    def model(self) -> Any:
        """The library's network."""
        return self.network.model

    def forward(self, media: Tensor) -> Coded:
        """Encode and decode sound [B, samples]; only a DacModel can be trained."""
        self._check(media)
        coded = self.network(media)
        return Coded(self._fit(coded.media, coded.codes), self._narrow(coded.codes), coded.penalty)

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Return codes [B, frames, groups], or [B, frames] of one group."""
        self._check(media)
        return self._narrow(self.network.encode(media))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Return sound [B, frames * stride] in [-1, 1]."""
        grouped = codes[..., None] if self.network.space.groups == 1 else codes
        return self._fit(self.network.decode(grouped), grouped).clamp(-1, 1)

    @torch.no_grad()
    def table(self) -> Tensor:
        """Return the rows of all groups, joined: [size, groups * d]."""
        return self.network.rows().movedim(0, 1).flatten(1)

    def _narrow(self, codes: Tensor) -> Tensor:
        return codes[..., 0] if self.network.space.groups == 1 else codes

    def _fit(self, media: Tensor, codes: Tensor) -> Tensor:
        """Cut or fill sound to whole frames: odd ratios of a DAC lose a few samples at the end."""
        return functional.pad(media, (0, codes.shape[1] * self.stride - media.shape[-1]))

    def _check(self, media: Tensor) -> None:
        if media.ndim != 2:
            raise BraidError(
                f"the codec reads sound [B, samples] of one channel, got {tuple(media.shape)}; "
                "average the channels"
            )
        samples = media.shape[-1]
        if not samples or samples % self.stride:
            raise BraidError(
                f"the codec's frames are {self.stride} samples long; {samples} is no multiple: "
                f"fill up to {max(1, -(-samples // self.stride)) * self.stride}"
            )
