"""Pictures as symbols of a released model: how its symbols enter, and how its head is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from braid.errors import BraidError
from braid.modalities.coded_image import CodedImage
from braid.modalities.mixed_text import read_table
from braid.spaces import Discrete, SymbolEmbedding


class ReleasedImage(CodedImage):
    """Pictures as symbols of a frozen codec, as a released model reads and writes them.

    Janus has narrow embeddings with a two-layer projection behind them, and a head with a hidden
    layer (arXiv:2410.13848, section 3.2); Chameleon has plain tables.
    """

    def __init__(
        self,
        name: str = "image",
        codec: str = "mini/image-codec",
        size: int | tuple[int, int] = 32,
        resize: bool = True,
        entry: int | None = None,
        hidden: int | None = None,
        table: str | None = None,
        field: str = "image",
    ) -> None:
        """Make the image modality of a released model.

        Args:
            name: name of its strand.
            codec: folder of a codec with symbols.
            size: height and width of pictures in pixels; the default of a hole.
            resize: scale and crop pictures of another size; otherwise they are refused.
            entry: width of the embeddings before their projection; None has none.
            hidden: width of the head's hidden layer; None has none.
            table: folder with the embeddings that a metric path compares; None takes the codebook.
            field: field of the raw examples that holds the picture.
        """
        super().__init__(name, codec, size, resize=resize, field=field)
        for option, width in (("entry", entry), ("hidden", hidden)):
            if width is None:
                continue
            if width < 1:
                raise BraidError(f"released_image {option} {width} must be at least 1, or none")
            if not isinstance(self.space, Discrete) or self.space.groups != 1:
                raise BraidError(
                    f"released_image {option}: codec {codec!r} gives no single symbols; leave it "
                    "out, or give another codec"
                )
        self.entry, self.hidden, self.source_of_metric = entry, hidden, table

    def embedder(self, width: int, extra: int = 0) -> nn.Module:
        """Return the table, with a projection if it is narrow."""
        if self.entry is None:
            return super().embedder(width, extra)
        size = self.space.size + extra  # pyright: ignore[reportAttributeAccessIssue]
        return nn.Sequential(
            SymbolEmbedding(size, 1, self.entry),
            nn.Linear(self.entry, width),
            nn.GELU(),
            nn.Linear(width, width),
        )

    def head(self, width: int) -> nn.Module:
        """Return one linear layer, or two with biases."""
        if self.hidden is None:
            return super().head(width)
        size = self.space.size  # pyright: ignore[reportAttributeAccessIssue]
        return nn.Sequential(nn.Linear(width, self.hidden), nn.GELU(), nn.Linear(self.hidden, size))

    def hole_shape(self, shape: int | tuple[int, ...] | None, causal: bool) -> tuple[int, ...]:
        """Return the asked shape; refuse it where symbols do not become pictures again."""
        if not self.shell.decodes:
            raise BraidError(
                f"{self.name}: the release's codec has no decoder, so its symbols give no picture; "
                "call braid.generation.generate for the symbols themselves"
            )
        return super().hole_shape(shape, causal)

    def metric(self) -> dict[str, Any]:
        """Return the released table, or the codebook."""
        if self.source_of_metric is None:
            return super().metric()
        return {"table": read_table(self.source_of_metric)}

    def folders(self) -> dict[str, Path]:
        """Return the folders of the codec and of the table."""
        table = {} if self.source_of_metric is None else {"table": Path(self.source_of_metric)}
        return {**super().folders(), **table}

    def alike(self) -> Tensor | None:
        """Return None: the embeddings are released."""
        return None
