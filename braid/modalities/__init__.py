"""Modalities. To add one: write a file, add a line to MODALITIES (see docs/add-a-modality.md)."""

from braid.modalities.audio import Audio
from braid.modalities.coded_image import CodedImage
from braid.modalities.image import Image, open_picture
from braid.modalities.label import Label
from braid.modalities.mixed_text import MixedText
from braid.modalities.modality import Modality, Tokens, conversions, opening
from braid.modalities.released_image import ReleasedImage
from braid.modalities.released_text import ReleasedText, Symbol
from braid.modalities.text import Text
from braid.modalities.vision import Vision

MODALITIES: dict[str, type[Modality]] = {
    "text": Text,
    "released_text": ReleasedText,
    "mixed_text": MixedText,
    "image": Image,
    "coded_image": CodedImage,
    "released_image": ReleasedImage,
    "audio": Audio,
    "label": Label,
    "vision": Vision,
}

__all__ = [
    "MODALITIES",
    "Audio",
    "CodedImage",
    "Image",
    "Label",
    "MixedText",
    "Modality",
    "ReleasedImage",
    "ReleasedText",
    "Symbol",
    "Text",
    "Tokens",
    "Vision",
    "conversions",
    "open_picture",
    "opening",
]
