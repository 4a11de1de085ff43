"""The codecs inside released models that draw with symbols: VQ networks that transformers defines.

They lie in folders of our own, since no release has them by themselves.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from braid import storage
from braid.errors import BraidError, unknown
from braid.hub import first_line, library
from braid.modalities.codecs.codec import Codec, Coded
from braid.spaces import Discrete


class SymbolCodec(Codec):
    """A VQ network of transformers: a cell is the number of its nearest row of the codebook.

    Janus compares directions: its rows are normalised (arXiv:2406.06525, section 2.1).
    """

    kind = "transformers_symbols"
    medium = "image"
    models: ClassVar[tuple[str, ...]] = ("JanusVQVAE", "ChameleonVQVAE")

    def __init__(self, model: str, config: dict[str, Any]) -> None:
        """Make the network without drawing its weights.

        Args:
            model: "JanusVQVAE" or "ChameleonVQVAE" (which has no decoder).
            config: its configuration.
        """
        super().__init__()
        if model not in self.models:
            raise unknown("codec of transformers", model, self.models)
        network = getattr(library("transformers"), model)
        self.options, self.card = {"model": model, "config": dict(config)}, {}
        try:
            with storage.undrawn():  # its weights are always read
                self.model = network(network.config_class(**config))
        except Exception as e:  # a library checks its options with errors of its own
            raise BraidError(
                f"transformers refuses the configuration of {model} ({first_line(e)}); it comes "
                "from another class, or from a newer version: update the library"
            ) from e
        options = self.model.config
        self.directions, self.decodes = model == "JanusVQVAE", hasattr(self.model, "decoder")
        self.stride = 2 ** (len(options.channel_multiplier) - 1)
        self.channels, self.space = options.in_channels, Discrete(options.num_embeddings)

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return json.loads(json.dumps(self.options))

    def forward(self, media: Tensor) -> Coded:
        """Refuse: it is frozen."""
        raise BraidError(
            f"{self.options['model']} is used frozen; train a codec of braid's own instead"
        )

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Return codes [B, rows, columns] of pictures [B, channels, height, width] in [-1, 1]."""
        latents = self.model.quant_conv(self.model.encoder(media)).movedim(1, -1)
        rows = self.table()
        if self.directions:
            latents = F.normalize(latents, dim=-1)
        square = rows.square().sum(-1) - 2 * latents @ rows.T  # [B, rows, columns, size]
        return square.argmin(-1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Return pictures [B, channels, height, width] in [-1, 1] of codes [B, rows, columns].

        Raises:
            BraidError: the network has no decoder.
        """
        if not self.decodes:
            raise BraidError(f"transformers' {self.options['model']} has no decoder")
        vectors = self.table()[codes].movedim(-1, 1).contiguous()
        return self.model.decoder(self.model.post_quant_conv(vectors)).clamp(-1, 1)

    def table(self) -> Tensor:
        """Return the codebook as it is compared, [size, d]."""
        rows = self.model.quantize.embedding.weight.detach()
        return F.normalize(rows, dim=-1) if self.directions else rows
