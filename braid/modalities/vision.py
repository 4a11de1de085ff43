"""Pictures as features of a frozen encoder: a modality that is read and never written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from braid.errors import BraidError
from braid.modalities.image import Image
from braid.modalities.modality import Modality
from braid.spaces import Continuous

if TYPE_CHECKING:
    from PIL import Image as PIL


class Vision(Modality):
    """Features of a picture, for a strand without a process (LLaVA, FUDOKI's understanding side).

    The encoder is frozen: "dct" computes the cosine transform of patches with a margin around them,
        and needs no
    weights; a folder is loaded as a vision model of `transformers` (SigLIP, CLIP, ...), whose patch
    features are used.
    """

    generated = False

    def __init__(
        self,
        name: str = "vision",
        size: int = 8,
        channels: int = 1,
        patch: int = 2,
        margin: int = 1,
        encoder: str = "dct",
        resize: bool = False,
        field: str = "image",
    ) -> None:
        """Make a vision modality.

        Args:
            name: name of its strand.
            size: side of the picture in pixels; a loaded encoder sets it itself.
            channels: 1 for grey, 3 for RGB.
            patch: side of a patch in pixels.
            margin: pixels around a patch that its features also see.
            encoder: "dct", or a folder with a vision model of `transformers` in safetensors.
            resize: scale and crop pictures of another size.
            field: field of the raw examples that holds the picture.
        """
        self.name, self.field, self.encoder, self.margin = name, field, encoder, margin
        self._model: torch.nn.Module | None = None
        if encoder != "dct":
            size, patch, channels = self._load(encoder)
        self.picture = Image(
            name, size=size, channels=channels, patch=patch, levels=256, resize=resize
        )
        self.converted = self.picture.converted
        self.shape, self.grid = self.picture.shape, self.picture.grid
        window = patch + 2 * margin
        self.space = Continuous(
            channels * window**2 if self._model is None else self._model.config.hidden_size
        )

    def _load(self, folder: str) -> tuple[int, int, int]:
        if not Path(folder).is_dir():
            raise BraidError(
                f"vision encoder {folder!r} is neither 'dct' nor a folder with a vision model of "
                "transformers"
            )
        from transformers import AutoConfig, AutoModel  # pyright: ignore[reportMissingImports]

        config = AutoConfig.from_pretrained(folder)
        model = AutoModel.from_pretrained(folder, use_safetensors=True)
        self._model = getattr(model, "vision_model", model).eval().requires_grad_(False)
        c = getattr(config, "vision_config", config)
        return c.image_size, c.patch_size, c.num_channels

    def accepts(self, raw: object) -> bool:
        """Accept nothing by itself: a bare picture is an image; name this modality with `Part`."""
        return False

    @torch.no_grad()
    def encode(self, raw: Any, following: str | None = None) -> Tensor:
        """Return features [n, width]."""
        picture = self.picture.picture_of(raw)
        pixels = (
            torch.from_numpy(np.array(picture))
            .view(self.picture.height, self.picture.width, -1)
            .float()
            / 127.5
            - 1
        )
        if self._model is not None:
            hidden = self._model(pixel_values=pixels.permute(2, 0, 1)[None]).last_hidden_state[0]
            return hidden[-math.prod(self.shape) :]  # a class token, if there is one, comes first
        m, p = self.margin, self.picture.patch
        padded = torch.nn.functional.pad(
            pixels.permute(2, 0, 1)[None], (m, m, m, m), mode="replicate"
        )
        windows = torch.nn.functional.unfold(padded, p + 2 * m, stride=p)[
            0
        ].T  # [n, channels * window^2]
        basis = _cosines(p + 2 * m)
        return torch.einsum(
            "uh,vw,nchw->ncuv", basis, basis, windows.view(len(windows), -1, p + 2 * m, p + 2 * m)
        ).flatten(1)

    def decode(self, tokens: Tensor, shape: tuple[int, ...]) -> PIL.Image:
        """Refuse: features are not turned back into pictures."""
        raise BraidError(
            f"modality {self.name!r} is read only; make a hole of an image modality instead"
        )


def _cosines(n: int) -> Tensor:
    """Return the orthonormal type-II cosine transform, [n, n]."""
    k, i = torch.arange(n)[:, None], torch.arange(n)[None]
    basis = (math.pi / n * (i + 0.5) * k).cos() * math.sqrt(2 / n)
    basis[0] /= math.sqrt(2)
    return basis
