"""`braid convert` and `braid export` as functions: released models in and out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from braid import loading, storage
from braid.errors import BraidError
from braid.families import FAMILIES, parts, reading, writing
from braid.pipeline import Pipeline


def convert(
    source: str,
    folder: Path,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: Path | None = None,
    pickled_tables: bool = False,
) -> Iterator[str]:
    """Turn a released model into a folder that `braid.load` reads; yields lines about it.

    Args:
        source: a released folder, or a Hub id.
        folder: what to write.
        revision: branch, tag or commit of a Hub id.
        token: of a Hub id that is not public.
        cache_dir: where models of the Hub are kept.
        pickled_tables: read tables of embeddings out of pickles, none of which is run.

    Raises:
        BraidError: the folder holds other files; there is no such model, or no family that it
            belongs to.
    """
    storage.refuse_others(folder, _written())  # before anything is fetched
    storage.writable(folder.parent)
    place = reading.find(
        source, revision=revision, token=token, cache_dir=cache_dir, pickled=pickled_tables
    )
    if place is None:
        raise BraidError(
            f"{source!r} is no released model; give a folder with config.json and safetensors, or "
            "a Hub id such as owner/name"
        )
    released = reading.load(place, pickled=pickled_tables)
    yield from released.notes
    made = Pipeline(released.braid, released.experiment)
    made.save(folder)
    parameters = list(made.braid.parameters())
    count = sum(p.numel() for p in parameters)
    yield (
        f"{released.family.name}: {count / 1e6:.1f} million parameters in "
        f"{str(parameters[0].dtype).removeprefix('torch.')}, rule {made.experiment.rule}, strands "
        f"{', '.join(made.experiment.strands)}"
    )
    yield str(folder)


def _written() -> set[str]:
    """Return all names that the folder of a converted model may have in it."""
    tables = {name for family in FAMILIES.values() for name in family.tables}
    return {"model.safetensors", "experiment.json", "modalities.json", *parts.NAMES, *tables}


def export(source: str, folder: Path) -> str:
    """Write a model that came from a release, trained further or not, in the release's layout.

    Args:
        source: a folder that `convert` wrote, or a run that began with one.
        folder: a new or empty folder.
    """
    writing.export(loading.load(source, "cpu").braid, folder)
    return str(folder)
