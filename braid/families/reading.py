"""From a released folder to a model, tensor by tensor.

The model is made without numbers in it; names and shapes are checked before any tensor is read,
and no more than one released tensor is held beside the model.
"""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from braid import config as configuration
from braid import hub, storage
from braid.braid import Braid
from braid.config import Experiment
from braid.errors import BraidError, unknown
from braid.families import described, parts
from braid.families.checkpoint import INDEX, Checkpoint
from braid.families.family import Config, Family, Plan, Step, as_found, plan
from braid.modalities import MODALITIES, ReleasedText

SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    INDEX,
)
"""Text files of a released folder that travel with the model and are written back."""

WANTED = (*SMALL, "*.json", "*.safetensors")
"""What is fetched from the Hub: no pickle, no code."""

PICKLED = ("*_embedding.pt",)
"""What is fetched further where a user lets tables of embeddings be unpickled."""

TENSORS = "tensors.json"
"""Among the small files: the released file of each tensor and its type, for export."""


@dataclass(frozen=True)
class Released:
    """A released model, read.

    Attributes:
        braid: the model.
        experiment: what it was made from.
        family: its family.
        notes: what a user should know of the conversion, a line each.
    """

    braid: Braid
    experiment: Experiment
    family: Family
    notes: list[str]


def find(
    place: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    pickled: bool = False,
) -> Path | None:
    """Return the folder of a released model: itself, or a Hub id's in the cache.

    None where nothing looks like one. With `pickled`, pickled tables are fetched as well.

    Raises:
        BraidError: the Hub does not give it.
    """
    if (Path(place) / "config.json").is_file():
        return Path(place)
    # where runs usually lie is no name of the Hub
    if Path(place).exists() or str(place).startswith("runs/") or not hub.named(str(place)):
        return None
    return hub.fetch(
        "model",
        str(place),
        (*WANTED, *PICKLED) if pickled else WANTED,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
    )


def family_of(config: Config, where: str) -> Family:
    """Return the family that a config.json names.

    Raises:
        BraidError: no family answers to its architecture.
    """
    from braid.families import FAMILIES

    known = {name: family for family in FAMILIES.values() for name in family.architectures}
    named = described.option(config, "architectures", [], list)
    for name in named:
        if name in known:
            return known[name]
    if not named:
        raise BraidError(
            f"config.json of {where} names no architectures; expected one of "
            f"{', '.join(sorted(known))}"
        )
    raise unknown("architecture", str(named[0]), known)


def load(folder: Path, dtype: torch.dtype | None = None, pickled: bool = False) -> Released:
    """Read a released folder.

    Args:
        folder: config.json, safetensors, and a tokenizer.json if there is one.
        dtype: precision of the weights; None keeps the released one.
        pickled: read tables of embeddings that are pickles, see `tables.read`.

    Raises:
        BraidError: the architecture or an option of it is unknown; a tensor is missing, unknown or
            of another shape; a file is damaged; there are only pickles.
    """
    files = small_files(folder)
    config = described.read_json(files, "config.json")
    family = family_of(config, repr(str(folder)))
    if "quantization_config" in config:
        raise BraidError(
            f"{str(folder)!r} is quantised (quantization_config in config.json); choose the "
            "release with plain weights"
        )
    checkpoint = Checkpoint(folder)
    files[TENSORS] = json.dumps({n: [e.file, e.dtype] for n, e in checkpoint.entries.items()})
    family.pixels(config, files)  # refuses, before any weights are read
    cuts = parts.cut(family, config, checkpoint, pickled)
    try:
        return _load(folder, family, config, files, checkpoint, cuts, dtype)
    except BaseException:
        parts.remove(cuts)
        raise


def _load(
    folder: Path,
    family: Family,
    config: Config,
    files: dict[str, str],
    checkpoint: Checkpoint,
    cuts: Mapping[str, parts.Cut],
    dtype: torch.dtype | None,
) -> Released:
    """Read a release whose frozen networks are cut out."""
    places = {name: str(cut.place) for name, cut in cuts.items()}
    experiment = family.experiment(config, {**files, **places})
    states = {
        name: {"files": files}
        if issubclass(MODALITIES[strand.modality["kind"]], ReleasedText)
        else configuration.make_modality(name, strand).state()
        for name, strand in experiment.strands.items()
    }
    braid = configuration.build(experiment, states, undrawn=True)
    steps = planned(family, config, braid, checkpoint.entries)
    rest = checkpoint.entries.keys() - {n for cut in cuts.values() for n in cut.names}
    steps.check(rest, repr(str(folder)))
    shapes = {n: tuple(p.shape) for n, p in braid.named_parameters(remove_duplicate=False)}
    present = [s for s in steps.steps if all(n in checkpoint.entries for n in s.released)]
    parts.check_shapes(present, checkpoint, shapes)
    dtype = dtype or checkpoint.dtype(steps.released())
    storage.fill(braid, _tensors(present, checkpoint, shapes, dtype), repr(str(folder)))
    for name, cut in cuts.items():  # modalities read there when they are first used
        modality = braid.strand(name.rpartition("-")[0]).modality
        weakref.finalize(modality, shutil.rmtree, cut.place.parent, ignore_errors=True)
    return Released(braid, experiment, family, _notes(config, files))


def small_files(folder: Path) -> dict[str, str]:
    """Return the text of the small files that are there.

    Raises:
        BraidError: one is no text.
    """
    out = {}
    for path in (folder / name for name in SMALL):
        if path.is_file():
            try:
                out[path.name] = path.read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError) as e:
                raise BraidError(
                    f"{path.name} of {str(folder)!r} cannot be read as UTF-8 ({e}); fetch it again"
                ) from e
    return out


def planned(family: Family, config: Config, braid: Braid, found: Iterable[str]) -> Plan:
    """Return the plan between a release, in which these names are found, and a model."""
    first = {id(p): name for name, p in reversed([*braid.named_parameters(remove_duplicate=False)])}
    names = [name for name, _ in braid.named_parameters(remove_duplicate=False)]
    own = [name for name in names if name in first.values()]
    tied = [name for name in names if name not in own]
    return as_found(plan(family, config, own, tied), family.former, found)


def _tensors(
    steps: list[Step],
    checkpoint: Checkpoint,
    shapes: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the model's tensors, one step's at a time."""
    for step in steps:
        read = [checkpoint.read(name) for name in step.released]
        made = step.way.read(read, [shapes[name] for name in step.own])
        del read
        while made:
            yield step.own[-len(made)], made.pop(0).to(dtype)


def _notes(config: Config, files: dict[str, str]) -> list[str]:
    notes = []
    if "auto_map" in config:
        notes.append("auto_map in config.json is ignored: code of a release is never run")
    if "tokenizer.json" not in files:
        notes.append(
            "there is no tokenizer.json: the model works on symbols, but reads and writes no "
            "text; write one into the released folder with transformers' save_pretrained and "
            "convert again"
        )
    return notes
