"""What models that see or draw pictures share: their strands as config.json describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from braid.config import DataConfig, Experiment, Options, StrandConfig
from braid.errors import BraidError
from braid.families import described
from braid.families.family import Config, Files, Rule
from braid.modalities.text import read_tokenizer
from braid.transformer import TransformerConfig

CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_center_crop": True,
}
"""Pixels as CLIP expects them, where a release does not say."""

HALVES = {
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_center_crop": False,
}
"""Pixels as SigLIP expects them."""


def symbol(files: Files, name: str) -> int | None:
    """Return the number of a special symbol in tokenizer.json, or None."""
    if "tokenizer.json" not in files:
        return None
    return read_tokenizer(files["tokenizer.json"], "tokenizer.json").token_to_id(name)


def whole_symbol(files: Files, name: str) -> int:
    """Return the number of a special symbol that has to be there."""
    number = symbol(files, name)
    if number is None:
        raise BraidError(
            f"tokenizer.json lacks the symbol {name!r}, or there is no tokenizer.json; write one "
            "there (transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...))"
        )
    return number


def generation(files: Files) -> Mapping[str, Any]:
    """Return what generation_config.json holds."""
    return described.read_json(files, "generation_config.json")


def untied(files: Files, head: str) -> bool:
    """Return whether the release has a head of its own, under a name that ends so."""
    return any(name.endswith(head) for name in described.read_json(files, "tensors.json"))


def text(config: Config, files: Files, size: int, **further: Any) -> Options:
    """Return the options of the text of a model with pictures, see `described.text`."""
    return {**described.text(config, files, size, **further), "kind": "mixed_text"}


def vision(files: Files, pixels: Options, layer: int | None = None) -> StrandConfig:
    """Describe a strand that reads pictures through the encoder that was cut out.

    Args:
        files: the small files, and the encoder's place.
        pixels: see `preprocessing.options`.
        layer: see `Vision`.
    """
    modality = {"kind": "vision", "encoder": files["vision-encoder"], "layer": layer, **pixels}
    return StrandConfig(modality=modality)


def picture(files: Files, size: int, **further: Any) -> Options:
    """Return the options of pictures as symbols of the codec that was cut out."""
    return {"kind": "released_image", "codec": files["image-codec"], "size": size, **further}


def experiment(
    config: Config,
    strands: dict[str, StrandConfig],
    rule: str,
    sizes: TransformerConfig,
    tasks: dict[str, float],
) -> Experiment:
    """Describe a model of several strands."""
    return Experiment(
        name=described.named(config),
        strands=strands,
        rule=rule,
        transformer=sizes,
        data=DataConfig(source="files", tasks=tasks),
    )


def projector(strand: str, first: str, second: str) -> list[Rule]:
    """Return the rules of a two-layer projector, from the names of its layers."""
    return [
        Rule(f"{name}.{kind}", f"{strand}.{number}.{kind}")
        for name, number in ((first, 0), (second, 2))
        for kind in ("weight", "bias")
    ]
