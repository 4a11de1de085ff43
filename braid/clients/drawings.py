"""Folders of drawn pictures, laid out as GenEval and DPG-Bench read them.

GenEval (https://github.com/djghosh13/geneval): a JSONL file of metadata, a line a prompt; pictures
are OUT/00000/samples/00000.png ..., the line beside them in OUT/00000/metadata.jsonl.

DPG-Bench (https://github.com/TencentQQGYLab/ELLA): a folder of prompts, ID.txt each; the pictures
of a prompt are OUT/ID.png, four of them in a square.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from braid import storage
from braid.errors import BraidError, unknown
from braid.parts import Hole
from braid.pipeline import Pipeline
from braid.randomness import derive, signed


@dataclass(frozen=True)
class Prompt:
    """What is to be drawn.

    Attributes:
        name: under which its pictures are written.
        text: the prompt.
        metadata: what travels with it.
    """

    name: str
    text: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """How a benchmark writes prompts, and reads pictures.

    Attributes:
        read: path -> prompts.
        done: (folder, prompt, n) whether its pictures are there.
        write: (folder, prompt, pictures).
        counts: numbers of pictures a prompt that it can read; None is any.
    """

    read: Callable[[Path], list[Prompt]]
    done: Callable[[Path, Prompt, int], bool]
    write: Callable[[Path, Prompt, Sequence[Image.Image]], None]
    counts: tuple[int, ...] | None = None


def draw(
    pipe: Pipeline,
    kind: str,
    prompts: Path,
    out: Path,
    *,
    n: int = 4,
    steps: int | None = None,
    guidance: float = 1.0,
    temperature: float | None = None,
    seed: int = 0,
    rows: int = 64,
    model: str = "",
) -> Iterator[str]:
    """Draw the pictures of a benchmark's prompts; yields a line for each prompt.

    A picture depends on its prompt's name and the seed, on nothing that is drawn with it. Prompts
    whose pictures are there are left out, so that a run that was stopped goes on; OUT.json keeps
    the settings, and a folder of others is refused.

    Args:
        pipe: the model.
        kind: "geneval" or "dpg".
        prompts: GenEval's metadata (JSONL), or DPG-Bench's folder of ID.txt.
        out: the folder to write.
        n: pictures of a prompt; 1 or 4 for DPG-Bench.
        steps: network calls a picture, for samplers that walk in steps.
        guidance: see `Pipeline`.
        temperature: see `Pipeline`.
        seed: of all that is drawn.
        rows: pictures that are drawn together.
        model: its name, for OUT.json.

    Raises:
        BraidError: the prompts cannot be read, the model draws no pictures, or the folder holds
            pictures drawn with other settings.
    """
    if kind not in KINDS:
        raise unknown("benchmark", kind, KINDS)
    bench = KINDS[kind]
    if n < 1 or (bench.counts and n not in bench.counts):
        known = "at least 1" if bench.counts is None else " or ".join(map(str, bench.counts))
        raise BraidError(f"n {n} is out of range; {kind} takes {known} pictures a prompt")
    if rows < 1:
        raise BraidError(f"rows {rows} must be at least 1")
    strands = pipe.braid.strands
    if "image" not in strands or strands["image"].process is None:
        raise BraidError("this model draws no pictures, so it has nothing to show a benchmark")
    wanted = bench.read(prompts)
    settings = {"kind": kind, "model": model, "n": n, "steps": steps, "guidance": guidance}
    settings |= {"temperature": temperature, "seed": seed, "prompts": _named(wanted)}
    settings["dtype"] = str(pipe.braid.transformer.norm.weight.dtype).removeprefix("torch.")
    record = _agree(out, settings)
    left = [p for p in wanted if not bench.done(out, p, n)]
    if len(left) < len(wanted):
        yield f"{len(wanted) - len(left)} of {len(wanted)} prompts are drawn already"
    group = max(1, rows // n)
    for first in range(0, len(left), group):
        chunk = left[first : first + group]
        made = pipe.batch(
            [[p.text, Hole("image")] for p in chunk for _ in range(n)],
            steps=steps,
            guidance=guidance,
            temperature=temperature,
            seeds=[_seed(seed, p.name, j) for p in chunk for j in range(n)],
            rows=rows,
        )
        # not before: what cannot be drawn with these settings would hold the folder to them
        storage.write_json(record, settings)
        for i, prompt in enumerate(chunk):
            bench.write(out, prompt, [parts[-1] for parts in made[i * n : (i + 1) * n]])
            yield f"{prompt.name} {prompt.text}"


def _seed(seed: int, name: str, number: int) -> int:
    return int(derive(torch.tensor([signed(seed)]), "drawing", name, number)[0])


def _named(prompts: Sequence[Prompt]) -> str:
    """Return their number and a digest: pictures are known by names that other prompts share."""
    text = json.dumps([(p.name, p.text) for p in prompts])
    return f"{len(prompts)} of {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise BraidError(f"{str(path)!r} cannot be read as UTF-8 ({e}); save it as that") from e


def _agree(out: Path, settings: dict[str, Any]) -> Path:
    """Return where a folder's settings stand; refuse others than those it was begun with."""
    record = out.with_name(f"{out.name}.json")
    if record.is_file():
        before = {"dtype": "float32"} | storage.read_json(record)
        changed = [k for k in settings if settings[k] != before.get(k)]
        if changed:
            k = changed[0]
            raise BraidError(
                f"{str(out)!r} was begun with {k} {before.get(k)!r}, not {settings[k]!r}; choose "
                "another folder, or remove this one and its .json"
            )
    storage.writable(out)
    return record


def _read_geneval(path: Path) -> list[Prompt]:
    """Read a line of JSON a prompt."""
    if not path.is_file():
        raise BraidError(f"{str(path)!r} is no file; give GenEval's evaluation_metadata.jsonl")
    prompts = []
    lines = _text(path).split("\n")  # other ends of lines may stand within a string of JSON
    for i, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as e:
            raise BraidError(f"{str(path)!r}, line {i + 1}: this is no JSON ({e})") from e
        text = value.get("prompt") if isinstance(value, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise BraidError(
                f"{str(path)!r}, line {i + 1} has no 'prompt' of text; got {line[:80]!r}"
            )
        prompts.append(Prompt(f"{len(prompts):05}", text, value))
    return _some(prompts, path)


def _done_geneval(out: Path, prompt: Prompt, n: int) -> bool:
    samples = out / prompt.name / "samples"
    return all((samples / f"{i:05}.png").is_file() for i in range(n))


def _write_geneval(out: Path, prompt: Prompt, pictures: Sequence[Image.Image]) -> None:
    samples = storage.writable(out / prompt.name / "samples")
    storage.write_json(samples.parent / "metadata.jsonl", prompt.metadata)
    for i, picture in enumerate(pictures):
        _save(picture, samples / f"{i:05}.png")


def _read_dpg(path: Path) -> list[Prompt]:
    """Read a file a prompt."""
    if not path.is_dir():
        raise BraidError(f"{str(path)!r} is no folder; give DPG-Bench's folder of prompts, ID.txt")
    prompts = []
    for file in sorted(path.glob("*.txt")):
        text = " ".join(_text(file).split())
        if not text:
            raise BraidError(f"{str(file)!r} is empty; every prompt needs a text")
        prompts.append(Prompt(file.stem, text, {}))
    return _some(prompts, path)


def _done_dpg(out: Path, prompt: Prompt, n: int) -> bool:
    return (out / f"{prompt.name}.png").is_file()


def _write_dpg(out: Path, prompt: Prompt, pictures: Sequence[Image.Image]) -> None:
    """Lay the pictures out in a square, row by row."""
    side, (width, height) = math.isqrt(len(pictures)), pictures[0].size
    square = Image.new("RGB", (side * width, side * height))
    for i, picture in enumerate(pictures):
        square.paste(picture.convert("RGB"), (i % side * width, i // side * height))
    _save(square, out / f"{prompt.name}.png")


def _some(prompts: list[Prompt], path: Path) -> list[Prompt]:
    if not prompts:
        raise BraidError(f"{str(path)!r} holds no prompts")
    return prompts


def _save(picture: Image.Image, path: Path) -> None:
    """Write a picture so that a file of its name is always whole."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        picture.convert("RGB").save(unfinished, "PNG")
        unfinished.replace(path)
    except OSError as e:
        raise BraidError(f"cannot write {str(path)!r} ({e}); free some space") from e


KINDS = {
    "geneval": Kind(_read_geneval, _done_geneval, _write_geneval),
    "dpg": Kind(_read_dpg, _done_dpg, _write_dpg, counts=(1, 4)),
}
"""Benchmarks of drawing."""
