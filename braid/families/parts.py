"""Frozen networks of a release: cut out into folders of their own, and put back at export."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from braid import storage
from braid.braid import Braid
from braid.errors import BraidError
from braid.families import tables
from braid.families.checkpoint import Checkpoint
from braid.families.family import (
    Config,
    Family,
    Part,
    Plan,
    Rule,
    Step,
    as_found,
    part_plan,
    patterns,
)
from braid.hub import library
from braid.modalities import codecs
from braid.modalities.codecs import SymbolCodec
from braid.modalities.mixed_text import TABLE

CARRIED = "carried.safetensors"
"""File of a part's folder with the tensors that its network has no use for."""


CODEC = "image-codec"
ENCODER = "vision-encoder"
NAMES = (CODEC, ENCODER)
"""Names of all parts, which are folders beside a converted model."""


@dataclass(frozen=True)
class Cut:
    """A part that lies in a folder.

    Attributes:
        place: the folder, which belongs to whoever asked for it.
        names: released names of all that is in it.
    """

    place: Path
    names: set[str]


def complete(config: Config, name: str) -> dict[str, Any]:
    """Return a config.json with what it leaves out, as a class of transformers fills it in.

    Args:
        config: as released.
        name: the class, such as "LlavaConfig".
    """
    options = {k: v for k, v in config.items() if k not in ("architectures", "auto_map")}
    try:
        return json.loads(getattr(library("transformers"), name)(**options).to_json_string(False))
    except Exception as e:  # a library checks its options with errors of its own
        raise BraidError(f"transformers refuses config.json as {name} ({e}); fetch it again") from e


def below(prefix: str, within: str = "") -> Callable[[Iterable[str]], list[Rule]]:
    """Return rules that put all tensors of a network below a prefix of the release.

    Args:
        prefix: how released names begin.
        within: how the network's names begin instead.
    """
    return lambda names: [Rule(prefix + name.removeprefix(within), name) for name in names]


def codec(
    model: str,
    options: Callable[[Config], Mapping[str, Any]],
    rules: Callable[[Iterable[str]], Sequence[Rule]],
    carried: tuple[str, ...] = (),
) -> Part:
    """Return the part that is an image strand's codec.

    Args:
        model: class of transformers.
        options: its configuration, of config.json.
        rules: see `Part`.
        carried: see `Part`.
    """

    def build(config: Config) -> nn.Module:
        with torch.device("meta"):
            return SymbolCodec(model, dict(options(config)))

    def save(config: Config, tensors: Mapping[str, Tensor], place: Path) -> None:
        made = build(config).to_empty(device="cpu")
        assert isinstance(made, SymbolCodec), "build makes it"
        storage.adopt(made, tensors, model)
        codecs.save(made, place)

    return Part(CODEC, "codec.safetensors", build, save, rules, carried)


def encoder(
    model: str,
    options: Callable[[Config], Mapping[str, Any]],
    rules: Callable[[Iterable[str]], Sequence[Rule]],
    carried: tuple[str, ...] = (),
) -> Part:
    """Return the part that is a vision strand's encoder, as transformers writes its folder.

    Args:
        model: class of transformers.
        options: its configuration, of config.json.
        rules: see `Part`.
        carried: see `Part`.
    """

    def build(config: Config) -> nn.Module:
        made = getattr(library("transformers"), model)
        with torch.device("meta"):
            return made(made.config_class(**options(config)))

    def save(config: Config, tensors: Mapping[str, Tensor], place: Path) -> None:
        place.mkdir(parents=True)
        tree = {**options(config), "architectures": [model]}
        storage.write_json(place / "config.json", tree)
        save_file(dict(tensors), place / "model.safetensors", {"format": "pt"})

    return Part(ENCODER, "model.safetensors", build, save, rules, carried)


def planned(family: Family, part: Part, config: Config, names: Iterable[str]) -> Plan:
    """Return the plan of a part, with released names as they are found."""
    own = list(part.build(config).state_dict())
    return as_found(part_plan(family, part, config, own), family.former, names)


def cut(
    family: Family, config: Config, checkpoint: Checkpoint, pickled: bool = False
) -> dict[str, Cut]:
    """Cut the frozen networks and the tables out of a release, each into a temporary folder.

    Args:
        family: its family.
        config: its config.json.
        checkpoint: its tensors.
        pickled: read tables that are pickles, see `tables.read`.

    Returns:
        name of a part or a table -> its folder, which the caller removes.

    Raises:
        BraidError: a tensor is missing or of another shape, or a file is damaged.
    """
    out: dict[str, Cut] = {}
    try:
        for part in family.parts(config):
            root = Path(tempfile.mkdtemp(prefix="braid-"))
            out[part.name] = Cut(root / part.name, set())
            out[part.name].names.update(_cut(family, part, config, checkpoint, root / part.name))
        for name, stem in family.tables.items():
            table = tables.read(checkpoint.folder, stem, pickled)
            root = Path(tempfile.mkdtemp(prefix="braid-"))
            out[name] = Cut(root / name, set())
            out[name].place.mkdir()
            save_file({"table": table}, out[name].place / TABLE, {"format": "pt"})
    except BaseException:
        remove(out)
        raise
    return out


def remove(cuts: Mapping[str, Cut]) -> None:
    """Remove the folders of parts."""
    for made in cuts.values():
        shutil.rmtree(made.place.parent, ignore_errors=True)


def _cut(
    family: Family, part: Part, config: Config, checkpoint: Checkpoint, place: Path
) -> set[str]:
    """Write one part's folder; return the released names of what is in it."""
    plan = planned(family, part, config, checkpoint.entries)
    where = repr(str(checkpoint.folder))
    plan.check([n for n in checkpoint.entries if n in set(plan.released())], where)
    shapes = {n: tuple(t.shape) for n, t in part.build(config).state_dict().items()}
    check_shapes(plan.steps, checkpoint, shapes)
    tensors: dict[str, Tensor] = {}
    for step in plan.steps:
        read = [checkpoint.read(name) for name in step.released]
        made = step.way.read(read, [shapes[name] for name in step.own])
        tensors |= dict(zip(step.own, made, strict=True))
    part.save(config, tensors, place)
    wanted = patterns(part.carried)
    carried = [n for n in checkpoint.entries if any(p.fullmatch(n) for p in wanted)]
    if carried:
        save_file({n: checkpoint.read(n) for n in carried}, place / CARRIED, {"format": "pt"})
    return {*plan.released(), *carried}


def check_shapes(
    steps: list[Step], checkpoint: Checkpoint, shapes: dict[str, tuple[int, ...]]
) -> None:
    """Run all steps on the meta device, where nothing is read.

    Raises:
        BraidError: released tensors do not give those of these shapes.
    """
    for step in steps:
        given = [checkpoint.entries[name].shape for name in step.released]
        wanted = [shapes[name] for name in step.own]
        try:
            with torch.device("meta"):
                made = step.way.read([torch.empty(shape) for shape in given], wanted)
        except (RuntimeError, IndexError, ValueError):
            made = []
        if [tuple(t.shape) for t in made] != wanted:
            told = ", ".join(map(repr, step.released))
            raise BraidError(
                f"tensor {told} of {str(checkpoint.folder)!r} has shape "
                f"{', '.join(map(str, given))}, which does not give {', '.join(step.own)} of shape "
                f"{', '.join(map(str, wanted))}; config.json belongs to other weights"
            )


def held_tables(family: Family, braid: Braid) -> dict[str, Tensor]:
    """Return the tables of a model under the names of their files, for export."""
    out = {}
    for name, stem in family.tables.items():
        strand, _, option = name.rpartition("-")
        folder = braid.strand(strand).modality.folders()[option]
        out[f"{stem}.safetensors"] = storage.read_tensors(folder / TABLE)["table"]
    return out


def held(
    family: Family, config: Config, braid: Braid, names: Iterable[str]
) -> list[tuple[Plan, dict[str, Tensor], dict[str, Tensor]]]:
    """Return each part's plan, tensors and carried tensors, for export."""
    out = []
    for part in family.parts(config):
        folder = braid.strand(part.strand).modality.folders()[part.option]
        carried = folder / CARRIED
        out.append(
            (
                planned(family, part, config, names),
                storage.read_tensors(folder / part.file),
                storage.read_tensors(carried) if carried.is_file() else {},
            )
        )
    return out
