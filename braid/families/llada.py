"""LLaDA: masked diffusion of text, all tokens see all (arXiv:2502.09992)."""

from __future__ import annotations

from collections.abc import Sequence

from braid.config import DataConfig, Experiment, StrandConfig
from braid.families import described
from braid.families.family import Config, Family, Files, Rule, constants
from braid.families.transforms import MaskRow
from braid.transformer import TransformerConfig


def experiment(config: Config, files: Files) -> Experiment:
    """Describe a LLaDA, decoded as its authors do: block by block, the surest symbols first."""
    described.refuse(
        config,
        block_type="llama",
        activation_type="silu",
        layer_norm_type="rms",
        rope=True,
        alibi=False,
        include_bias=False,
        attention_layer_norm=False,
        input_emb_norm=False,
        scale_logits=False,
        weight_tying=False,
        multi_query_attention=False,
    )
    size = described.option(config, "embedding_size", 0, int)
    size = size or described.need(config, "vocab_size", int)
    strand = StrandConfig(
        modality=described.text(config, files, size),
        process={"kind": "masked", "weighting": "llada"},
        sampler={
            "kind": "confidence",
            "temperature": 0.0,
            "steps": 128,
            "size_of_block": 32,
            "even": True,
        },
    )
    return Experiment(
        name=described.named(config),
        strands={"text": strand},
        rule="full",
        transformer=transformer(config),
        data=DataConfig(source="files", tasks={"text": 1.0}),
    )


def transformer(config: Config) -> TransformerConfig:
    """Return the transformer that a config.json of LLaDA describes."""
    theta, scaling = described.rope(config)
    return TransformerConfig(
        width=described.need(config, "d_model", int),
        depth=described.need(config, "n_layers", int),
        heads=described.need(config, "n_heads", int),
        key_heads=described.option(config, "n_kv_heads", None, int),
        hidden=described.need(config, "mlp_hidden_size", int),
        norm_eps=described.option(config, "rms_norm_eps", 1e-5, float),
        qk_norm="none",
        attention_bias=bool(config.get("include_qkv_bias")),
        rope_theta=theta,
        rope_scaling=scaling,
        rope_sections=(1, 0, 0),
    )


def rules(config: Config) -> Sequence[Rule]:
    """Map LLaDA's own layout; ff_proj is the gate, attn_out and ff_out lead to the residual."""
    top, block = "model.transformer.", "model.transformer.blocks.{}."
    own = "transformer.blocks.{}."
    return [
        Rule(
            f"{top}wte.weight",
            "strands.text.embedder.table.weight",
            MaskRow(described.need(config, "mask_token_id", int)),
        ),
        Rule(f"{top}ff_out.weight", "strands.text.head.linear.weight"),
        Rule(f"{top}ln_f.weight", "transformer.norm.weight"),
        Rule(f"{block}q_proj.weight", f"{own}attention.query.weight"),
        Rule(f"{block}k_proj.weight", f"{own}attention.key.weight"),
        Rule(f"{block}v_proj.weight", f"{own}attention.value.weight"),
        Rule(f"{block}q_proj.bias", f"{own}attention.query.bias"),
        Rule(f"{block}k_proj.bias", f"{own}attention.key.bias"),
        Rule(f"{block}v_proj.bias", f"{own}attention.value.bias"),
        Rule(f"{block}attn_out.weight", f"{own}attention.out.weight"),
        Rule(f"{block}attn_norm.weight", f"{own}attention_norm.weight"),
        Rule(f"{block}ff_norm.weight", f"{own}feed_norm.weight"),
        Rule(f"{block}ff_proj.weight", f"{own}feed.gate.weight"),
        Rule(f"{block}up_proj.weight", f"{own}feed.up.weight"),
        Rule(f"{block}ff_out.weight", f"{own}feed.down.weight"),
        *constants("strands.text.kind"),
    ]


LLADA = Family("llada", ("LLaDAModelLM",), experiment, rules, ignored=())
