"""Llama 1 to 3 and models of its layout (arXiv:2302.13971, arXiv:2407.21783)."""

from __future__ import annotations

from collections.abc import Sequence

from braid.config import DataConfig, Experiment, StrandConfig
from braid.families import described
from braid.families.family import Config, Family, Files, Rule, constants
from braid.transformer import TransformerConfig


def transformer(config: Config, **further: bool | str) -> TransformerConfig:
    """Return the transformer that a config.json of this layout describes."""
    theta, scaling = described.rope(config)
    described.refuse(config, hidden_act="silu")
    return TransformerConfig(
        width=described.need(config, "hidden_size", int),
        depth=described.need(config, "num_hidden_layers", int),
        heads=described.need(config, "num_attention_heads", int),
        key_heads=described.option(config, "num_key_value_heads", None, int),
        head_width=described.option(config, "head_dim", None, int),
        hidden=described.need(config, "intermediate_size", int),
        norm_eps=described.option(config, "rms_norm_eps", 1e-6, float),
        rope_theta=theta,
        rope_scaling=scaling,
        rope_sections=(1, 0, 0),
        **{"qk_norm": "none", **further},  # pyright: ignore[reportArgumentType]
    )


def biased(config: Config, **further: bool | str) -> TransformerConfig:
    """Return the transformer of a Llama, with the biases that config.json asks for."""
    attention, feed = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    return transformer(
        config, attention_bias=attention, output_bias=attention, bias=feed, **further
    )


def experiment(config: Config, files: Files) -> Experiment:
    """Describe a Llama: text, generated token by token."""
    return language_model(config, files, biased(config))


def language_model(config: Config, files: Files, sizes: TransformerConfig) -> Experiment:
    """Describe a model of text alone that predicts the next token."""
    described.causal(config)
    strand = StrandConfig(
        modality=described.text(config, files, described.need(config, "vocab_size", int)),
        process={"kind": "autoregressive"},
        sampler={"kind": "next_token", "temperature": 0.0},
        tied=bool(config.get("tie_word_embeddings", False)),
    )
    return Experiment(
        name=described.named(config),
        strands={"text": strand},
        rule="spans",
        transformer=sizes,
        data=DataConfig(source="files", tasks={"text": 1.0}),
    )


def blocks(prefix: str) -> list[Rule]:
    """Return the rules of the transformer's blocks and its last norm, below a prefix."""
    block, own = f"{prefix}layers.{{}}.", "transformer.blocks.{}."
    return [
        Rule(f"{block}self_attn.q_proj.weight", f"{own}attention.query.weight"),
        Rule(f"{block}self_attn.k_proj.weight", f"{own}attention.key.weight"),
        Rule(f"{block}self_attn.v_proj.weight", f"{own}attention.value.weight"),
        Rule(f"{block}self_attn.o_proj.weight", f"{own}attention.out.weight"),
        Rule(f"{block}self_attn.q_proj.bias", f"{own}attention.query.bias"),
        Rule(f"{block}self_attn.k_proj.bias", f"{own}attention.key.bias"),
        Rule(f"{block}self_attn.v_proj.bias", f"{own}attention.value.bias"),
        Rule(f"{block}self_attn.o_proj.bias", f"{own}attention.out.bias"),
        Rule(f"{block}self_attn.q_norm.weight", f"{own}attention.query_norm.weight"),
        Rule(f"{block}self_attn.k_norm.weight", f"{own}attention.key_norm.weight"),
        Rule(f"{block}mlp.gate_proj.weight", f"{own}feed.gate.weight"),
        Rule(f"{block}mlp.up_proj.weight", f"{own}feed.up.weight"),
        Rule(f"{block}mlp.down_proj.weight", f"{own}feed.down.weight"),
        Rule(f"{block}mlp.gate_proj.bias", f"{own}feed.gate.bias"),
        Rule(f"{block}mlp.up_proj.bias", f"{own}feed.up.bias"),
        Rule(f"{block}mlp.down_proj.bias", f"{own}feed.down.bias"),
        Rule(f"{block}input_layernorm.weight", f"{own}attention_norm.weight"),
        Rule(f"{block}post_attention_layernorm.weight", f"{own}feed_norm.weight"),
        Rule(f"{prefix}norm.weight", "transformer.norm.weight"),
    ]


def rules(config: Config) -> Sequence[Rule]:
    """Map the layout that Llama and Qwen share; what a model has no tensor for does not apply."""
    return [
        Rule("model.embed_tokens.weight", "strands.text.embedder.table.weight"),
        Rule("lm_head.weight", "strands.text.head.linear.weight"),
        *blocks("model."),
        *constants("strands.text.kind", "strands.text.start"),
    ]


LLAMA = Family("llama", ("LlamaForCausalLM",), experiment, rules)
