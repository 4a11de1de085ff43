"""Requests that generate nothing: how likely a document is, and where texts lie."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from braid.generation import Job
from braid.generation.context import Transform
from braid.serving.asked import Body, Foreign, Reply, Served, dumps, parse
from braid.serving.native import KnownPart, known
from braid.serving.refusals import invalid
from braid.serving.wishes import check_context, check_kinds, check_texts

_MOST_INPUTS = 64
_MOST_TIMES = 64

Text = Annotated[str, Field(min_length=1)]


class Score(Body):
    """The request of `POST /v1/score`."""

    model: str | None = None
    parts: list[KnownPart] = Field(min_length=1)
    times: int = Field(16, ge=1, le=_MOST_TIMES)
    seed: int = Field(0, ge=-(2**63), lt=2**63)


class Embeddings(Foreign):
    """The request of `POST /v1/embeddings`."""

    model: str | None = None
    input: Text | list[Text]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


@dataclass(frozen=True)
class Measuring:
    """A measurement that has been read.

    Attributes:
        served: what it is about.
        documents: that are measured, one after the other.
    """

    served: Served
    documents: Sequence[Sequence[Any]]

    def reads(self, lengths: Sequence[int]) -> int:
        """Return how many tokens the network calls for a document read, whose parts have these."""
        return sum(lengths)

    def measure(self, transform: Transform) -> Any:
        """Return what is found, one network call after the other as others make theirs."""
        raise NotImplementedError

    def answer(self, found: Any) -> Reply:
        """Return the answer."""
        raise NotImplementedError

    def prepare(self) -> Job[Any]:
        """Return the work.

        Raises:
            BraidError: a document is wrong.
            Refusal: it has more tokens than this server allows.
        """
        cost = 0
        for document in self.documents:
            check_kinds(document, self.served.pipe)
            lengths = [len(span) for span in self.served.pipe.spans(document)]
            check_context(sum(lengths), self.served.limits)
            cost += self.reads(lengths)
        return Job(self.measure, 1, cost=cost)


@dataclass(frozen=True)
class Scoring(Measuring):
    """How likely each part is after those before it.

    Attributes:
        times: at which a bound is measured.
        seed: of its noise.
    """

    times: int = 16
    seed: int = 0

    def reads(self, lengths: Sequence[int]) -> int:
        """Return how many tokens are read: each part is measured after those before it."""
        return self.times * sum(itertools.accumulate(lengths))

    @classmethod
    def read(cls, body: Mapping[str, Any], served: Served) -> Scoring:
        """Read the request of `POST /v1/score`."""
        asked = parse(Score, body)
        served.check_name(asked.model)
        return cls(served, [known(asked.parts, served)], asked.times, asked.seed)

    def measure(self, transform: Transform) -> list[dict[str, Any]]:
        """Return the negative log-likelihood of each part that can be generated."""
        scored = self.served.pipe.score(self.documents[0], self.times, self.seed, transform)
        nats = [float(s.value.sum()) for s in scored]
        return [
            # JSON has no other word for what is no number
            {
                "nats": n if math.isfinite(n) else None,
                "symbols": int(s.symbols.sum()),
                "kind": s.kind,
            }
            for n, s in zip(nats, scored, strict=True)
        ]

    def answer(self, found: list[dict[str, Any]]) -> Reply:
        """Return the answer."""
        made = {"object": "score", "model": self.served.name, "scores": found}
        return Reply(dumps(made).encode())


@dataclass(frozen=True)
class Embedding(Measuring):
    """Mean hidden vectors of texts.

    Attributes:
        form: float or base64, of float32 in little endian.
    """

    form: str = "float"

    @classmethod
    def read(cls, body: Mapping[str, Any], served: Served) -> Embedding:
        """Read the request of `POST /v1/embeddings`."""
        asked = parse(Embeddings, body)
        served.check_name(asked.model)
        if asked.dimensions is not None:
            raise invalid(
                "the vectors have the width of the model; leave dimensions out",
                "dimensions",
                "unsupported_parameter",
            )
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not 0 < len(texts) <= _MOST_INPUTS:
            raise invalid(f"{len(texts)} texts; send 1 to {_MOST_INPUTS}", "input")
        check_texts(texts, served.limits)
        return cls(served, [[text] for text in texts], asked.encoding_format)

    def measure(self, transform: Transform) -> tuple[list[np.ndarray], int]:
        """Return a vector [D] of each text, and how many tokens all have."""
        pipe = self.served.pipe
        vectors = [pipe.embed(d, transform).float().cpu().numpy() for d in self.documents]
        return vectors, sum(len(span) for d in self.documents for span in pipe.spans(d))

    def answer(self, found: tuple[list[np.ndarray], int]) -> Reply:
        """Return the answer."""
        vectors, tokens = found
        data = [
            {"object": "embedding", "index": i, "embedding": self._said(vector)}
            for i, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        made = {"object": "list", "data": data, "model": self.served.name, "usage": usage}
        return Reply(dumps(made).encode())

    def _said(self, vector: np.ndarray) -> Any:
        if self.form == "float":
            return [float(x) for x in vector]
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
