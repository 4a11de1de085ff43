"""Conversations: turns of a user and an assistant, with text, pictures and sound in any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from braid.errors import BraidError
from braid.modalities import Modality, Tokens

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Turn:
    """One part of a conversation, encoded.

    Attributes:
        modality: which strand reads it.
        given: its tokens where something follows.
        final: its tokens where it ends a document.
        learned: the assistant says it.
    """

    modality: str
    given: Tokens
    final: Tokens
    learned: bool


def flatten(messages: Any) -> list[tuple[str, str, Any]]:
    """Return (role, type, raw) of every part of a conversation.

    The format is that of chat interfaces: a list of {"role": "user" or "assistant", "content":
    text, or a list of {"type": "text", "text": ...}, {"type": "image", "image": ...},
    {"type": "audio", "audio": ...}}.

    Raises:
        BraidError: names the message that has another form.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise BraidError(
            'a conversation is a list of {"role": ..., "content": ...}, '
            f"got {type(messages).__name__} {messages!r:.40}"
        )
    out = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise BraidError(
                f"message {number} of a conversation: expected a role out of {', '.join(ROLES)}, "
                f"got {message!r:.60}"
            )
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, Sequence) or not parts:
            raise BraidError(f"message {number} of a conversation is empty; leave it out")
        for part in parts:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if not isinstance(kind, str) or part.get(kind) is None:
                raise BraidError(
                    f"message {number} of a conversation: expected a part such as "
                    f'{{"type": "text", "text": ...}}, got {part!r:.60}'
                )
            out.append((message["role"], kind, part[kind]))
    return out


def turns(messages: Any, modalities: Mapping[str, Modality]) -> list[Turn]:
    """Encode a conversation.

    Raises:
        BraidError: its form is wrong, a type is no modality of the model, or the assistant says
            nothing.
    """
    parts = flatten(messages)
    for _, kind, _ in parts:
        if kind not in modalities:
            raise BraidError(
                f"a conversation holds {kind!r}; the model has {', '.join(modalities)}"
            )
    after = [kind for _, kind, _ in parts[1:]] + [None]
    out = []
    for (role, kind, raw), follows in zip(parts, after, strict=True):
        modality = modalities[kind]
        given = modality.tokenise(raw, follows)
        final = modality.tokenise(raw, None) if modality.closes and follows else given
        out.append(Turn(kind, given, final, role == "assistant" and modality.generated))
    if not any(turn.learned for turn in out):
        raise BraidError("the assistant says nothing in a conversation; there is nothing to learn")
    return out
