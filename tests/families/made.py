"""Small released models with random weights, and a tokenizer.json to go with them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

TEXTS = (
    "the cat sat on the mat and the dog sat on the cat",
    "a model reads and writes text, one symbol after the other",
    "naïve café, 猫 and 犬: bytes make every text readable\n\n",
)
SPECIAL = ("<s>", "</s>", "<mask>", "<image>")
SIZE = 300  # rows of the embeddings, some of them without a symbol, as in releases


@cache
def tokenizer_json(begins: bool = True) -> str:
    """Return a byte-level BPE with special symbols 0 to 3; `begins` puts <s> before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS * 2, trainer)
    if begins:
        bpe.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return bpe.to_str()


def with_tokenizer(folder: Path, begins: bool = True) -> Path:
    """Write the tokenizer into a released folder."""
    (folder / "tokenizer.json").write_text(tokenizer_json(begins), encoding="utf-8")
    return folder


def edited(folder: Path, **changes: object) -> Path:
    """Change config.json; None takes a key out."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


PLAIN = {
    "vocab_size": SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "max_position_embeddings": 256,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"num_key_value_heads": 4}),
    "llama, tied": ("Llama", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "llama, grouped, wide heads": ("Llama", {"num_key_value_heads": 2, "head_dim": 12}),
    "llama, biases of attention": ("Llama", {"num_key_value_heads": 2, "attention_bias": True}),
    "llama, biases of feed-forward": ("Llama", {"num_key_value_heads": 1, "mlp_bias": True}),
    "llama, llama3 rope": ("Llama", {"num_key_value_heads": 2, "rope_parameters": LLAMA3_ROPE}),
    "llama, linear rope": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}},
    ),
    "qwen2": ("Qwen2", {"num_key_value_heads": 4}),
    "qwen2, tied, grouped": ("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"num_key_value_heads": 4, "head_dim": 16}),
    "qwen3, tied, grouped": (
        "Qwen3",
        {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True},
    ),
    "qwen3, biases": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 8, "attention_bias": True}),
}
"""Kinds of transformers' models, with all that a family's config.json can ask for."""


def network(kind: str, seed: int = 0, **options: Any) -> Any:
    """Return one of transformers' language models; no weight is 0 or 1, so that each one counts."""
    import torch
    import transformers

    config = getattr(transformers, f"{kind}Config")(**PLAIN | options)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval().requires_grad_(False)
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=rng)
        spread = (
            0.3 if parameter.ndim == 1 or "embed" in name else 1.4 * parameter.shape[-1] ** -0.5
        )
        parameter.copy_(noise * spread + (1 if "norm" in name else 0))
    return model


def released(folder: Path, name: str, begins: bool = True, **options: Any) -> tuple[Path, Any]:
    """Write a small released model with a tokenizer; return the folder, and the model."""
    kind, config = CONFIGS[name]
    model = network(kind, **config | options)
    model.save_pretrained(folder)
    return with_tokenizer(folder, begins), model


def tensors_of(folder: Path) -> dict[str, Any]:
    """Return all tensors of a released folder."""
    from safetensors.torch import load_file

    return {k: v for f in sorted(folder.glob("*.safetensors")) for k, v in load_file(f).items()}


def tokenizer() -> Any:
    """Return the tokenizer itself."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(tokenizer_json())


MASK = 2

_LLADA = {
    "model.embed_tokens.weight": "wte.weight",
    "model.norm.weight": "ln_f.weight",
    "lm_head.weight": "ff_out.weight",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "model.layers.": "blocks.",
}


def llada(folder: Path, seed: int = 0) -> tuple[Path, Any]:
    """Write a small LLaDA, and return a Llama of the same weights; it has to see all."""
    from safetensors.torch import save_file

    model = network("Llama", seed, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    tensors = {}
    for name, tensor in model.state_dict().items():
        for theirs, its in _LLADA.items():
            name = name.replace(theirs, its)
        tensors[f"model.transformer.{name}"] = tensor
    config = {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "auto_map": {"AutoModelForCausalLM": "modeling_llada.LLaDAModelLM"},
        "d_model": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 4,
        "mlp_hidden_size": 48,
        "vocab_size": SIZE,
        "embedding_size": SIZE,
        "mask_token_id": MASK,
        "eos_token_id": 1,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-6,
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "rope": True,
        "include_bias": False,
        "include_qkv_bias": False,
        "weight_tying": False,
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return with_tokenizer(folder, begins=False), model


def dream(folder: Path, seed: int = 0) -> tuple[Path, Any]:
    """Write a small Dream, and return the Qwen 2 of the same weights; it has to see all."""
    model = network("Qwen2", seed, num_key_value_heads=2)
    model.save_pretrained(folder)
    edited(folder, architectures=["DreamModel"], model_type="Dream", mask_token_id=MASK)
    return with_tokenizer(folder, begins=False), model
