"""The commands of codecs as functions: `braid codec train ...` is `codec_commands.train(...)`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from braid import storage
from braid.codec_config import CodecExperiment, Reading
from braid.errors import BraidError
from braid.settings import load_as, override

Numbers = dict[str, float | int | str | None]


def train(
    recipe: str, settings: Sequence[str] = (), out: Path | None = None, device: str | None = None
) -> Path:
    """Train a codec and measure it on held-out data; returns its folder.

    Args:
        recipe: a codec recipe's name, or an experiment in YAML or JSON.
        settings: `key.path=value` overrides.
        out: folder of the codec; codecs/NAME where it is None.
        device: where to train; the accelerator if there is one.
    """
    from braid import parallel
    from braid.data.rows import require
    from braid.modalities import codecs
    from braid.recipes.codecs import resolve_codec
    from braid.training.codecs import train_codec

    parallel.alone("training a codec")
    experiment = resolve_codec(recipe, settings)
    if experiment.make().medium == "image":
        require("torchmetrics", "eval")  # what is missing is found before the training, not after
    out = Path("codecs") / experiment.name if out is None else out
    if (out / "codec.json").exists():
        raise BraidError(f"{str(out)!r} holds a codec that models may use; choose another folder")
    storage.refuse_others(out)
    console = Console()
    codec = train_codec(experiment, out, console, device)
    codec.card["metrics"] = _measure(codec, experiment)
    codecs.save(codec, out)
    _show(codec.card["metrics"], console)
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)
    return out


def evaluate(
    name: str, data: str | None = None, size: float | None = None, limit: int = 1000
) -> Numbers:
    """Measure a codec on held-out data: its own, or any that data.path takes.

    Raises:
        BraidError: the codec was not trained here and neither data nor size is given.
    """
    from braid.data import open_source
    from braid.evaluation.codecs import evaluate_codec
    from braid.modalities import codecs

    _within(size, limit)
    codec = codecs.load(name)
    recipe = codec.card.get("recipe")
    if recipe is None and (data is None or size is None):
        raise BraidError(
            f"codec {name!r} does not say what it was trained on; give --data and --size"
        )
    experiment = None if recipe is None else load_as(CodecExperiment, recipe)
    if experiment is not None and data is None:
        asked = {} if size is None else {"size": size}
        return _measure(codec, experiment.model_copy(update=asked), limit)
    assert data is not None, "refused above"
    side = size if size is not None else experiment.size if experiment is not None else 0
    columns = None if experiment is None else experiment.data.columns
    return dict(evaluate_codec(codec, open_source(data, columns), side, limit))


def _measure(codec: object, experiment: CodecExperiment, limit: int = 1000) -> Numbers:
    """Measure on the held-out data of a codec's experiment, of each source of a mixture."""
    from braid.data import open_data
    from braid.evaluation.codecs import evaluate_codec
    from braid.modalities.codecs import Codec

    assert isinstance(codec, Codec), "made by codecs.load"
    data = open_data(experiment.data, experiment.seed)
    parts = {n: d.held_out for n, d in data.parts.items()} or {"": data.held_out}
    out: Numbers = {}
    for name, source in parts.items():
        numbers = evaluate_codec(codec, source, experiment.size, limit)
        out |= {f"{name}_{k}" if name else k: v for k, v in numbers.items()}
    return out


def encode(
    name: str,
    data: str,
    out: Path,
    size: int = 32,
    limit: int | None = None,
    settings: Sequence[str] = (),
) -> Path:
    """Encode the media of a data set once; the folder is data that training reads.

    Args:
        name: a codec.
        data: any form that data.path takes, or "scenes".
        out: folder of the cache.
        size: side of the pictures in pixels.
        limit: encode only so many rows.
        settings: which columns and split are read, as `columns={image: photo}` and `split=train`.
    """
    from braid import parallel
    from braid.data.cache import FILES, write
    from braid.data.open import BUILT_IN
    from braid.data.sources import open_source
    from braid.modalities import codecs

    parallel.alone("encoding data")
    _within(size, limit)
    storage.writable(out.parent)
    storage.refuse_others(out, FILES)
    if data in BUILT_IN and settings:
        raise BraidError(
            f"built-in data {data!r} has neither columns nor splits to choose; leave out "
            f"{settings[0]!r}"
        )
    read = override(Reading(), settings)
    source = (
        BUILT_IN[data](0).train if data in BUILT_IN else open_source(data, read.columns, read.split)
    )
    return write(codecs.load(name), source, out, size, limit, Console())


def _within(size: float | None, limit: int | None) -> None:
    if size is not None and not 0 < size < math.inf:
        raise BraidError(f"size {size} is out of range; give pixels or seconds above 0")
    if limit is not None and limit < 1:
        raise BraidError(f"limit {limit} must be at least 1; leave it out for all rows")


def known() -> dict[str, str]:
    """Return name -> one line about every codec recipe and every codec that is at hand."""
    import inspect

    from braid.modalities.codecs.folder import ASSETS, card_of
    from braid.recipes.codecs import CODEC_RECIPES

    out = {
        name: f"recipe: {(inspect.getdoc(f) or '').splitlines()[0]}"
        for name, f in CODEC_RECIPES.items()
    }
    found = [(p.parent.relative_to(ASSETS), p.parent) for p in ASSETS.rglob("codec.json")]
    found += [(p.parent, p.parent) for p in Path("codecs").glob("*/codec.json")]
    for name, folder in sorted(found, key=str):
        header = card_of(folder)
        kind = header["config"].get("quantiser", header["config"].get("class", ""))
        out[str(name)] = f"codec {header['fingerprint']}: {header['kind']} {kind}"
    return out


def show() -> None:
    """Print the known codecs."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, text in known().items():
        table.add_row(f"[bold]{name}[/bold]", text)
    Console().print(table)


def _show(numbers: Numbers, console: Console) -> None:
    from braid.commands import print_numbers

    print_numbers(numbers, console)  # type: ignore[arg-type]
