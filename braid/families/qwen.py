"""Qwen 2, 2.5 and 3 (arXiv:2407.10671, arXiv:2412.15115, arXiv:2505.09388)."""

from __future__ import annotations

from braid.config import Experiment
from braid.errors import BraidError
from braid.families import described
from braid.families.family import Config, Family, Files
from braid.families.llama import language_model, rules, transformer
from braid.transformer import TransformerConfig


def second(config: Config) -> TransformerConfig:
    """Return the transformer of Qwen 2 and 2.5: biases on queries, keys and values."""
    whole(config)
    return transformer(config, attention_bias=True)


def third(config: Config) -> TransformerConfig:
    """Return the transformer of Qwen 3: queries and keys are normalised in each head."""
    whole(config)
    biased = bool(config.get("attention_bias"))
    given = {**config, "head_dim": described.option(config, "head_dim", 128, int)}
    return transformer(given, qk_norm="rms", attention_bias=biased, output_bias=biased)


def whole(config: Config) -> None:
    """Refuse attention to a window of the text."""
    described.refuse(config, use_sliding_window=False)
    kinds = {*map(str, described.option(config, "layer_types", [], list))} - {"full_attention"}
    if kinds:
        raise BraidError(
            f"config.json has layers of {', '.join(sorted(kinds))}; only full_attention is "
            "supported"
        )


def _second(config: Config, files: Files) -> Experiment:
    return language_model(config, files, second(config))


def _third(config: Config, files: Files) -> Experiment:
    return language_model(config, files, third(config))


QWEN2 = Family("qwen2", ("Qwen2ForCausalLM",), _second, rules)
QWEN3 = Family("qwen3", ("Qwen3ForCausalLM",), _third, rules)
