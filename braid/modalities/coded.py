"""What pictures and sounds that pass through a frozen codec have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from braid.errors import BraidError
from braid.modalities import codecs
from braid.modalities.codecs import Codec
from braid.modalities.modality import Modality
from braid.spaces import Continuous, Discrete, Space


class CodedModality(Modality):
    """Base of modalities whose tokens are the codes of a frozen codec.

    The codec decides whether tokens are symbols or vectors. It runs on the CPU; its weights are
    read when the first picture or sound is. A subclass says what its `medium` is called.

    Attributes:
        medium: what its codec has to be for, as `Codec.medium` says it.
        means: the word for that in messages.
        source: folder, name or Hub id of the codec.
        card: the codec's header; its fingerprint tells codecs apart.
        shell: the codec without its weights, for its shapes.
    """

    lossless = False
    medium: str
    means: str

    def __init__(self, name: str, field: str, codec: str) -> None:
        """Look at a codec without reading its weights.

        Raises:
            BraidError: there is none of that name, or it is for something else.
        """
        self.name, self.field, self.source = name, field, codec
        self.card, self.shell = codecs.card_of(codec), codecs.shell(codec)
        if self.shell.medium != self.medium:
            raise BraidError(
                f"codec {codec!r} is for {self.shell.medium} data; {name} needs one for "
                f"{self.means}"
            )
        self._codec: Codec | None = None

    @property
    def codec(self) -> Codec:
        """The codec with its weights."""
        if self._codec is None:
            self._codec = codecs.load(self.source)
        return self._codec

    def state(self) -> dict[str, Any]:
        """Return which codec the tokens are of."""
        return {"codec": self.card["fingerprint"]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Refuse another codec than the one that the model was trained with."""
        if state.get("codec") != self.card["fingerprint"]:
            raise BraidError(
                f"{self.name}: {self.source!r} is a codec that does not belong to the checkpoint: "
                f"the model was trained with codec {state.get('codec')}, this is codec "
                f"{self.card['fingerprint']}; give the model's own codec"
            )

    def folders(self) -> dict[str, Path]:
        """Return the codec's folder, which belongs to a saved model."""
        return {"codec": codecs.find(self.source)}

    def _joined(self, cells: int) -> Space:
        """Return the space of tokens of so many cells."""
        cell = self.shell.space
        if isinstance(cell, Discrete):
            return Discrete(cell.size, cell.groups * cells)
        return Continuous(cell.width * cells)
