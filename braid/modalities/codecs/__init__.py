"""Codecs: pictures and sound to codes and back. To add one: a file, and a line in CODECS."""

from braid.modalities.codecs.audio import AudioCodec
from braid.modalities.codecs.codec import Codec, Coded, Codes
from braid.modalities.codecs.folder import card_of, find, load, save, shell
from braid.modalities.codecs.image import ImageCodec
from braid.modalities.codecs.released_audio import TransformersCodec
from braid.modalities.codecs.released_images import DiffusersCodec
from braid.modalities.codecs.released_symbols import SymbolCodec

CODECS: dict[str, type[Codec]] = {
    "image": ImageCodec,
    "audio": AudioCodec,
    "diffusers": DiffusersCodec,
    "transformers": TransformersCodec,
    "transformers_symbols": SymbolCodec,
}

__all__ = [
    "CODECS",
    "AudioCodec",
    "Coded",
    "Codec",
    "Codes",
    "DiffusersCodec",
    "ImageCodec",
    "SymbolCodec",
    "TransformersCodec",
    "card_of",
    "find",
    "load",
    "save",
    "shell",
]
