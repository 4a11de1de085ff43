"""From next-token prediction to flows, as FUDOKI was made from Janus (arXiv:2505.20147)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from braid.config import Experiment, Options, StrandConfig, TrainConfig, make_process
from braid.errors import BraidError
from braid.loading import find
from braid.processes import PROCESSES
from braid.settings import load_run, override


def adapt_ar(model: str, settings: Sequence[str] = ()) -> Experiment:
    """A next-token model (model=DIR) goes on under another process: discrete flow, or as you say.

    Strands that are generated token by token become discrete flows, or what
    `strands.NAME.process=...` says. A prediction stays where it was trained to be read (the shift
    is kept), and every token sees every other one (rule "full") where no process forbids it. All
    else is the model's own, its data too, unless `settings` say otherwise.

    Args:
        model: a run, or a folder that `braid convert` or `Pipeline.save` wrote.
        settings: `key.path=value`.

    Raises:
        BraidError: there is no such model, nothing in it is generated token by token, or all of it
            still is.
    """
    source = load_run(_folder(model))
    causal = [name for name, strand in source.strands.items() if _causal(strand)]
    if not causal:
        raise BraidError(
            f"model {model!r} has no strand that is generated token by token, so there is nothing "
            "to adapt; to train it further give another recipe train.start"
        )
    base = source.model_copy(
        update={
            "name": f"{source.name}-adapted",
            "strands": {
                name: _exchanged(strand) if name in causal else strand
                for name, strand in source.strands.items()
            },
            "train": TrainConfig(
                steps=2000, learning_rate=3e-4, warmup=100, batch=source.train.batch, start=model
            ),
        }
    )
    made = override(base, settings)
    if all(_causal(made.strands[name]) for name in causal if name in made.strands):
        raise BraidError(
            f"strands {', '.join(causal)} would still be generated token by token; set a process "
            f"for one of them, as strands.{causal[0]}.process=discrete_flow"
        )
    strands = {
        name: _kept(strand, source.strands[name], f"strands.{name}", settings)
        if name in causal
        else strand
        for name, strand in made.strands.items()
    }
    opened = made.rule if _given("rule", settings) else _rule(strands, source.rule)
    return made.model_copy(update={"strands": strands, "rule": opened})


def _folder(model: str) -> Path:
    if (Path(model) / "config.json").is_file():
        raise BraidError(
            f"{model!r} is a released model; convert it first: braid convert {model} DIR, then "
            "model=DIR"
        )
    return find(model)


def _causal(strand: StrandConfig) -> bool:
    process = make_process(strand)
    return process is not None and process.causal


def _exchanged(strand: StrandConfig) -> StrandConfig:
    """Return a strand under a discrete flow from masks, with the sampler that suits it.

    From masks what was learned helps more than from uniform noise (docs/adaptation.md).
    """
    process = {"kind": "discrete_flow", "path": "mask"}
    return strand.model_copy(update={"process": process, "sampler": None})


def _kept(
    strand: StrandConfig, before: StrandConfig, path: str, settings: Sequence[str]
) -> StrandConfig:
    """Keep what a strand was before: where its predictions are read, and its sampler if it suits.

    Its head has weights of its own where the process adds a mask to the table it was tied to.
    """
    old, new = make_process(before), make_process(strand)
    assert old is not None, "a causal strand has a process"
    if new is None:
        return strand
    changes: dict[str, object] = {}
    if new.causal:
        sampler = strand.sampler if _given(f"{path}.sampler", settings) else before.sampler
        return strand.model_copy(update={"sampler": sampler})
    options: Options = dict(strand.process or {})
    if "shift" not in options and _has_shift(options):
        changes["process"] = {**options, "shift": old.shift}
    if strand.tied and new.extra_symbols and not _given(f"{path}.tied", settings):
        changes["tied"] = False
    return strand.model_copy(update=changes)


def _has_shift(options: Options) -> bool:
    return "shift" in inspect.signature(PROCESSES[options["kind"]]).parameters


def _rule(strands: dict[str, StrandConfig], before: str) -> str:
    """Return the rule under which every token sees every other one, where all processes allow it.

    What is generated token by token or block by block must not see what comes later.
    """
    processes = [make_process(strand) for strand in strands.values()]
    whole = all(p is None or p.whole for p in processes)
    return "full" if whole else before


def _given(path: str, settings: Sequence[str]) -> bool:
    return any(s.partition("=")[0] == path for s in settings)
