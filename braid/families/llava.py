"""LLaVA 1.5 and models of its layout: a language model that sees through CLIP or SigLIP.

arXiv:2310.03744.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from braid.config import Experiment, Options, StrandConfig
from braid.errors import BraidError, unknown
from braid.families import described, llama, parts, preprocessing, qwen, seen
from braid.families.family import Config, Family, Files, Part, Rule, constants
from braid.transformer import TransformerConfig

TOWERS = {
    "clip_vision_model": ("CLIPVisionModel", "default", seen.CLIP),
    "siglip_vision_model": ("SiglipVisionModel", "full", seen.HALVES),
}
"""Kind of encoder -> its class, which features are its patches, and the pixels it expects."""


def complete(config: Config) -> dict[str, Any]:
    """Return the whole config.json; refuse what braid's strands have no place for."""
    whole = parts.complete(config, "LlavaConfig")
    _, patches, _ = tower(whole)
    described.refuse(
        whole,
        multimodal_projector_bias=True,
        projector_hidden_act="gelu",
        vision_feature_select_strategy=patches,
    )
    if not isinstance(whole["vision_feature_layer"], int):
        raise BraidError(
            f"config.json joins the layers {whole['vision_feature_layer']} of the vision tower "
            "(vision_feature_layer); only a single one is supported"
        )
    return whole


def tower(whole: Config) -> tuple[str, str, dict[str, Any]]:
    """Return what is known of a config.json's kind of encoder."""
    kind = whole["vision_config"]["model_type"]
    if kind not in TOWERS:
        raise unknown("vision tower", kind, TOWERS)
    return TOWERS[kind]


def sizes(text: Config) -> TransformerConfig:
    """Return the transformer of the language model."""
    known = {"llama": llama.biased, "qwen2": qwen.second}
    if text["model_type"] not in known:
        raise unknown("language model in text_config", text["model_type"], known)
    described.causal(text)
    return known[text["model_type"]](text)


def experiment(config: Config, files: Files) -> Experiment:
    """Describe a LLaVA: text token by token, pictures where they stand."""
    whole = complete(config)
    inner = whole["text_config"]
    text = StrandConfig(
        modality=seen.text(inner, files, inner["vocab_size"]),
        process={"kind": "autoregressive"},
        sampler={"kind": "next_token", "temperature": 0.0},
        tied=not seen.untied(files, "lm_head.weight"),
    )
    vision = seen.vision(files, pixels(config, files), whole["vision_feature_layer"])
    strands = {"text": text, "vision": vision}
    return seen.experiment(config, strands, "causal", sizes(inner), {"vision_to_text": 1.0})


def pixels(config: Config, files: Files) -> Options:
    """Return how pictures become pixels; a tower's usual way where the release does not say."""
    whole = complete(config)
    return preprocessing.options(files, tower(whole)[2], whole["vision_config"]["image_size"])


def rules(config: Config) -> Sequence[Rule]:
    """Map the layout that transformers writes."""
    model, projector = "language_model.model.", "multi_modal_projector.linear_"
    return [
        Rule(f"{model}embed_tokens.weight", "strands.text.embedder.table.weight"),
        Rule("language_model.lm_head.weight", "strands.text.head.linear.weight"),
        *llama.blocks(model),
        *seen.projector("strands.vision.embedder", f"{projector}1", f"{projector}2"),
        *constants("strands.text.kind", "strands.text.start"),
        *constants("strands.vision.kind", "strands.vision.row", "strands.vision.column"),
    ]


def frozen(config: Config) -> Sequence[Part]:
    """Return the vision tower."""
    whole = complete(config)
    name, _, _ = tower(whole)
    return (parts.encoder(name, lambda _: whole["vision_config"], parts.below("vision_tower.")),)


LLAVA = Family(
    "llava",
    ("LlavaForConditionalGeneration",),
    experiment,
    rules,
    ignored=(
        "language_model.model.layers.{}.self_attn.rotary_emb.inv_freq",
        "vision_tower.vision_model.embeddings.position_ids",
    ),
    parts=frozen,
    pixels=pixels,
    former={"vision_tower.": "vision_tower.vision_model."},
)
