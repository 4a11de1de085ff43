"""Modalities. To add one: write a file, add a line to MODALITIES (see docs/add-a-modality.md)."""

from braid.modalities.image import Image, open_picture
from braid.modalities.label import Label
from braid.modalities.modality import Modality
from braid.modalities.text import Text
from braid.modalities.vision import Vision

MODALITIES: dict[str, type[Modality]] = {
    "text": Text,
    "image": Image,
    "label": Label,
    "vision": Vision,
}

__all__ = ["MODALITIES", "Image", "Label", "Modality", "Text", "Vision", "open_picture"]
