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
_EDGE = "\x1f"  # white space that templates cut off with the rest, and never write themselves
_REMNANT = 8  # characters of a mark by which a piece of it is known


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
    # a quote shows whether a template escapes a text, white space whether it cuts it off; an empty
    # text is known to be empty, as many templates ask for that
    marks = [f'braid{secrets.token_hex(8)}"{secrets.token_hex(8)}' for _ in messages]
    told = [
        {"role": role, "content": f"{_EDGE}{mark}{_EDGE}" if text else ""}
        for (role, text), mark in zip(messages, marks, strict=True)
    ]
    context = {"messages": told, "tools": None, "documents": None, "add_generation_prompt": True}
    page = _run(template, context | dict(names))
    texts = dict(zip(marks, (text for _, text in messages), strict=True))
    split = re.compile(f'({_EDGE}?braid[0-9a-f]{{16}}"[0-9a-f]{{16}}{_EDGE}?)')
    known = sorted((s for s in symbols if s), key=len, reverse=True)
    special = re.compile("(" + "|".join(map(re.escape, known)) + ")") if known else None
    out: list[tuple[bool, str]] = []
    for piece in split.split(page):
        if piece.strip(_EDGE) in texts:
            text = texts[piece.strip(_EDGE)]
            text = text if piece.startswith(_EDGE) else text.lstrip()
            _add(out, False, text if piece.endswith(_EDGE) else text.rstrip())
        else:
            _check_whole(piece, marks)
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


def _check_whole(piece: str, marks: Sequence[str]) -> None:
    """Refuse what a template has made of a mark: it would make the same of a text."""
    lower = piece.lower()
    for mark in marks:
        if any(mark[i : i + _REMNANT] in lower for i in range(len(mark) - _REMNANT + 1)):
            raise BraidError(
                "the release's chat template changes the text of a message, which it is run "
                "without; put the prompt together from pieces, see docs/checkpoints.md"
            )


def _add(out: list[tuple[bool, str]], special: bool, text: str) -> None:
    """Add a piece; plain text joins the plain text before it, as a tokenizer reads both at once."""
    if not text:
        return
    if out and not special and not out[-1][0]:
        out[-1] = (False, out[-1][1] + text)
    else:
        out.append((special, text))


def _run(template: str, context: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError, nodes  # torch needs it, too
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Marks what training learns; here it is written as it is."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    if len(template) > _LONGEST:
        raise BraidError(
            f"the chat template has {len(template)} characters, more than {_LONGEST}; it is none"
        )
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = _to_json
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


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON as models were trained with: Jinja's own is meant for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> NoReturn:
    raise BraidError(f"the release's chat template refuses this conversation: {message}")
