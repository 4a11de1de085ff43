"""Evaluation: suites of measurements, and pages that show them. To add a suite.

A file, and a line in SUITES.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from braid.config import DataConfig, EvaluateConfig, Experiment
from braid.data import open_data, open_source
from braid.data.sources import Source
from braid.errors import BraidError, unknown
from braid.evaluation.digits import digits
from braid.evaluation.drawings import drawings
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.omni import omni_suite
from braid.evaluation.pairs import pairs
from braid.evaluation.scenes import scenes_suite
from braid.evaluation.speech import speech_suite
from braid.pipeline import Pipeline

Suite = Callable[[Pipeline, Source, EvaluateConfig, int], Evaluation]

SUITES: dict[str, Suite] = {
    "digits": digits,
    "drawings": drawings,
    "omni": omni_suite,
    "pairs": pairs,
    "scenes": scenes_suite,
    "speech": speech_suite,
}


def open_held_out(experiment: Experiment, data: str | None = None) -> Source:
    """Open what an experiment's suite reads: `data`, or else the experiment's held-out rows.

    Raises:
        BraidError: the suite is unknown, or would never read `data`.
    """
    name = experiment.evaluate.suite
    if suite(name) is scenes_suite:  # a model can be measured where its training data is not
        if data is not None:
            raise BraidError(
                f"the suite {name} makes its own scenes and would never read {data!r}; leave the "
                "data out, or choose another suite"
            )
        return open_data(DataConfig(source="scenes"), experiment.seed).held_out
    if data is not None:
        return open_source(data, experiment.data.columns)
    return open_data(experiment.data, experiment.seed).held_out


def suite(name: str) -> Suite:
    """Return a suite by name."""
    if name not in SUITES:
        raise unknown("evaluation suite", name, SUITES)
    return SUITES[name]


def run_suite(
    pipe: Pipeline, experiment: Experiment, held_out: Source, seed: int = 0
) -> Evaluation:
    """Measure a model on held-out data with its experiment's suite.

    A number that is not finite, such as a likelihood of weights that are NaN, is None with a note.
    """
    chosen = experiment.evaluate
    result = suite(chosen.suite)(pipe, held_out, chosen, seed)
    # a folder of this machine says nothing to others
    result.settings = {"data": held_out.name, "seed": seed, **chosen.model_dump(exclude={"judge"})}
    _leave_out_infinite(result)
    return result


def _leave_out_infinite(result: Evaluation) -> None:
    """Replace numbers that JSON cannot hold, and that no page can draw."""
    for name, value in list(result.numbers.items()):
        if isinstance(value, float) and not math.isfinite(value):
            result.numbers[name] = None
            result.numbers[f"{name}_note"] = f"it came out as {value}; look at the model"


__all__ = ["SUITES", "Evaluation", "open_held_out", "run_suite", "suite"]
