"""Pictures as features of a frozen encoder: a modality that is read and never written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from braid import storage
from braid.errors import BraidError, unknown
from braid.hub import first_line, library, refuse_pickle
from braid.modalities.image import Image
from braid.modalities.modality import Modality
from braid.modalities.pictures import FITS, RESAMPLES, convert, open_picture, squared
from braid.spaces import Continuous

if TYPE_CHECKING:
    from PIL import Image as PIL


class Vision(Modality):
    """Features of a picture, for a strand without a process (LLaVA, FUDOKI's understanding side).

    The encoder is frozen: "dct" computes the cosine transform of patches with a margin around them,
    and needs no weights; a folder is loaded as a vision model of `transformers` (SigLIP, CLIP,
    Janus' ...) when the first picture is read, and gives its patch features.
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
        layer: int | None = None,
        mean: tuple[float, ...] = (0.5,),
        deviation: tuple[float, ...] = (0.5,),
        resize: bool = False,
        fit: Literal["crop", "pad", "stretch"] = "crop",
        resample: Literal["nearest", "lanczos", "bilinear", "bicubic"] = "lanczos",
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
            layer: number of the hidden states that a loaded encoder gives, -2 before the last
                layer; None is its output.
            mean: of the pixels from 0 to 1 that a loaded encoder expects, for all channels or each.
            deviation: theirs, in the same way.
            resize: scale pictures of another size; otherwise they are refused.
            fit: how they become squares: "crop" covers the square, "pad" puts grey around,
                "stretch" gives up their shape.
            resample: how the pixels of a scaled picture are computed.
            field: field of the raw examples that holds the picture.
        """
        if fit not in FITS:
            raise unknown("fit", fit, FITS)
        if resample not in RESAMPLES:
            raise unknown("resample", resample, RESAMPLES)
        self.name, self.field, self.encoder, self.margin = name, field, encoder, margin
        self.layer, self.mean, self.deviation = layer, mean, deviation
        self.squaring, self.resample = fit, resample
        self._model: Any = None
        width = channels * (patch + 2 * margin) ** 2
        if encoder != "dct":
            config = vision_config(encoder)
            size, patch, channels = config.image_size, config.patch_size, config.num_channels
            width = config.hidden_size
        for what, values in (("mean", mean), ("deviation", deviation)):
            if len(values) not in (1, channels):
                raise BraidError(f"vision {what} has {len(values)} values; give 1 or {channels}")
        self.picture = Image(
            name, size=size, channels=channels, patch=patch, levels=256, resize=resize
        )
        self.converted = self.picture.converted
        self.shape, self.grid = self.picture.shape, self.picture.grid
        self.space = Continuous(width)

    @property
    def model(self) -> Any:
        """The loaded encoder."""
        if self._model is None:
            self._model = vision_model(self.encoder)
        return self._model

    def folders(self) -> dict[str, Path]:
        """Return the encoder's folder, which belongs to a saved model."""
        return {} if self.encoder == "dct" else {"encoder": Path(self.encoder)}

    def accepts(self, raw: object) -> bool:
        """Accept nothing by itself: a bare picture is an image; name this modality with `Part`."""
        return False

    def encode(self, raw: Any, following: str | None = None) -> Tensor:
        """Return features [n, width]."""
        if self.picture.resize:
            raw = open_picture(raw, self.name)
            raw = convert(raw, self.picture.channels, self.name, self._note)
            raw = squared(raw, self.picture.width, self.squaring, self.resample, self.name)
        picture = np.array(self.picture.picture_of(raw))
        pixels = torch.from_numpy(picture).view(*picture.shape[:2], -1).permute(2, 0, 1)[None] / 255
        return self.features(pixels)[0]

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Return features [B, n, width] of pixels [B, channels, height, width] from 0 to 1."""
        if self.encoder == "dct":
            return self._cosines(pixels * 2 - 1)
        mean, deviation = (
            torch.tensor(x)[:, None, None].to(pixels) for x in (self.mean, self.deviation)
        )
        out = self.model(
            pixel_values=(pixels - mean) / deviation, output_hidden_states=self.layer is not None
        )
        hidden = out.last_hidden_state if self.layer is None else out.hidden_states[self.layer]
        return hidden[:, -math.prod(self.shape) :]  # a class token, if there is one, comes first

    def _cosines(self, pixels: Tensor) -> Tensor:
        """Return the cosine transform of each patch and its margin."""
        m, p = self.margin, self.picture.patch
        wide = torch.nn.functional.pad(pixels, (m, m, m, m), mode="replicate")
        windows = torch.nn.functional.unfold(wide, p + 2 * m, stride=p).mT
        windows = windows.unflatten(-1, (-1, p + 2 * m, p + 2 * m))  # [B, n, channels, side, side]
        basis = _cosines(p + 2 * m)
        return torch.einsum("uh,vw,bnchw->bncuv", basis, basis, windows).flatten(2)

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


_JANUS = "janus_vision_model"  # which transformers' Auto classes do not know


def vision_config(folder: str) -> Any:
    """Return the configuration of a vision model of transformers.

    Raises:
        BraidError: the folder has none.
    """
    if not (Path(folder) / "config.json").is_file():
        raise BraidError(
            f"vision encoder {folder!r} is neither 'dct' nor a folder with a vision model of "
            "transformers"
        )
    transformers = library("transformers")
    told = storage.read_json(Path(folder) / "config.json")
    if told.get("model_type") == _JANUS:
        return transformers.JanusVisionConfig(**told)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as e:  # the library checks with errors of its own
        raise BraidError(
            f"transformers cannot read the vision encoder {folder!r} ({first_line(e)}); give the "
            "folder of a SigLIP, CLIP or other vision model"
        ) from e
    return getattr(config, "vision_config", config)


def vision_model(folder: str) -> Any:
    """Return a vision model of transformers, frozen, in float32.

    Raises:
        BraidError: tensors are missing, or there are only pickles.
    """
    refuse_pickle(Path(folder))
    transformers = library("transformers")
    told = storage.read_json(Path(folder) / "config.json")
    kind = transformers.AutoModel
    if told.get("model_type") == _JANUS:
        kind = transformers.JanusVisionModel
    model, report = kind.from_pretrained(
        folder,
        use_safetensors=True,
        local_files_only=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"])
    if missing:  # the library fills them with noise
        raise BraidError(
            f"vision encoder {folder!r} lacks {len(missing)} tensors (first: {missing[0]!r}); its "
            "config.json belongs to other weights"
        )
    return getattr(model, "vision_model", model).eval().requires_grad_(False)
