"""From a folder, a name or a Hub id to a pipeline."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from braid import (
    adapting,
    checkpoints,
    compiling,
    config,
    lazy_torch,
    quantisation,
    settings,
    storage,
)
from braid.braid import Braid
from braid.config import Experiment
from braid.device import choose
from braid.errors import BraidError
from braid.pipeline import Pipeline

ASSETS = Path(__file__).parent / "assets"
"""Models that come with the package."""


def find(path: str | Path) -> Path:
    """Return the folder of a model: a path, or the name of one that comes with the package."""
    if folder := _local(path):
        return folder
    if Path(path).is_dir():
        raise BraidError(
            f"{str(path)!r} holds no experiment.json; it is no run directory and no saved model"
        )
    built_in = sorted(p.parent.name for p in ASSETS.glob("*/experiment.json"))
    raise BraidError(
        f"{str(path)!r} does not exist; give a run directory or a saved model, or one that comes "
        f"with the package: {', '.join(built_in) or 'none'}"
    )


def _local(path: str | Path) -> Path | None:
    places = (Path(path), ASSETS / path)
    return next((f for f in places if (f / "experiment.json").is_file()), None)


def load(
    path: str | Path,
    device: str | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    quantise: str | None = None,
    offload: bool = False,
    compile: bool | str = False,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Pipeline:
    """Load a run directory, a folder that `Pipeline.save` wrote, or a released model.

    Only safetensors and JSON are read. A run directory gives the averaged weights of its newest
    sound checkpoint. A released model is of a family in docs/checkpoints.md. Each of them but a run
    may also be a Hub id, owner/name.

    Args:
        path: a folder, the name of a model that comes with the package, or a Hub id.
        device: where it runs; None is this machine's accelerator if it has one.
        dtype: precision of the weights, such as "bfloat16"; None keeps that of the files.
        quantise: "int8" holds the weights of linear layers in 8 bits; None all of them as they are.
        offload: keep the transformer's blocks in the host's memory; each visits the device while
            it computes.
        compile: compile the blocks ("blocks", or True) when they are first called, or the whole
            transformer with its weights as constants ("frozen"); for many calls, as the first take
            tens of seconds, frozen minutes.
        revision: branch, tag or commit of a Hub id.
        token: of a Hub id that is not public.
        cache_dir: where models of the Hub are kept.
        local_files_only: take what is cached of a Hub id, and ask no network.
    """
    where, precision = choose(device), quantisation.dtype_of(dtype)
    quantisation.check(quantise)
    compiled = compiling.choose(compile)
    if compiled is not None:
        if offload:
            raise BraidError("blocks that come and go cannot be compiled; drop offload or compile")
        if compiled == "frozen" and quantise is not None:
            raise BraidError(
                f"weights that are constants would be unfolded from {quantise} again; drop "
                'quantise, or use compile="blocks"'
            )
        compiling.check(where)
    folder = _local(path)
    if revision is not None and (folder is not None or Path(path).exists()):
        raise BraidError(
            f"revision {revision!r} is of a Hub id, owner/name; {str(path)!r} is a model here: "
            "leave it out"
        )
    if folder is None:
        from braid.families import reading

        folder = reading.find(
            path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        folder = find(path) if folder is None else folder  # says what is wrong
    if not (folder / "experiment.json").is_file():
        from braid.families import reading

        lazy_torch.complete()  # other libraries' models are made on the meta device
        released = reading.load(folder, precision)
        laid = quantisation.lay_out(released.braid, where, None, quantise, offload)
        return _pipeline(laid, released.experiment, folder, compiled)
    experiment = settings.load_run(folder)
    states = storage.read_json(folder / "modalities.json")
    weights, newest = folder / "model.safetensors", None
    braid = config.build(experiment, states, undrawn=weights.is_file())
    if weights.is_file():
        storage.fill(braid, storage.read_each(weights), str(weights))
    else:
        if experiment.train.lora is not None:
            adapting.prepare(braid, experiment.train)
        newest = _newest(folder, ("model", "ema") if experiment.train.ema else ("model",))
        tensors = checkpoints.read(newest, "model")
        if experiment.train.ema:
            tensors |= checkpoints.read(newest, "ema")
            first = {p: n for n, p in braid.named_parameters()}  # tied weights are averaged once
            for name, p in braid.named_parameters(remove_duplicate=False):
                if first[p] in tensors:
                    tensors[name] = tensors[first[p]]
        storage.adopt(braid, tensors, str(newest))
        adapting.merge(braid)
    laid = quantisation.lay_out(braid, where, precision, quantise, offload)
    return _pipeline(laid, experiment, folder, compiled, newest)


def _pipeline(
    braid: Braid,
    experiment: Experiment,
    folder: Path,
    compiled: str | None,
    checkpoint: Path | None = None,
) -> Pipeline:
    if compiled is not None:
        compiling.KINDS[compiled](braid)
    return Pipeline(braid, experiment, folder, checkpoint)


def _newest(run: Path, groups: Sequence[str]) -> Path:
    """Return the newest checkpoint of a run in which these tensors are sound."""
    passed: list[str] = []
    found = checkpoints.newest(run / "checkpoints", groups, passed.append)
    if found is not None:
        for text in passed:
            warnings.warn(text, stacklevel=3)
        return found
    if passed:
        raise BraidError(
            f"{str(run)!r} has no sound checkpoint; put back a copy of one: {'; '.join(passed)}"
        )
    raise BraidError(f"{str(run)!r} holds no checkpoint yet; train it first with the same command")
