"""Text in the vocabulary of a released model: its own tokenizer.json, its own special symbols."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from braid.errors import BraidError, unknown
from braid.modalities.chat import find_template, render, special_names
from braid.modalities.text import Text, read_tokenizer
from braid.spaces import Discrete

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tokenizers import Tokenizer


class Symbol(str):
    """A special symbol by its name in the released vocabulary, such as Symbol("<|im_end|>").

    It is a piece of a text that the caller puts together: `Part("text", [Symbol("<|im_start|>"),
    "user\\n...", ...])`. In plain strings such names are only characters.
    """


class ReleasedText(Text):
    """Text as a released model reads and writes it.

    A text that another text follows is not closed, so that a hole goes on where a prompt ends. At
    the end of a document it is closed by the first of `ends`, before another modality by that
    modality's frame symbol if it has one. Special symbols in a user's text are read as plain
    characters.
    """

    def __init__(
        self,
        name: str = "text",
        size: int = 256,
        begin: tuple[int, ...] = (),
        ends: tuple[int, ...] = (),
        frames: dict[str, int] | None = None,
        length: int = 128,
    ) -> None:
        """Make the text modality of a released model; its files come with `load_state`.

        Args:
            name: name of its strand.
            size: rows of the released embedding, at least the tokenizer's symbols.
            begin: symbols with which every document begins.
            ends: symbols that end a text; the first closes what is learned.
            frames: modality -> symbol that closes a text before it.
            length: default of a hole, and canvas of parallel processes, in tokens.
        """
        for what, ids in (("begin", begin), ("ends", ends), ("frames", (frames or {}).values())):
            for i in ids:
                if not 0 <= i < size:
                    raise BraidError(
                        f"released_text {what}: symbol {i} is out of range; the vocabulary has "
                        f"{size} symbols, from 0"
                    )
        if length < 1:
            raise BraidError(f"released_text length {length} must be at least 1 token")
        self.name = self.field = name
        self.shape, self.length = (length,), length
        self.vocabulary = self.size = size
        self.space = Discrete(size)
        self.ends, self.before = tuple(ends), dict(frames or {})
        self.frames = tuple(self.before)
        self.begin = tuple(begin)
        self.opening = torch.tensor(self.begin) if begin else None
        self.files: dict[str, str] = {}
        self._tokenizer: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The released tokenizer."""
        if self._tokenizer is None:
            raise BraidError(
                f"text modality {self.name!r} has no tokenizer: the released folder held no "
                "tokenizer.json; write one there (transformers: AutoTokenizer.from_pretrained(...)"
                ".save_pretrained(...)) and convert again"
            )
        return self._tokenizer

    def fit(self, examples: Iterable[str]) -> None:
        """Refuse to be without the released vocabulary."""
        _ = self.tokenizer

    @property
    def end(self) -> int:
        """The symbol that ends a text."""
        if not self.ends:
            raise BraidError(
                f"text modality {self.name!r} knows no symbol that ends a text; give released_text "
                "`ends`, as the released eos_token_id"
            )
        return self.ends[0]

    def symbols(self, raw: str | Sequence[str]) -> list[int]:
        """Return the symbols of a text, or of pieces of which some are a `Symbol`."""
        if isinstance(raw, str) and not isinstance(raw, Symbol):
            return super().symbols(raw)
        pieces = [raw] if isinstance(raw, str) else raw
        listed = isinstance(pieces, list | tuple) and all(isinstance(p, str) for p in pieces)
        if not listed or not pieces:
            raise BraidError(
                f"{self.name}: expected a string or a list of strings and symbols, got "
                f"{type(raw).__name__} {raw!r:.40}"
            )
        found = [i for piece in pieces for i in self._piece(piece)]
        if not found:
            raise BraidError(
                f"{self.name}: the text {raw!r:.40} has no symbols; write something, or leave the "
                "part out"
            )
        return found

    def _piece(self, piece: str) -> list[int]:
        if not isinstance(piece, Symbol):
            return self._plain(piece)
        number = self.tokenizer.token_to_id(piece)
        if number is None:
            special = self.tokenizer.get_added_tokens_decoder().values()
            raise unknown("symbol", piece, [token.content for token in special])
        return [number]

    def encode(self, raw: str | Sequence[str], following: str | None = None) -> Tensor:
        """Return the symbols; a frame symbol or the end follows where it has to."""
        ids = self.symbols(raw)
        if following is None:
            ids = [*ids, self.end]
        elif following in self.before:
            ids = [*ids, self.before[following]]
        return torch.tensor(ids, dtype=torch.int64)

    def closing(self, following: str | None) -> int:
        """Return the id of the symbol that closes a text before a modality."""
        return self.before.get(following, self.end) if following is not None else self.end

    def decode(self, tokens: Tensor, shape: tuple[int, ...] = ()) -> str:
        """Return the text before its end, without special symbols."""
        ids = tokens.tolist()
        stops = {*self.ends, *self.before.values()}
        stop = next((i for i, x in enumerate(ids) if x in stops), len(ids))
        return self.tokenizer.decode(ids[:stop], skip_special_tokens=True)

    def conversation(self, messages: Sequence[tuple[str, str]]) -> list[str] | None:
        """Return a conversation in the release's format, as pieces of a text; None if it has none.

        Args:
            messages: role and text of each.
        """
        template = find_template(self.files)
        if template is None:
            return None
        symbols = [t.content for t in self.tokenizer.get_added_tokens_decoder().values()]
        pieces = render(template, messages, special_names(self.files), symbols)
        out = [Symbol(text) if special else text for special, text in pieces]
        begun = [i for piece in out[:1] if isinstance(piece, Symbol) for i in self._piece(piece)]
        return out[1:] if begun and begun == [*self.begin] else out  # a document has it already

    def hole_shape(self, shape: int | tuple[int, ...] | None, causal: bool) -> tuple[int, ...]:
        """Return exactly the asked number of tokens."""
        return super().hole_shape(shape, causal=True)

    def finished(self, tokens: Tensor) -> Tensor:
        """Return whether rows hold a symbol that ends a text."""
        stops = tokens.new_tensor([*self.ends, *self.before.values()])
        return torch.isin(tokens, stops).any(1)

    def state(self) -> dict[str, Any]:
        """Return the small files of the released model."""
        return {"files": self.files}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take the files; without a tokenizer.json among them no text can be read."""
        self.files = dict(state.get("files", {}))
        if "tokenizer.json" not in self.files:
            return
        where = f"text modality {self.name!r}"
        self._tokenizer = read_tokenizer(self._guarded(self.files["tokenizer.json"]), where)
        most = max(self._tokenizer.get_vocab().values(), default=-1)
        if most >= self.size:
            raise BraidError(
                f"{where}: tokenizer.json has a symbol {most}, but the weights have only "
                f"{self.size} rows; the two belong to different models"
            )

    def _guarded(self, text: str) -> str:
        """Keep the symbols that open, close and end out of reach of user text."""
        try:
            tree = json.loads(text)
        except ValueError:
            return text  # `read_tokenizer` says what it is
        control = {*self.begin, *self.ends, *self.before.values()}
        for token in tree.get("added_tokens") or []:
            token["special"] = token["special"] or token["id"] in control
        return json.dumps(tree)
