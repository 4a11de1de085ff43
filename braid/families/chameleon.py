"""Chameleon in transformers' layout (arXiv:2405.09818): text and pictures in one vocabulary.

Both are generated token by token. Rows of pictures' symbols become a table and a head of their own,
in the order of the codes; the text's table keeps all rows, so that no symbol changes its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from braid.config import Experiment, StrandConfig
from braid.errors import BraidError
from braid.families import described, parts, seen
from braid.families.family import Config, Family, Files, Part, Rule, constants
from braid.families.llama import biased, blocks
from braid.families.transforms import Rows

BEGINS = "<racm3:break>"
"""Name of the symbol that opens a picture."""


def complete(config: Config) -> dict[str, Any]:
    """Return the whole config.json."""
    whole = parts.complete(config, "ChameleonConfig")
    described.refuse(whole, tie_word_embeddings=False)
    described.causal(whole)
    return whole


def symbols(whole: Config) -> list[int]:
    """Return the symbol of each code; names spell codes in letters: IMGIMGBCZ is code 12.

    Raises:
        BraidError: a code has no symbol, or two have one name.
    """
    digits = str.maketrans("ABCDEFGHIJ", "0123456789")
    named: dict[int, int] = {
        int(name[6:-1].translate(digits)): number
        for name, number in described.need(whole, "vocabulary_map", dict).items()
        if name.startswith("IMGIMG") and name[6:-1].translate(digits).isdecimal()
    }
    size = whole["vq_config"]["num_embeddings"]
    lost = sorted({*range(size)} - named.keys())
    if lost or len(named) != size:
        raise BraidError(
            f"vocabulary_map in config.json names {len(named)} symbols of pictures, not the {size} "
            f"codes of vq_config (first missing: {lost[:1]}); fetch it again"
        )
    return [named[code] for code in range(size)]


def ranges(numbers: Sequence[int]) -> list[list[int]]:
    """Return the ranges [first, end] that numbers fill."""
    ordered = sorted(numbers)
    breaks = [i for i, (a, b) in enumerate(pairwise(ordered), 1) if b != a + 1]
    edges = pairwise([0, *breaks, len(ordered)])
    return [[ordered[first], ordered[end - 1] + 1] for first, end in edges]


def experiment(config: Config, files: Files) -> Experiment:
    """Describe a Chameleon."""
    whole = complete(config)
    opens = whole["vocabulary_map"].get(BEGINS)
    order = "post" if whole["swin_norm"] else "pre"
    text = StrandConfig(
        modality=seen.text(
            whole,
            files,
            whole["vocab_size"],
            frames={} if opens is None else {"image": opens},
            never=ranges(symbols(whole)),
        ),
        process={"kind": "autoregressive"},
        sampler={"kind": "next_token", "temperature": 0.0},
    )
    image = StrandConfig(
        modality=seen.picture(files, whole["vq_config"]["resolution"]),
        process={"kind": "autoregressive"},
        sampler={"kind": "next_token"},
    )
    return seen.experiment(
        config,
        {"text": text, "image": image},
        "causal",
        biased(whole, qk_norm="heads", norm_order=order),
        {"text_to_image": 1.0, "image_to_text": 1.0},
    )


def rules(config: Config) -> Sequence[Rule]:
    """Map transformers' layout."""
    rows = Rows(tuple(symbols(complete(config))))
    kinds = ("query", "key")
    return [
        Rule(
            "model.embed_tokens.weight",
            ["strands.text.embedder.table.weight", "strands.image.embedder.table.weight"],
            rows,
        ),
        Rule(
            "lm_head.weight",
            ["strands.text.head.linear.weight", "strands.image.head.linear.weight"],
            rows,
        ),
        *blocks("model."),
        *(
            Rule(
                f"model.layers.{{}}.self_attn.{kind[0]}_norm.bias",
                f"transformer.blocks.{{}}.attention.{kind}_norm.bias",
            )
            for kind in kinds
        ),
        *(constants(f"strands.{s}.{x}")[0] for s in ("text", "image") for x in ("kind", "start")),
        *constants("strands.image.row", "strands.image.column"),
    ]


def frozen(config: Config) -> Sequence[Part]:
    """Return the VQ network; transformers has no decoder of it."""
    below = parts.below("model.vqmodel.", "model.")
    return (parts.codec("ChameleonVQVAE", lambda c: complete(c)["vq_config"], below),)


CHAMELEON = Family(
    "chameleon", ("ChameleonForConditionalGeneration",), experiment, rules, parts=frozen
)
