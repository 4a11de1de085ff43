"""The model card: what a model is, how to load it, and what is known of its training."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from braid import storage
from braid.config import Experiment

if TYPE_CHECKING:
    from braid.braid import Braid
    from braid.strand import Strand

_MARK = re.compile(r"<!-- braid wrote this card, sha256 ([0-9a-f]{64})\..* -->\n", re.DOTALL)
_NOTE = "Change anything above and the card is yours: braid then leaves it alone."


def write_card(
    braid: Braid,
    experiment: Experiment,
    *,
    name: str,
    license: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Return the text of a card (README.md) with its YAML header.

    Args:
        braid: the model.
        experiment: what it was made from.
        name: where it can be loaded from, such as owner/name.
        license: id of a license as the Hub knows it; left out where None, for the user to choose.
        facts: what is known of the training, see `facts_of`.
    """
    import yaml

    header: dict[str, Any] = {"library_name": "braid", "tags": tags(braid)}
    header |= {"pipeline_tag": tag} if (tag := pipeline_tag(braid)) else {}
    header |= {"license": license} if license else {}
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n",
        f"# {name.split('/')[-1]}\n",
        _described(braid),
        _strands(braid),
        _sizes(braid),
        _loading(braid, name),
        _training(experiment, facts or {}),
    ]
    text = "\n".join(sections)
    return f"{text}\n<!-- braid wrote this card, sha256 {_digest(text)}. {_NOTE} -->\n"


def ours(text: str) -> bool:
    """Return whether a card was written by `write_card` and not changed since."""
    found = list(_MARK.finditer(text))
    if not found or found[-1].end() != len(text):
        return False
    return found[-1][1] == _digest(text[: found[-1].start()].removesuffix("\n"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def facts_of(run: Path, checkpoint: Path | None) -> dict[str, Any]:
    """Return what a run directory tells of its training; nothing of another folder.

    The steps, seconds and tokens of a checkpoint, and the numbers of the run's report.
    """
    facts: dict[str, Any] = {}
    if checkpoint is not None:
        state = storage.read_json(checkpoint / "state.json")
        facts |= {name: state[name] for name in ("step", "seconds", "tokens") if name in state}
    if (run / "report.json").is_file():
        facts["numbers"] = storage.read_json(run / "report.json")
    return facts


def tags(braid: Braid) -> list[str]:
    """Return the tags of the header: the processes, and the kinds of data."""
    processes = {_process(s) for s in braid.strands.values() if s.process is not None}
    fields = {s.modality.field for s in braid.strands.values()}
    return ["braid", *sorted(processes), *sorted(fields - {*processes})]


def pipeline_tag(braid: Braid) -> str | None:
    """Return the Hub's name of what a model does; None where it has none."""
    written = _fields(s for s in braid.strands.values() if s.process is not None)
    read = _fields(braid.strands.values())
    if len(written) > 1:
        return "any-to-any"
    if written == {"text"}:
        return "image-text-to-text" if "image" in read else "text-generation"
    if len(written) == 1 and "text" in read:
        return f"text-to-{next(iter(written))}"
    return "unconditional-image-generation" if written == {"image"} else None


def _fields(strands: Iterable[Strand]) -> set[str]:
    """Return the kinds of data; a label counts as a text, which it stands for."""
    return {"text" if s.modality.field == "label" else s.modality.field for s in strands}


def _process(strand: Strand) -> str:
    """Return the name of a strand's process as the Hub writes tags: discrete-flow."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(strand.process).__name__).lower()


def _described(braid: Braid) -> str:
    written = [n for n, s in braid.strands.items() if s.process is not None]
    only = [n for n, s in braid.strands.items() if s.process is None]
    text = f"One transformer that reads and writes {', '.join(written)}"
    text += f", and reads {', '.join(only)}" if only else ""
    return f"{text}; made with braid.\n"


def _strands(braid: Braid) -> str:
    rows = ["| strand | process | tokens | sampled by |", "|---|---|---|---|"]
    for name, strand in braid.strands.items():
        process = "read only" if strand.process is None else type(strand.process).__name__
        sampler = "-" if strand.sampler is None else type(strand.sampler).__name__
        rows.append(f"| {name} | {process} | {strand.modality.space} | {sampler} |")
    return "\n".join(rows) + f"\n\nWho sees whom: rule `{braid.rule.name}`.\n"


def _sizes(braid: Braid) -> str:
    c = braid.transformer.config
    total = sum(p.numel() for p in braid.parameters())
    inner = sum(p.numel() for p in braid.transformer.parameters())
    precision = str(braid.transformer.norm.weight.dtype).removeprefix("torch.")
    return (
        f"{total:,} parameters, {inner:,} of them in the transformer: width {c.width}, {c.depth} "
        f"layers, {c.heads} heads; {precision}.\n"
    )


def _loading(braid: Braid, name: str) -> str:
    written = [n for n, s in braid.strands.items() if s.process is not None]
    example = f'pipe = braid.load("{name}")\nprint(pipe.braid)'
    if "text" in braid.strands and any(n != "text" for n in written):
        target = next(n for n in written if n != "text")
        example = (
            f'pipe = braid.load("{name}")\n'
            f'made = pipe(["what it shall show", braid.Hole("{target}")], guidance=2.0)[1]'
        )
    elif "text" in written:
        example = (
            f'pipe = braid.load("{name}")\nprint(pipe(["a beginning", braid.Hole("text")])[1])'
        )
    return f"## How to load\n\n```python\nimport braid\n\n{example}\n```\n"


def _training(experiment: Experiment, facts: Mapping[str, Any]) -> str:
    lines = ["## Training\n"]
    if "step" in facts:
        seconds = f" in {facts['seconds'] / 60:.1f} minutes" if "seconds" in facts else ""
        tokens = f", {facts['tokens']:,} tokens" if "tokens" in facts else ""
        lines.append(f"- {facts['step']:,} steps{tokens}{seconds}")
        data, train = experiment.data, experiment.train
        lines += [f"- data: `{n}`, tasks {', '.join(t) or 'none'}" for n, t in data.named.items()]
        lines.append(
            f"- batch {train.batch}, {train.optimizer}, learning rate {train.learning_rate:g}, "
            f"{train.precision}, seed {experiment.seed}"
        )
    else:
        lines.append("Nothing is known here of its training; write what you know.")
    numbers = {k: v for k, v in facts.get("numbers", {}).items() if isinstance(v, int | float)}
    if numbers:
        lines += ["", "| measured by `braid evaluate` | |", "|---|---|"]
        lines += [f"| {name} | {value:.4g} |" for name, value in numbers.items()]
    return "\n".join(lines) + "\n"
