"""Small released models with random weights, and a tokenizer.json to go with them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

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
