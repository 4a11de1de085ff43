"""Evaluation: suites of measurements, and pages that show them. To add a suite.

A file, and a line in SUITES.
"""

from __future__ import annotations

from collections.abc import Callable

from braid.config import EvaluateConfig, Experiment
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


def check_data(name: str, data: str) -> None:
    """Refuse data that a suite would never read."""
    if suite(name) is scenes_suite:
        raise BraidError(
            f"the suite {name} makes its own scenes and would never read {data!r}; leave the data "
            "out, or choose another suite"
        )


def suite(name: str) -> Suite:
    """Return a suite by name."""
    if name not in SUITES:
        raise unknown("evaluation suite", name, SUITES)
    return SUITES[name]


def run_suite(
    pipe: Pipeline, experiment: Experiment, held_out: Source, seed: int = 0
) -> Evaluation:
    """Measure a model on held-out data with its experiment's suite."""
    return suite(experiment.evaluate.suite)(pipe, held_out, experiment.evaluate, seed)


__all__ = ["SUITES", "Evaluation", "check_data", "run_suite", "suite"]
