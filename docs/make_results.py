"""Write docs/results.md from docs/results/*.json, and take the numbers of a run into a new file.

python docs/make_results.py
python docs/make_results.py add RUN --name scenes-fudoki --machine "2 CPU cores" --panel TITLE

A file of a run is {"recipe", "paradigm", "seed", "machine", "minutes", "train_steps",
"train_tokens", "parameters", "versions", "date", "numbers": {name: number}}; what is not known is
null. An interval stands under NAME_low and NAME_high, a remark under NAME_note. A codec's file has
"codec" instead of "paradigm". What `braid compare` writes, {"paradigms": {name: numbers}}, is read
too. Panels of the run's report are copied to docs/images/NAME.png, NAME+2.png, ... and shown below
the table.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count, takewhile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
IMAGES = ROOT / "docs" / "images"
PAGE = ROOT / "docs" / "results.md"
ORDER = ("codecs", "scenes", "speech", "emoji", "cifar10", "digits", "mini")
"""Recipes in the order of the page; others follow by name."""

FACTS = {
    "seed": "seed",
    "machine": "machine",
    "minutes": "minutes of training",
    "train_steps": "steps",
    "train_tokens": "tokens seen",
    "optimizer": "optimizer",
    "learning_rate": "learning rate",
    "parameters": "parameters",
    "versions": "versions",
    "date": "measured",
}
"""What is told of a run before its numbers."""

TOLD = ("train_steps", "train_tokens", "optimizer", "learning_rate", "parameters")
"""Facts that a report has under the same name."""

NOT_NUMBERS = (
    "experiment",
    "rule",
    "strands",
    "evaluation",
    "train_seconds",
    "train_flops",
    *FACTS,
)
"""Keys of a report that are no measurements, or are told as facts."""

HEAD = """# Results

Written by `python docs/make_results.py` from [docs/results](results); not by hand.

One column is one training run. In brackets stands the 95 % bootstrap interval over the items that
were measured: another training seed moves a number too, and no interval says by how much. `<=` is
an upper bound of a likelihood, not to be compared with an exact one. A dash is a number that the
run does not have. Runs that name no optimizer were trained with AdamW.
"""

Entry = dict[str, Any]
"""A file of a run."""


def page(folder: Path = RESULTS) -> str:
    """Return the page of all files of a folder."""
    recipes: dict[str, list[Entry]] = {}
    for path in sorted(folder.glob("*.json")):
        for entry in entries(path):
            recipes.setdefault(entry["recipe"], []).append(entry)
    order = sorted(recipes, key=lambda r: (ORDER.index(r) if r in ORDER else len(ORDER), r))
    return "\n".join([HEAD, *(section(recipe, recipes[recipe]) for recipe in order)])


def entries(path: Path) -> list[Entry]:
    """Return the runs of a file: one, or the paradigms of a comparison."""
    told = json.loads(path.read_text(encoding="utf-8"))
    if "paradigms" in told:
        return [
            {**of_report(numbers), "paradigm": paradigm, "file": path.stem}
            for paradigm, numbers in told["paradigms"].items()
        ]
    missing = [key for key in ("recipe", "seed", "machine", "numbers") if key not in told]
    if missing or not told.keys() & {"paradigm", "codec"}:
        raise ValueError(
            f"{path.name} lacks {', '.join(missing) or 'a paradigm or codec'}; make it with "
            "python docs/make_results.py add RUN"
        )
    return [{**told, "file": path.stem}]


def of_report(report: Mapping[str, Any]) -> Entry:
    """Return the facts and the plain numbers of a report.json."""
    machine, seconds = report["machine"], report.get("train_seconds")
    return {
        "recipe": report["experiment"],
        "paradigm": None,
        "seed": report["seed"],
        "machine": f"{machine['processors']} processors, {machine['platform']}",
        "minutes": None if seconds is None else round(seconds / 60, 1),
        **{key: report.get(key) for key in TOLD},
        "versions": report["versions"],
        "numbers": {k: v for k, v in report.items() if k not in NOT_NUMBERS},
    }


def section(recipe: str, runs: Sequence[Entry]) -> str:
    """Return a heading, a table with a column a run, and the remarks on its numbers."""
    titles = [run.get("paradigm") or run.get("codec") or run["file"] for run in runs]
    heads = [
        f"`{title}`" if titles.count(title) == 1 else f"`{title}` ({run['file']})"
        for title, run in zip(titles, runs, strict=True)
    ]
    lines = [f"## {recipe}", "", *shared(runs), row("", heads), "|---" * (len(runs) + 1) + "|"]
    for key, title in FACTS.items():
        cells = [fact(run.get(key)) for run in runs]
        if len(set(cells)) > 1:
            lines.append(row(title, cells))
    names = dict.fromkeys(name for run in runs for name in run["numbers"] if is_shown(name))
    lines += [row(f"`{name}`", [cell(run["numbers"], name) for run in runs]) for name in names]
    blocks = [lines, remarks(runs, heads), pictures(runs, heads)]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def pictures(runs: Sequence[Entry], heads: Sequence[str]) -> list[str]:
    """Return the panels of the runs that have one in docs/images."""
    lines = []
    for run, head in zip(runs, heads, strict=True):
        there = takewhile(Path.is_file, images_of(run["file"]))
        shown = [f"![{image.stem}](images/{image.name})\n" for image in there]
        lines += [f"{head}:\n", *shown] if shown else []
    return lines


def shared(runs: Sequence[Entry]) -> list[str]:
    """Return a line of what all runs have in common."""
    same = {title: {fact(run.get(key)) for run in runs} for key, title in FACTS.items()}
    told = [f"{title}: {min(v)}" for title, v in same.items() if len(v) == 1 and v != {"-"}]
    if not told:
        return []
    return [("All runs: " if len(runs) > 1 else "") + "; ".join(told) + ".", ""]


def is_shown(name: str) -> bool:
    """Return whether a number has a row of its own."""
    return not name.endswith(("_low", "_high", "_note", "_likelihood"))


def row(title: str, cells: Sequence[str]) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(text.replace("|", "\\|") for text in (title, *cells)) + " |"


def fact(value: object) -> str:
    """Return something told of a run."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)


def cell(numbers: Mapping[str, Any], name: str) -> str:
    """Return a number with its interval; a bound is marked as one."""
    value = numbers.get(name)
    if isinstance(value, str) or value is None:
        return value or "-"
    shown = plain(value)
    low, high = (numbers.get(f"{name}_{end}") for end in ("low", "high"))
    if low is not None and high is not None:
        shown += f" [{plain(low)}, {plain(high)}]"
    stem = re.split("_nats|_bits_per_", name)[0]
    return f"<= {shown}" if stem != name and numbers.get(f"{stem}_likelihood") == "bound" else shown


def plain(value: float) -> str:
    """Return a number with about three digits; whole numbers with all of them."""
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if size < 0.1:
        return f"{value:.3g}"
    return f"{value:.3f}" if size < 10 else f"{value:,.1f}"


def remarks(runs: Sequence[Entry], heads: Sequence[str]) -> list[str]:
    """Return each remark on a number once, with the runs that it is about."""
    about: dict[tuple[str, str], list[str]] = {}
    for run, head in zip(runs, heads, strict=True):
        for name, value in run["numbers"].items():
            if name.endswith("_note") and value:
                about.setdefault((name.removesuffix("_note"), str(value)), []).append(head)
    return [
        f"- `{name}`" + ("" if len(named) == len(runs) else f" of {', '.join(named)}") + f": {text}"
        for (name, text), named in about.items()
    ]


def add(
    run: Path,
    name: str,
    machine: str | None = None,
    paradigm: str | None = None,
    folder: Path = RESULTS,
    panels: Sequence[str] = (),
) -> Path:
    """Write FOLDER/NAME.json from an evaluated run or a codec's folder; return its path.

    Args:
        run: folder with experiment.json and report.json, or with codec.json.
        name: of the file, such as "scenes-fudoki".
        machine: what it was trained on; otherwise what the report says it was measured on.
        paradigm: of the run; otherwise the one whose processes and rule the experiment has.
        folder: where results lie.
        panels: titles of the panels of the report that are shown on the page.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise ValueError(f"--name {name!r}: use lower case letters, digits, '-', '_' and '.'")
    if (run / "codec.json").is_file():
        source = run / "codec.json"
        entry = of_codec(run)
    elif (run / "experiment.json").is_file() and (run / "report.json").is_file():
        source = run / "report.json"
        experiment = json.loads((run / "experiment.json").read_text(encoding="utf-8"))
        entry = of_report(json.loads(source.read_text(encoding="utf-8")))
        entry["paradigm"] = paradigm or paradigm_of(experiment)
    else:
        raise ValueError(
            f"{str(run)!r} is no evaluated run and no codec; run `braid evaluate {run}` first"
        )
    entry["machine"] = machine or entry["machine"]
    # the file's own date: the report does not hold one
    entry["date"] = datetime.fromtimestamp(source.stat().st_mtime, UTC).date().isoformat()
    entry["numbers"] = entry.pop("numbers")  # last in the file
    sheets = [sheet_of(run, panel) for panel in panels]
    if sheets:
        for old in takewhile(Path.is_file, images_of(name)):
            old.unlink()
    for sheet, image in zip(sheets, images_of(name), strict=False):
        shutil.copyfile(sheet, image)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(entry, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def images_of(name: str) -> Iterator[Path]:
    """Yield the places of a run's panels: NAME.png, NAME+2.png and so on."""
    return (IMAGES / f"{name}{f'+{i}' if i > 1 else ''}.png" for i in count(1))


def sheet_of(run: Path, panel: str) -> Path:
    """Return the file of a panel of an evaluated run."""
    from braid.evaluation.sheets import file_name

    path = run / "panels" / f"{file_name(panel)}.png"
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.png"))
        raise ValueError(f"{str(run)!r} shows no panel {panel!r}; it has {', '.join(there) or '-'}")
    return path


def of_codec(folder: Path) -> Entry:
    """Return the facts and numbers that a codec's card holds."""
    from braid.modalities import codecs

    header = codecs.card_of(folder)
    card = header.get("card", {})
    if "metrics" not in card or "recipe" not in card:
        raise ValueError(
            f"{str(folder)!r} holds no measured codec; train it with `braid codec train`"
        )
    quantiser = header["config"].get("quantiser", header["kind"])
    return {
        "recipe": "codecs",
        "codec": f"{card['recipe']['name']} {quantiser}",
        "seed": card["recipe"]["seed"],
        "machine": None,
        "minutes": round(card["seconds"] / 60, 1),
        "train_steps": card["steps"],
        "optimizer": card["recipe"]["train"].get("optimizer"),
        "learning_rate": card["recipe"]["train"]["learning_rate"],
        "parameters": sum(p.numel() for p in codecs.shell(folder).parameters()),
        "fingerprint": header["fingerprint"],
        "numbers": card["metrics"],
    }


def paradigm_of(experiment: Mapping[str, Any]) -> str:
    """Return the paradigm with the processes and the rule of an experiment.

    A recipe may set further options of a process.
    """
    from braid import paradigms
    from braid.config import describe
    from braid.processes import PROCESSES

    found: dict[bool, list[str]] = {True: [], False: []}
    told = {name: strand["process"] for name, strand in experiment["strands"].items()}
    for name in paradigms.PARADIGMS:
        p = paradigms.with_sound(name)
        if p.rule != experiment["rule"] or not told.keys() <= p.processes.keys():
            continue
        own = {
            s: None if (process := p.processes[s]) is None else describe(PROCESSES, process)
            for s in told
        }
        if all((own[s] is None) == (told[s] is None) for s in told) and all(
            (own[s] or {}).items() <= (told[s] or {}).items() for s in told
        ):
            found[own == told].append(name)
    names = found[True] or found[False]
    if len(names) != 1:
        raise ValueError(
            f"the experiment {experiment['name']!r} has the processes of "
            f"{', '.join(names) or 'no paradigm'}; name its paradigm with --paradigm"
        )
    return names[0]


def main(arguments: Sequence[str] | None = None) -> None:
    """Add a result, if asked to, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command")
    adding = commands.add_parser("add", help="take the numbers of a run or a codec")
    adding.add_argument("run", type=Path)
    adding.add_argument("--name", required=True, help="of the file, such as scenes-fudoki")
    adding.add_argument("--machine", help="what it was trained on, such as '2 CPU cores'")
    adding.add_argument("--paradigm", help="of the run, where its processes do not tell it")
    adding.add_argument(
        "--panel", action="append", default=[], help="title of a panel to show on the page; again"
    )
    given = parser.parse_args(arguments)
    try:
        if given.command == "add":
            made = add(given.run, given.name, given.machine, given.paradigm, panels=given.panel)
            print(f"wrote {made}")
        PAGE.write_text(page(), encoding="utf-8")
    except ValueError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
