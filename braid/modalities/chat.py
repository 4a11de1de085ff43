"""A conversation in the format that a released model was trained with: its own chat template.

Templates are Jinja and belong to the release. They are run in Jinja's sandbox, and never see what
people wrote: each text is put in afterwards, as plain characters, so that no text can open a turn.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from braid.errors import BraidError

_LONGEST = 200_000  # characters of a template


def find_template(files: Mapping[str, str]) -> str | None:
    """Return the chat template among a release's small files, or None."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"]
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = _tree(files, name).get("chat_template")
        if isinstance(found, list):  # several by their names
            named = {t.get("name"): t.get("template") for t in found if isinstance(t, Mapping)}
            found = named.get("default")
        if isinstance(found, str):
            return found
    return None


def render(
    template: str,
    messages: Sequence[tuple[str, str]],
    names: Mapping[str, str],
    symbols: Sequence[str],
) -> list[tuple[bool, str]]:
    """Return the pieces of a conversation that ends where the assistant is to go on.

    Args:
        template: in Jinja.
        messages: role and text of each.
        names: special symbols under the names that a template has for them, as "eos_token".
        symbols: names of all special symbols.

    Returns:
        (whether it is a special symbol, text) of each piece; no two neighbours are plain text.

    Raises:
        BraidError: the template cannot be run, or refuses the conversation.
    """
    marks = [f"braid{secrets.token_hex(16)}" for _ in messages]
    # with spaces around it, a mark shows whether a template cuts off those of a text
    told = [
        {"role": role, "content": f" {mark} "}
        for (role, _), mark in zip(messages, marks, strict=True)
    ]
    page = _run(template, {"messages": told, "add_generation_prompt": True, **names})
    texts = dict(zip(marks, (text for _, text in messages), strict=True))
    split = re.compile("( ?braid[0-9a-f]{32} ?)")
    known = sorted((s for s in symbols if s), key=len, reverse=True)
    special = re.compile("(" + "|".join(map(re.escape, known)) + ")") if known else None
    out: list[tuple[bool, str]] = []
    for piece in split.split(page):
        if piece.strip() in texts:
            text = texts[piece.strip()]
            text = text if piece.startswith(" ") else text.lstrip()
            _add(out, False, text if piece.endswith(" ") else text.rstrip())
        else:
            for i, part in enumerate(special.split(piece) if special else [piece]):
                _add(out, i % 2 == 1, part)
    return out


def special_names(files: Mapping[str, str]) -> dict[str, str]:
    """Return the special symbols that a template may ask for by name."""
    tree = _tree(files, "tokenizer_config.json")
    found = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = tree.get(name)
        value = value.get("content") if isinstance(value, Mapping) else value
        if isinstance(value, str):
            found[name] = value
    return found


def _tree(files: Mapping[str, str], name: str) -> dict[str, Any]:
    try:
        tree = json.loads(files.get(name, "{}"))
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _add(out: list[tuple[bool, str]], special: bool, text: str) -> None:
    """Add a piece; plain text joins the plain text before it, as a tokenizer reads both at once."""
    if not text:
        return
    if out and not special and not out[-1][0]:
        out[-1] = (False, out[-1][1] + text)
    else:
        out.append((special, text))


def _run(template: str, context: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError  # torch needs it, too
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if len(template) > _LONGEST:
        raise BraidError(
            f"the chat template has {len(template)} characters, more than {_LONGEST}; it is none"
        )
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template).render(**context)
    except BraidError:
        raise
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as e:
        raise BraidError(
            f"the release's chat template cannot be run: {e}; put the prompt together from pieces, "
            "see docs/checkpoints.md"
        ) from e


def _refuse(message: str) -> NoReturn:
    raise BraidError(f"the release's chat template refuses this conversation: {message}")
