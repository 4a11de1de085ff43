"""`POST /v1/chat/completions`: a conversation, whose answer is a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field

from braid.errors import BraidError
from braid.parts import Hole, Parts
from braid.serving.asked import Asked, Given, Reply, Served, dumps, listed, one
from braid.serving.openai import Drawn, accept
from braid.serving.refusals import Refusal, invalid
from braid.serving.wishes import Preview, Written


class Chat(Drawn):
    """The request of `POST /v1/chat/completions`."""

    harmless: ClassVar = {
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "logit_bias": ({},),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "audio": (),
        "top_p": (1,),
    }

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None


@dataclass
class Completion(Asked):
    """An answer in a conversation.

    Attributes:
        usage: a stream ends with how many tokens were used.
        begun: results of which a stream has said something.
    """

    usage: bool = False
    begun: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, body: Mapping[str, Any], served: Served) -> Completion:
        """Read the request of `POST /v1/chat/completions`.

        The conversation's parts become the document in their order, and the answer is a text after
        them; who says what is told by what a model has learned to expect there.
        """
        asked = accept(Chat, body, served)
        options = dict(asked.stream_options or {})
        room = one(
            "max_tokens", asked.max_tokens, "max_completion_tokens", asked.max_completion_tokens
        )
        wish = asked.wish(
            [*_said(asked.messages, served), Hole("text", room)],
            n=asked.n,
            stops=listed(asked.stop),
            stream=asked.stream,
        )
        made = cls(wish, served.name, asked.stream, usage=bool(options.get("include_usage")))
        made.id = f"chatcmpl-{made.id}"
        return made

    def answer(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Reply:
        """Return all answers."""
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": parts[-1]},
                "finish_reason": _reason(parts),
                "logprobs": None,
            }
            for i, parts in enumerate(results)
        ]
        whole = self._head("chat.completion") | {"choices": choices, "usage": dict(usage)}
        return Reply(dumps(whole).encode())

    def piece(self, event: Written | Preview) -> Iterator[str]:
        """Say what has been written."""
        if isinstance(event, Written):
            yield self._chunk([self._choice(event.result, {"content": event.text}, None)])

    def end(self, results: Sequence[Parts], usage: Mapping[str, int]) -> Iterator[str]:
        """Say why each answer ends, and what was used where that was asked for."""
        for i, parts in enumerate(results):
            yield self._chunk([self._choice(i, {}, _reason(parts))])
        if self.usage:
            yield self._chunk([], usage)
        yield "[DONE]"

    def _choice(self, index: int, delta: Mapping[str, Any], reason: str | None) -> dict[str, Any]:
        # clients add up what they are sent: who speaks is said once
        who = {} if index in self.begun else {"role": "assistant"}
        self.begun.add(index)
        return {
            "index": index,
            "delta": {**who, **delta},
            "finish_reason": reason,
            "logprobs": None,
        }

    def _chunk(self, choices: list[Any], usage: Mapping[str, int] | None = None) -> str:
        used = {} if usage is None else {"usage": dict(usage)}
        return dumps(self._head("chat.completion.chunk") | {"choices": choices} | used)

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _said(messages: list[dict[str, Any]], served: Served) -> list[Any]:
    """Return the parts of a conversation."""
    given = Given(served)
    told = [_message(message, number, given) for number, message in enumerate(messages)]
    try:
        return served.pipe.conversation(told)
    except BraidError as e:
        raise invalid(str(e), "messages") from None


def _message(message: Mapping[str, Any], number: int, given: Given) -> dict[str, Any]:
    """Return a message with its parts read, as braid's conversations have them."""
    told = {**message, "role": "system"} if message.get("role") == "developer" else {**message}
    content = message.get("content")
    if isinstance(content, list):
        told["content"] = [
            _part(part, f"messages.{number}.content.{i}", given) for i, part in enumerate(content)
        ]
    return told


def _part(part: Any, at: str, given: Given) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    found = part.get(kind) if isinstance(kind, str) else None
    if kind == "text" and isinstance(found, str):
        return {"type": "text", "text": found}
    if kind == "image_url":
        raw = found.get("url") if isinstance(found, dict) else found
        if isinstance(raw, str):
            name = _reader(given.served, at, "vision", "image")
            return {"type": name, name: given.picture(raw, at)}
    if kind == "input_audio":
        raw = found.get("data") if isinstance(found, dict) else found
        if isinstance(raw, str):
            name = _reader(given.served, at, "audio")
            return {"type": name, name: given.sound(raw, at)}
    raise invalid(
        f"{at}: expected a part of type text, image_url or input_audio with its content, got "
        f"{part!r:.60}",
        at,
    )


def _reader(served: Served, at: str, *names: str) -> str:
    """Return the first of some strands that the model has, or say which part asks for them."""
    try:
        return served.reader(*names)
    except Refusal as e:
        raise invalid(f"{at}: {e.message}", at) from None


def _reason(parts: Parts) -> str:
    return "stop" if parts.closed[-1] else "length"
