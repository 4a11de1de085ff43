"""What requests in the words of OpenAI's interface share; its clients work with this server.

Fields that braid has a use for are honoured, those that ask for something it cannot do are refused
by name, and the rest is left alone, as that interface's servers do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from braid.serving.asked import Foreign, Sampling, Served, parse
from braid.serving.refusals import invalid


class Drawn(Sampling, Foreign):
    """What all of them have.

    Attributes:
        harmless: fields that this server has no use for, and the values that ask for nothing.
    """

    harmless: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str | None = None


D = TypeVar("D", bound=Drawn)


def accept(kind: type[D], body: Mapping[str, Any], served: Served, form: bool = False) -> D:
    """Return a request that asks for nothing that is not there.

    Raises:
        Refusal: it does, or a field of it is wrong.
    """
    for name, harmless in kind.harmless.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            remedy = f" or use {harmless[0]!r}" if harmless else ""
            raise invalid(
                f"{name} {value!r:.60} is nothing this server can do; leave it out{remedy}",
                name,
                "unsupported_parameter",
            )
    asked = parse(kind, body, form)
    served.check_name(asked.model)
    return asked


def words(usage: Mapping[str, int]) -> dict[str, int]:
    """Return the usage in the names that all but the conversations have."""
    return {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
    }
