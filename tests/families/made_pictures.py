"""Small released models that see and draw, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.families.made import PLAIN, with_tokenizer

BEGIN = 3
"""Symbol that opens a picture."""

BLANK = 2
"""Symbol that stands for a text that guidance withholds."""

CODES = {
    "embed_dim": 8,
    "num_embeddings": 64,
    "latent_channels": 32,
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_res_blocks": 1,
}
EYES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}


def shaken(model: Any, seed: int = 0) -> Any:
    """Fill a network with random weights, none of which is 0 or 1, so that each one counts."""
    import torch

    rng = torch.Generator().manual_seed(seed)
    for name, p in model.eval().requires_grad_(False).named_parameters():
        noise = torch.randn(p.shape, generator=rng)
        plain = p.ndim == 1 or "embed" in name or "q_norm" in name or "k_norm" in name
        spread = 0.3 if plain else 1.4 * p[0].numel() ** -0.5
        norm = "norm" in name and name.endswith("weight")
        p.copy_(noise * spread + (1 if norm else 0))
    return model


def janus(folder: Path, seed: int = 0) -> tuple[Path, Any]:
    """Write a small Janus of transformers; return the folder, and the model."""
    import transformers as t

    config = t.JanusConfig(
        text_config={"model_type": "llama", "num_key_value_heads": 2, **PLAIN},
        vision_config={**EYES, "mlp_ratio": 2, "projection_dim": 32, "num_image_tokens": 16},
        vq_config={**CODES, "num_patches": 4, "projection_dim": 32, "image_token_embed_dim": 32},
        image_token_id=2,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    model = shaken(t.JanusForConditionalGeneration(config), seed)
    model.generation_config = t.GenerationConfig(
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=BLANK,
        generation_kwargs={"boi_token_id": BEGIN},
    )
    model.save_pretrained(folder)
    return with_tokenizer(folder), model


def llava(folder: Path, seed: int = 0, eyes: str = "clip_vision_model") -> tuple[Path, Any]:
    """Write a small LLaVA of transformers; return the folder, and the model."""
    import transformers as t

    config = t.LlavaConfig(
        text_config={"model_type": "llama", "num_key_value_heads": 2, **PLAIN},
        vision_config={"model_type": eyes, **EYES, "intermediate_size": 48},
        image_token_index=2,
        vision_feature_select_strategy="default" if eyes == "clip_vision_model" else "full",
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    model = shaken(t.LlavaForConditionalGeneration(config), seed)
    model.generation_config = t.GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=BLANK)
    model.save_pretrained(folder)
    return with_tokenizer(folder), model


def vocabulary_map() -> dict[str, int]:
    """Return the names of the symbols of a small Chameleon: 16 of pictures, in another order."""
    letters = str.maketrans("0123456789", "ABCDEFGHIJ")
    symbols = {f"IMGIMG{str(i).translate(letters)}Z": 280 + (i * 5) % 16 for i in range(16)}
    return {"<image>": 2, "<racm3:break>": BEGIN, **symbols}


def chameleon(folder: Path, seed: int = 0, swin: bool = False) -> tuple[Path, Any]:
    """Write a small Chameleon of transformers; return the folder, and the model."""
    import transformers as t

    config = t.ChameleonConfig(
        **PLAIN,
        num_key_value_heads=2,
        swin_norm=swin,
        vocabulary_map=vocabulary_map(),
        vq_config={**CODES, "num_embeddings": 16, "resolution": 8},
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"
    model = shaken(t.ChameleonForConditionalGeneration(config), seed)
    model.generation_config = t.GenerationConfig(bos_token_id=0, eos_token_id=1, pad_token_id=BLANK)
    model.save_pretrained(folder)
    return with_tokenizer(folder), model


def fudoki(folder: Path, seed: int = 0) -> tuple[Path, Any]:
    """Write a small FUDOKI; return the folder, and a Janus of transformers with its weights."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer

    _, model = janus(folder, seed)
    tensors = first_names(model.state_dict())
    tensors["gen_vision_model.quantize.codebook_used"] = torch.arange(7.0)
    tensors["vision_model.vision_tower.attn_pool.latent"] = torch.ones(1, 1, 24)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    rng = torch.Generator().manual_seed(seed + 1)
    for name, shape in (("text", (PLAIN["vocab_size"], 12)), ("image", (64, 8))):
        table = {"weight": torch.randn(shape, generator=rng)}
        save_file(table, folder / f"{name}_embedding.safetensors", {"format": "pt"})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens(["<begin_of_image>", "<end_of_image>", "<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").unlink()
    small_json(folder, "tokenizer_config.json", pad_token="<pad>")
    small_json(folder, "config.json", **FIRST_CONFIG)
    return folder, model


PROJECTOR = {"projector_type": "mlp_gelu", "depth": 2, "n_embed": 32}
FIRST_CONFIG = {
    "architectures": ["MultiModalityCausalLM"],
    "model_type": "multi_modality",
    "vision_config": {
        "cls": "CLIPVisionTower",
        "params": {
            "model_name": "siglip_large_patch16_384",
            "image_size": 16,
            "patch_size": 4,
            "width": 24,
            "layers": 3,
            "heads": 2,
            "mlp_ratio": 2,
        },
    },
    "aligner_config": {"cls": "MlpProjector", "params": {**PROJECTOR, "input_dim": 24}},
    "gen_vision_config": {
        "cls": "VQ-16",
        "params": {
            "image_token_size": 64,
            "n_embed": 8,
            "ch": 32,
            "ch_mult": [1, 1],
            "num_res_blocks": 1,
            "z_channels": 32,
        },
    },
    "gen_aligner_config": {"cls": "MlpProjector", "params": {**PROJECTOR, "input_dim": 8}},
    "gen_head_config": {
        "cls": "vision_head",
        "params": {"image_token_embed": 32, "image_token_size": 64, "n_embed": 32},
    },
    "language_config": {"model_type": "llama", "num_key_value_heads": 2, **PLAIN},
}
"""The config.json of a small FUDOKI."""

FIRST_NAMES = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.generation_embeddings.", "gen_embed."),
    ("model.generation_aligner.fc1.", "gen_aligner.layers.0."),
    ("model.generation_aligner.hidden_layers.0.", "gen_aligner.layers.2."),
    ("model.generation_head.proj_out.", "gen_head.output_mlp_projector."),
    ("model.generation_head.vision_head.", "gen_head.vision_head."),
    ("model.aligner.fc1.", "aligner.layers.0."),
    ("model.aligner.hidden_layers.0.", "aligner.layers.2."),
    ("model.vqmodel.", "gen_vision_model."),
    (
        "model.vision_model.embeddings.patch_embedding.",
        "vision_model.vision_tower.patch_embed.proj.",
    ),
    ("model.vision_model.post_layernorm.", "vision_model.vision_tower.norm."),
    ("model.vision_model.encoder.layers.", "vision_model.vision_tower.blocks."),
    (".layer_norm", ".norm"),
    (".self_attn.projection_layer.", ".attn.proj."),
    ("coder.down.", "coder.conv_blocks."),
    ("coder.up.", "coder.conv_blocks."),
    (".mid.block_1.", ".mid.0."),
    (".mid.attn_1.", ".mid.1."),
    (".mid.block_2.", ".mid.2."),
)


def first_names(state: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors of transformers' Janus in the layout of its first releases."""
    import torch

    out = {}
    for name, tensor in state.items():
        new = name
        for here, there in FIRST_NAMES:
            new = new.replace(here, there)
        if "conv_blocks" in new:
            new = new.replace(".block.", ".res.")
        if name == "model.vision_model.embeddings.position_embedding.weight":
            out["vision_model.vision_tower.pos_embed"] = tensor[None].clone()
        elif "vision_tower" in new and "q_proj" in new:
            three = [state[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            out[new.replace("self_attn.q_proj", "attn.qkv")] = torch.cat(three)
        elif not ("vision_tower" in new and "_proj" in new):
            out[new] = tensor.clone()
    return out


def picture(side: int = 16, seed: int = 0) -> np.ndarray:
    """Return a random picture [side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def small_json(folder: Path, name: str, **values: object) -> None:
    """Write one of the small files of a release."""
    (folder / name).write_text(json.dumps(values))
