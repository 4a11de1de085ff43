"""Janus and Janus-Pro in transformers' layout (arXiv:2410.13848, arXiv:2501.17811).

One Llama; text and the symbols of pictures are generated token by token, each with tables and a
head of its own, and pictures are seen through SigLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from braid.config import Experiment, Options, StrandConfig
from braid.errors import unknown
from braid.families import described, parts, preprocessing, seen
from braid.families.family import Config, Family, Files, Part, Rule, constants
from braid.families.llama import biased, blocks

PLACES = (
    "strands.image.row",
    "strands.image.column",
    "strands.vision.row",
    "strands.vision.column",
)
"""Learned places of pictures, which no released model has."""


def complete(config: Config) -> dict[str, Any]:
    """Return the whole config.json; refuse what braid's strands have no place for."""
    whole = parts.complete(config, "JanusConfig")
    if whole["text_config"]["model_type"] != "llama":
        raise unknown(
            "language model in text_config", whole["text_config"]["model_type"], ("llama",)
        )
    described.causal(whole["text_config"])
    described.refuse(whole["vision_config"], depth=2, hidden_act="gelu")
    described.refuse(whole["vq_config"], num_hidden_layers=2, hidden_act="gelu")
    return whole


def experiment(config: Config, files: Files) -> Experiment:
    """Describe a Janus. Guidance withholds a prompt as Janus does: its symbols become padding."""
    whole = complete(config)
    sizes, codes, told = whole["text_config"], whole["vq_config"], seen.generation(files)
    begins = described.option(told, "generation_kwargs", {}, dict).get("boi_token_id")
    if begins is None:
        begins = seen.whole_symbol(files, "<begin_of_image>")
    blank = told.get("pad_token_id", sizes.get("pad_token_id"))
    frames = {"image": begins, "vision": begins}
    text = StrandConfig(
        modality=seen.text(sizes, files, sizes["vocab_size"], frames=frames, blank=blank),
        process={"kind": "autoregressive"},
        sampler={"kind": "next_token", "temperature": 0.0},
        tied=not seen.untied(files, "lm_head.weight"),
    )
    side = codes["num_patches"] * 2 ** (len(codes["channel_multiplier"]) - 1)
    image = StrandConfig(
        modality=seen.picture(
            files, side, entry=codes["embed_dim"], hidden=codes["projection_dim"]
        ),
        process={"kind": "autoregressive"},
        sampler={"kind": "next_token"},
    )
    strands = {"text": text, "image": image, "vision": seen.vision(files, pixels(config, files))}
    tasks = {"text_to_image": 1.0, "vision_to_text": 1.0}
    return seen.experiment(config, strands, "causal", biased(sizes), tasks)


def pixels(config: Config, files: Files) -> Options:
    """Return how pictures become pixels: padded to a square."""
    side = complete(config)["vision_config"]["image_size"]
    return preprocessing.options(files, seen.HALVES, side, pads=True)


def image_rules(table: str, aligner: tuple[str, str], head: tuple[str, str]) -> list[Rule]:
    """Return the rules of the pictures' table, its projection, and their head."""
    own = "strands.image."
    pairs = {
        aligner[0]: "embedder.1",
        aligner[1]: "embedder.3",
        head[0]: "head.0",
        head[1]: "head.2",
    }
    return [
        Rule(f"{table}.weight", f"{own}embedder.0.table.weight"),
        *(
            Rule(f"{name}.{kind}", f"{own}{mine}.{kind}")
            for name, mine in pairs.items()
            for kind in ("weight", "bias")
        ),
    ]


def rules(config: Config) -> Sequence[Rule]:
    """Map transformers' layout."""
    model = "model."
    return [
        Rule(f"{model}language_model.embed_tokens.weight", "strands.text.embedder.table.weight"),
        Rule("lm_head.weight", "strands.text.head.linear.weight"),
        *blocks(f"{model}language_model."),
        *image_rules(
            f"{model}generation_embeddings",
            (f"{model}generation_aligner.fc1", f"{model}generation_aligner.hidden_layers.0"),
            (f"{model}generation_head.proj_out", f"{model}generation_head.vision_head"),
        ),
        *seen.projector(
            "strands.vision.embedder", f"{model}aligner.fc1", f"{model}aligner.hidden_layers.0"
        ),
        *constants("strands.text.kind", "strands.text.start"),
        *constants("strands.image.kind", "strands.image.start", "strands.vision.kind", *PLACES),
    ]


def frozen(config: Config) -> Sequence[Part]:
    """Return the VQ network and SigLIP."""
    return (
        parts.codec(
            "JanusVQVAE",
            lambda c: complete(c)["vq_config"],
            parts.below("model.vqmodel.", "model."),
        ),
        parts.encoder(
            "JanusVisionModel",
            lambda c: complete(c)["vision_config"],
            parts.below("model.vision_model."),
        ),
    )


JANUS = Family(
    "janus", ("JanusForConditionalGeneration",), experiment, rules, parts=frozen, pixels=pixels
)
