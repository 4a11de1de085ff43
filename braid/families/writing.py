"""From a model back to the released folder it came from: same files, same names, same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from braid.braid import Braid
from braid.errors import BraidError
from braid.families import described, parts
from braid.families.checkpoint import TYPES
from braid.families.family import Step
from braid.families.reading import TENSORS, family_of, planned
from braid.modalities import ReleasedText
from braid.storage import refuse_others, replacing


def export(braid: Braid, folder: Path) -> None:
    """Write a model in the layout of its family.

    Each tensor goes into the file and has the type it was released in. No more than one file is
    held beside the model.

    Args:
        braid: a model that was read from a release, trained further or not.
        folder: a new or empty folder.

    Raises:
        BraidError: the model comes from no release, or holds what the layout has no place for.
    """
    refuse_others(folder)
    files = _files(braid)
    config = described.read_json(files, "config.json")
    record: dict[str, tuple[str, str]] = json.loads(files[TENSORS])
    family = family_of(config, "the model")
    plan = planned(family, config, braid, record)
    own = {name: p.detach() for name, p in braid.named_parameters(remove_duplicate=False)}
    steps = {name: (step, own) for step in plan.steps for name in step.released}
    carried: dict[str, Tensor] = {}
    for part, tensors, beside in parts.held(family, config, braid, record):
        steps |= {name: (step, tensors) for step in part.steps for name in step.released}
        carried |= beside
    kept = {name: place for name, place in record.items() if name in steps or name in carried}

    def made(name: str) -> Tensor:
        if name in carried:
            return carried[name]
        step, given = steps[name]
        return _typed(_written(step, given)[name], kept[name][1])

    for step in plan.steps:
        if not step.released:
            _written(step, own)  # refuses what would be lost
    with replacing(folder) as temporary:
        for file in dict.fromkeys(file for file, _ in kept.values()):
            mine = [name for name, (its, _) in kept.items() if its == file]
            tensors = {name: made(name) for name in mine}
            save_file(tensors, temporary / file, {"format": "pt"})
        for name, table in parts.held_tables(family, braid).items():
            save_file({"weight": table}, temporary / name, {"format": "pt"})
        for name, text in files.items():
            if name != TENSORS:
                (temporary / name).write_text(text, encoding="utf-8")
        if folder.exists():
            folder.rmdir()  # refuses what was put there meanwhile


def _files(braid: Braid) -> dict[str, str]:
    """Return the small files that came with the release."""
    for strand in braid.strands.values():
        if isinstance(strand.modality, ReleasedText) and TENSORS in strand.modality.files:
            return strand.modality.files
    raise BraidError(
        "this model does not come from a released one, so there is no layout to write; only what "
        "`braid convert` made can be exported"
    )


def _written(step: Step, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the released tensors of a step."""
    try:
        tensors = [own[name] for name in step.own]
        return dict(zip(step.released, step.way.write(tensors), strict=True))
    except BraidError as e:
        raise BraidError(f"{', '.join(step.own)} cannot be exported: {e}") from e


def _typed(tensor: Tensor, dtype: str) -> Tensor:
    # a copy where tied weights share memory, which the format refuses
    return tensor.to(TYPES[dtype], copy=True).contiguous()
