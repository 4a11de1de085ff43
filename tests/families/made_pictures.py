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


def picture(side: int = 16, seed: int = 0) -> np.ndarray:
    """Return a random picture [side, side, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def small_json(folder: Path, name: str, **values: object) -> None:
    """Write one of the small files of a release."""
    (folder / name).write_text(json.dumps(values))
