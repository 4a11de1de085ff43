"""The contract of a codec: pictures or sound to a grid of codes and back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from braid.errors import BraidError
from braid.modalities.codecs.quantisers import quantiser
from braid.spaces import Continuous, Discrete, Space


@dataclass(frozen=True)
class Coded:
    """What training a codec needs of a batch.

    Attributes:
        media: the reconstruction, shaped like the input.
        codes: the symbols, or None for a continuous code.
        penalty: scalar to add to the loss.
    """

    media: Tensor
    codes: Tensor | None
    penalty: Tensor


@dataclass(frozen=True)
class Codes:
    """Media that were encoded before, as a cache holds them.

    Attributes:
        cells: codes of one picture [rows, columns, ...] or clip [frames, ...].
        fingerprint: of the codec that made them.
    """

    cells: Tensor
    fingerprint: str

    def of(self, fingerprint: str, name: str) -> Tensor:
        """Return the cells, which must have been made by the codec with that fingerprint."""
        if fingerprint != self.fingerprint:
            raise BraidError(
                f"{name}: these codes were made by codec {self.fingerprint}, the model reads those "
                f"of {fingerprint}; encode the data again with the model's codec"
            )
        return self.cells


class Codec(nn.Module):
    """Base of all codecs. Frozen when a braid uses it.

    Media are float32: pictures [B, channels, height, width] in [-1, 1], sound [B, samples] in
    [-1, 1]. Codes have a leading axis B and then the cells: [B, rows, columns, ...] for pictures,
    [B, frames, ...] for sound.

    Attributes:
        kind: its name in CODECS.
        medium: "image" or "audio".
        space: what a cell is.
        stride: pixels along an edge of a cell, or samples of a frame.
        channels: channels of a picture; 1 for sound.
        rate: samples a second; 0 for pictures.
        decodes: whether codes become media again.
        card: what it was trained on and what was measured, as JSON.
    """

    kind: str
    medium: str
    space: Space
    stride: int
    channels: int = 1
    rate: int = 0
    decodes: bool = True
    card: dict[str, Any]

    def encode(self, media: Tensor) -> Tensor:
        """Return the codes of media."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """Return the media of codes."""
        raise NotImplementedError

    def forward(self, media: Tensor) -> Coded:
        """Encode and decode with gradients, for training."""
        raise NotImplementedError

    def table(self) -> Tensor | None:
        """Return a vector for each symbol, [size, d], for metric paths; None if there is none."""
        return None

    def config(self) -> dict[str, Any]:
        """Return the arguments that make this codec again, as JSON."""
        raise NotImplementedError

    @property
    def bits(self) -> float:
        """Bits of a cell; 32 for each number of a continuous code."""
        size, groups = getattr(self.space, "size", 0), getattr(self.space, "groups", 0)
        if size:
            return groups * float(torch.tensor(float(size)).log2())
        return 32.0 * self.space.width  # type: ignore[union-attr]

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with any weight or option."""
        digest = hashlib.sha256(repr((self.kind, sorted(self.config().items()))).encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]


class QuantisedCodec(Codec):
    """A network to cells, a quantiser, and a network back.

    A subclass makes its networks and says `cells` and `media`; the rest follows.

    Attributes:
        options: the constructor's arguments.
        quantiser: what makes codes of cells.
        mean, scale: [width] with which a continuous code is shown with mean 0 and deviation 1.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, options: dict[str, Any]) -> None:
        """Make the quantiser of options["quantiser"], and what follows from it."""
        super().__init__()
        self.options, self.card = options, {}
        self.quantiser = q = quantiser(options["quantiser"])
        self.space = Discrete(q.size, q.groups) if q.size else Continuous(q.width)
        self.register_buffer("mean", torch.zeros(q.width))
        self.register_buffer("scale", torch.ones(q.width))

    def cells(self, media: Tensor) -> Tensor:
        """Return what is quantised, [B, ..., inputs] with the cells' axes between."""
        raise NotImplementedError

    def media(self, vectors: Tensor) -> Tensor:
        """Return the media of quantised cells [B, ..., width]."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return dict(self.options)

    def forward(self, media: Tensor) -> Coded:
        """Encode and decode; what fills the last cell is cut off again."""
        cells = self.cells(media)
        coded = self.quantiser(cells.flatten(0, -2))
        vectors = coded.vectors.view(*cells.shape[:-1], -1)
        codes = None if coded.codes is None else coded.codes.view(*cells.shape[:-1], -1)
        return Coded(self.media(vectors)[..., : media.shape[-1]], codes, coded.penalty)

    @torch.no_grad()
    def encode(self, media: Tensor) -> Tensor:
        """Return codes [B, ...] of the cells, with groups or width as a last axis."""
        cells = self.cells(media)
        coded = self.quantiser(cells.flatten(0, -2))
        if coded.codes is None:
            return (coded.vectors.view(*cells.shape[:-1], -1) - self.mean) / self.scale
        return coded.codes.view(*cells.shape[:-1], *coded.codes.shape[1:])

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Return media in [-1, 1]."""
        if self.quantiser.size:
            vectors = self.quantiser.vectors(codes)
        else:
            vectors = codes * self.scale + self.mean
        return self.media(vectors).clamp(-1, 1)

    def table(self) -> Tensor | None:
        """Return the quantiser's vectors; those of residual groups are joined."""
        return self.quantiser.table() if self.quantiser.size else None

    @torch.no_grad()
    def standardise(self, media: Tensor) -> None:
        """Measure mean and deviation of a continuous code on media [B, ...]."""
        if not self.quantiser.size:
            vectors = self.encode(media).flatten(0, -2) * self.scale + self.mean
            self.mean.copy_(vectors.mean(0))
            self.scale.copy_(vectors.std(0).clamp(min=1e-4))
