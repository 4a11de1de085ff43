"""Text as byte-level byte-pair symbols, closed by a symbol that says what follows."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from braid.errors import BraidError
from braid.modalities.modality import Modality
from braid.spaces import Discrete, metric_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Tokenizer

END = "<end>"

_UNSEEN = ("Zs", "Zl", "Zp", "Cc", "Cf")
"""Unicode's categories of spaces, controls and marks without a shape."""


class Text(Modality):
    """Byte-level BPE with the `tokenizers` library.

    Frame symbols lie above its vocabulary, out of reach of user text.

    A span is the text's symbols and one frame symbol: `<image>` where an image follows, `<end>`
    otherwise. Canvases
    that are filled in parallel are padded with `<end>` to a multiple of `length`.
    """

    closes = True

    def __init__(
        self,
        name: str = "text",
        vocabulary: int = 512,
        length: int = 16,
        tokenizer: str | None = None,
        frames: tuple[str, ...] = ("image",),
    ) -> None:
        """Make a text modality.

        Args:
            name: name of its strand.
            vocabulary: symbols of the BPE that `fit` trains, at least 256 (the bytes).
            length: canvas of parallel processes, and the default of a hole, in tokens.
            tokenizer: path of a tokenizer.json to load instead of training one.
            frames: modalities that may follow a text, each with its own closing symbol.
        """
        if length < 1:
            raise BraidError(f"text length {length} must be at least 1 token")
        if vocabulary < 256:
            raise BraidError(
                f"text vocabulary {vocabulary} is smaller than the 256 bytes; use at least 256"
            )
        if isinstance(frames, str) or len(set(frames)) < len(frames):
            raise BraidError(
                f"text frames {frames!r}: give a list of modalities, each once, such as ['image']"
            )
        self.name = self.field = name
        self.shape, self.length = (length,), length
        self.vocabulary, self.frames = vocabulary, tuple(frames)
        self._tokenizer: Tokenizer | None = None
        if tokenizer is not None:
            if not Path(tokenizer).is_file():
                raise BraidError(
                    f"tokenizer {tokenizer!r} does not exist; give the path of a tokenizer.json"
                )
            self._adopt(Path(tokenizer).read_text(encoding="utf-8", errors="replace"))

    @property
    def tokenizer(self) -> Tokenizer:
        """The BPE, once it is trained or loaded."""
        if self._tokenizer is None:
            raise BraidError(
                f"text modality {self.name!r} has no tokenizer yet; call fit(texts) or give a "
                "tokenizer.json"
            )
        return self._tokenizer

    def _adopt(self, text: str) -> None:
        self._tokenizer = read_tokenizer(text, f"text modality {self.name!r}")
        self.vocabulary = 1 + max(self._tokenizer.get_vocab().values(), default=-1)  # or has gaps
        self.size = self.vocabulary + 1 + len(self.frames)
        self.space = Discrete(self.size)

    def accepts(self, raw: object) -> bool:
        """Accept strings."""
        return isinstance(raw, str)

    def fit(self, examples: Iterable[str]) -> None:
        """Train the BPE on texts, unless it was loaded."""
        if self._tokenizer is not None:
            return
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
            min_frequency=2,
        )
        bpe.train_from_iterator(examples, trainer)
        self._adopt(bpe.to_str())

    @property
    def end(self) -> int:
        """Id of `<end>`: the first above those of the tokenizer."""
        _ = self.tokenizer  # refuses to be without
        return self.vocabulary

    def closing(self, following: str | None) -> int:
        """Return the id of the symbol that closes a text before a modality."""
        return self.end + 1 + self.frames.index(following) if following in self.frames else self.end

    def encode(self, raw: str, following: str | None = None) -> Tensor:
        """Return the symbols and the closing symbol.

        Refuses what is not a string, and an empty text.
        """
        return torch.tensor([*self.symbols(raw), self.closing(following)])

    def symbols(self, raw: str) -> list[int]:
        """Return the symbols of a text alone."""
        if not isinstance(raw, str):
            raise BraidError(
                f"{self.name}: expected a string, got {type(raw).__name__} {raw!r:.40}"
            )
        if all(unicodedata.category(c) in _UNSEEN for c in raw):
            raise BraidError(
                f"{self.name}: the text is empty; write at least one visible character, or leave "
                "the part out"
            )
        found = self._plain(raw)
        if not found:
            raise BraidError(
                f"{self.name}: the tokenizer has no symbol for any part of {raw!r:.40}; use one "
                "that knows all bytes, or an unknown symbol"
            )
        return found

    def _plain(self, raw: str) -> list[int]:
        try:
            return self.tokenizer.encode(raw, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError) as e:
            raise BraidError(
                f"{self.name}: the text is no valid Unicode (a lone surrogate); repair its encoding"
            ) from e
        except Exception as e:  # the library raises no narrower one
            raise BraidError(f"{self.name}: the tokenizer cannot read {raw!r:.40} ({e})") from e

    def decode(self, tokens: Tensor, shape: tuple[int, ...] = ()) -> str:
        """Return the text before the first frame symbol."""
        ids = tokens.tolist()
        stop = next((i for i, x in enumerate(ids) if x >= self.end), len(ids))
        return self.tokenizer.decode(ids[:stop], skip_special_tokens=False)

    def canvas(self, tokens: Tensor, causal: bool) -> Tensor:
        """Pad with `<end>` to a multiple of the canvas; a causal process needs no padding."""
        if causal:
            return tokens
        room = -len(tokens) % self.length
        return torch.cat([tokens, tokens.new_full((room,), self.end)])

    def hole_shape(self, shape: int | tuple[int, ...] | None, causal: bool) -> tuple[int, ...]:
        """Return at most the asked number of tokens; a parallel process fills whole canvases."""
        (n,) = super().hole_shape(shape, causal)
        return (n,) if causal else (-(-n // self.length) * self.length,)

    def finished(self, tokens: Tensor) -> Tensor:
        """Return whether rows hold a frame symbol."""
        return (tokens >= self.end).any(1)

    def metric(self) -> dict[str, Any]:
        """Return a table with nearly equal distances.

        Nothing is known of the symbols before training.
        """
        return {"table": metric_table(self.size)}

    def state(self) -> dict[str, Any]:
        """Return the tokenizer."""
        return {"tokenizer": self.tokenizer.to_str()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take a tokenizer back."""
        if "tokenizer" not in state:
            raise BraidError(
                f"modality {self.name!r} lacks its tokenizer; the folder is incomplete"
            )
        self._adopt(state["tokenizer"])


def read_tokenizer(text: str, where: str) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, which takes no special symbol from user text.

    Raises:
        BraidError: the text is none.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as e:  # the library raises no narrower one
        raise BraidError(f"{where}: this is no tokenizer.json ({e})") from e
    # "<eos>" typed by a user is seven characters, not a symbol
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
