"""FUDOKI in the layout of Janus' first releases (arXiv:2505.20147).

Discrete flows on metric paths for text and pictures' symbols; every token sees every other. A
prediction is still read one token before, as in the autoregressive Janus that it began as.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from braid.config import Experiment, Options, StrandConfig
from braid.errors import BraidError, unknown
from braid.families import described, parts, preprocessing, seen
from braid.families.family import Config, Family, Files, Part, Rule, constants
from braid.families.janus import PLACES, image_rules
from braid.families.llama import biased, blocks
from braid.families.transforms import Batched, Split

TOWERS = {
    "siglip_large_patch16_384": {
        "image_size": 384,
        "patch_size": 16,
        "width": 1024,
        "layers": 24,
        "heads": 16,
        "mlp_ratio": 4,
    }
}
"""Sizes of the encoders that vision_config names; its params may give others."""

CODECS = {
    "VQ-16": {
        "image_token_size": 16384,
        "n_embed": 8,
        "ch": 128,
        "ch_mult": [1, 1, 2, 2, 4],
        "num_res_blocks": 2,
        "z_channels": 256,
    }
}
"""Sizes of the VQ networks that gen_vision_config names; its params may give others."""

LLAMA = {
    "vocab_size": 102400,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 100000,
    "eos_token_id": 100001,
}
"""What language_config leaves out: the values of transformers' Llama, and DeepSeek's symbols."""

POOL = "vision_model.vision_tower.attn_pool."
"""The pooling of SigLIP, which FUDOKI does not use."""

STEPS = 32
"""Network calls of a hole, as in the paper."""


def _sized(config: Config, key: str, name: str, known: Mapping[str, Options]) -> Options:
    """Return the sizes of a network that a config.json names."""
    told = described.need(config, key, dict)
    params = described.option(told, "params", {}, dict)
    kind = params.get(name, told.get(name))
    if kind not in known:
        raise unknown(f"network in {key}", str(kind), known)
    return {**known[kind], **{k: v for k, v in params.items() if k in known[kind]}}


def tower(config: Config) -> Options:
    """Return the configuration of SigLIP as a class of transformers takes it."""
    sizes = _sized(config, "vision_config", "model_name", TOWERS)
    return {
        "model_type": "janus_vision_model",
        "image_size": sizes["image_size"],
        "patch_size": sizes["patch_size"],
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "mlp_ratio": sizes["mlp_ratio"],
        "num_image_tokens": (sizes["image_size"] // sizes["patch_size"]) ** 2,
    }


def network(config: Config) -> Options:
    """Return the configuration of the VQ network as a class of transformers takes it."""
    sizes = _sized(config, "gen_vision_config", "cls", CODECS)
    return {
        "num_embeddings": sizes["image_token_size"],
        "embed_dim": sizes["n_embed"],
        "base_channels": sizes["ch"],
        "channel_multiplier": list(sizes["ch_mult"]),
        "num_res_blocks": sizes["num_res_blocks"],
        "latent_channels": sizes["z_channels"],
    }


def blank(files: Files) -> int:
    """Return the symbol of padding, which stands for a text that guidance withholds."""
    named = described.read_json(files, "tokenizer_config.json").get("pad_token")
    named = named.get("content") if isinstance(named, dict) else named
    if not named:
        raise BraidError("tokenizer_config.json names no pad_token; fetch it again")
    return seen.whole_symbol(files, named)


def experiment(config: Config, files: Files) -> Experiment:
    """Describe a FUDOKI."""
    for key in ("aligner_config", "gen_aligner_config"):
        told = described.option(described.need(config, key, dict), "params", {}, dict)
        described.refuse(told, projector_type="mlp_gelu", depth=2)
    llama = {**LLAMA, **described.need(config, "language_config", dict)}
    if llama.get("model_type", "llama") != "llama":
        raise unknown("language model in language_config", llama["model_type"], ("llama",))
    begins, closes = (seen.whole_symbol(files, f"<{x}_of_image>") for x in ("begin", "end"))
    flow = {"kind": "discrete_flow", "path": "metric", "shift": 1}
    text = StrandConfig(
        modality=seen.text(
            llama,
            files,
            llama["vocab_size"],
            frames={"image": begins, "vision": begins},
            after=[closes],
            blank=blank(files),
            table=files["text-table"],
        ),
        process=flow,
        sampler={"kind": "jump", "temperature": 0.0, "steps": STEPS},
    )
    codes, head = network(config), described.need(config, "gen_head_config", dict)
    image = StrandConfig(
        modality=seen.picture(
            files,
            tower(config)["image_size"],
            entry=codes["embed_dim"],
            hidden=described.need(described.need(head, "params", dict), "image_token_embed", int),
            table=files["image-table"],
        ),
        process=flow,
        sampler={"kind": "jump", "steps": STEPS},
    )
    strands = {"text": text, "image": image, "vision": seen.vision(files, pixels(config, files))}
    tasks = {"text_to_image": 1.0, "vision_to_text": 1.0}
    return seen.experiment(config, strands, "full", biased(llama), tasks)


def pixels(config: Config, files: Files) -> Options:
    """Return how pictures become pixels: padded to a square."""
    return preprocessing.options(files, seen.HALVES, tower(config)["image_size"], pads=True)


def rules(config: Config) -> Sequence[Rule]:
    """Map the layout of Janus' first releases."""
    untimed = [f"strands.{s}.clock.{kind}" for s in ("text", "image") for kind in KINDS]
    return [
        Rule("language_model.model.embed_tokens.weight", "strands.text.embedder.table.weight"),
        Rule("language_model.lm_head.weight", "strands.text.head.linear.weight"),
        *blocks("language_model.model."),
        *image_rules(
            "gen_embed",
            ("gen_aligner.layers.0", "gen_aligner.layers.2"),
            ("gen_head.output_mlp_projector", "gen_head.vision_head"),
        ),
        *seen.projector("strands.vision.embedder", "aligner.layers.0", "aligner.layers.2"),
        *constants(*(f"strands.{s}.kind" for s in ("text", "image", "vision"))),
        *constants("strands.text.start", "strands.image.start", *PLACES, *untimed),
    ]


KINDS = ("weight", "bias")

_RENAMED = (
    (r"\.down\.(\d+)\.block\.", r".conv_blocks.\1.res."),
    (r"\.up\.(\d+)\.block\.", r".conv_blocks.\1.res."),
    (r"\.(?:down|up)\.(\d+)\.", r".conv_blocks.\1."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attn_1\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
)
"""From transformers' names in the VQ network to the released ones, applied in this order."""


def vq_rules(names: Iterable[str]) -> list[Rule]:
    """Map the VQ network."""

    def released(name: str) -> str:
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        return name.replace("model.", "gen_vision_model.", 1)

    return [Rule(released(name), name) for name in names]


def tower_rules(names: Iterable[str]) -> list[Rule]:
    """Map SigLIP: queries, keys and values are one released tensor."""
    own, there = "encoder.layers.{}.", "vision_model.vision_tower."
    pairs = {
        "embeddings.patch_embedding": "patch_embed.proj",
        f"{own}layer_norm1": "blocks.{}.norm1",
        f"{own}layer_norm2": "blocks.{}.norm2",
        f"{own}self_attn.projection_layer": "blocks.{}.attn.proj",
        f"{own}mlp.fc1": "blocks.{}.mlp.fc1",
        f"{own}mlp.fc2": "blocks.{}.mlp.fc2",
        "post_layernorm": "norm",
    }
    return [
        Rule(f"{there}pos_embed", "embeddings.position_embedding.weight", Batched()),
        *(
            Rule(f"{there}{released}.{kind}", f"{name}.{kind}")
            for name, released in pairs.items()
            for kind in KINDS
        ),
        *(
            Rule(
                f"{there}blocks.{{}}.attn.qkv.{kind}",
                [f"{own}self_attn.{x}_proj.{kind}" for x in "qkv"],
                Split(),
            )
            for kind in KINDS
        ),
    ]


def frozen(config: Config) -> Sequence[Part]:
    """Return the VQ network and SigLIP."""
    pool = ("latent", *(f"{x}.{k}" for x in ("q", "kv", "proj", "norm") for k in KINDS))
    pool = (*pool, *(f"mlp.{x}.{k}" for x in ("fc1", "fc2") for k in KINDS))
    used = ("gen_vision_model.quantize.codebook_used",)
    return (
        parts.codec("JanusVQVAE", network, vq_rules, used),
        parts.encoder("JanusVisionModel", tower, tower_rules, tuple(POOL + x for x in pool)),
    )


FUDOKI = Family(
    "fudoki",
    ("MultiModalityCausalLM",),
    experiment,
    rules,
    ignored=("language_model.model.layers.{}.self_attn.rotary_emb.inv_freq",),
    parts=frozen,
    pixels=pixels,
    tables={"text-table": "text_embedding", "image-table": "image_embedding"},
)
