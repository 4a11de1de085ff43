"""Dream: masked diffusion that began as Qwen 2.5 and keeps its shift (arXiv:2508.15487)."""

from __future__ import annotations

from collections.abc import Sequence

from braid.config import DataConfig, Experiment, StrandConfig
from braid.families import described, qwen
from braid.families.family import Config, Family, Files, Rule, constants
from braid.families.llama import blocks
from braid.families.transforms import MaskRow


def experiment(config: Config, files: Files) -> Experiment:
    """Describe a Dream: token i is predicted at token i - 1, where Qwen predicted it."""
    described.refuse(config, tie_word_embeddings=False)
    strand = StrandConfig(
        modality=described.text(config, files, described.need(config, "vocab_size", int)),
        process={"kind": "masked", "weighting": "llada", "shift": 1},
        sampler={"kind": "confidence", "temperature": 0.0, "steps": 128, "order": "entropy"},
    )
    return Experiment(
        name=described.named(config),
        strands={"text": strand},
        rule="full",
        transformer=qwen.second(config),
        data=DataConfig(source="files", tasks={"text": 1.0}),
    )


def rules(config: Config) -> Sequence[Rule]:
    """Map the layout of Qwen, and the mask's row."""
    mask = MaskRow(described.need(config, "mask_token_id", int))
    return [
        Rule("model.embed_tokens.weight", "strands.text.embedder.table.weight", mask),
        Rule("lm_head.weight", "strands.text.head.linear.weight"),
        *blocks("model."),
        *constants("strands.text.kind", "strands.text.start"),
    ]


DREAM = Family("dream", ("DreamModel",), experiment, rules)
