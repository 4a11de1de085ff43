"""Generative processes.

To add one, write a file and add a line to PROCESSES (see docs/add-a-process.md).
"""

from braid.processes.autoregressive import Autoregressive
from braid.processes.discrete_flow import PATHS, DiscreteFlow
from braid.processes.gaussian_flow import GaussianFlow
from braid.processes.masked import Masked
from braid.processes.metric_path import MetricPath
from braid.processes.paths import MixturePath, Path
from braid.processes.process import Noised, Process
from braid.processes.schedules import SCHEDULES
from braid.spaces import metric_table

PROCESSES: dict[str, type[Process]] = {
    "autoregressive": Autoregressive,
    "masked": Masked,
    "discrete_flow": DiscreteFlow,
    "gaussian_flow": GaussianFlow,
}

__all__ = [
    "PATHS",
    "PROCESSES",
    "SCHEDULES",
    "Autoregressive",
    "DiscreteFlow",
    "GaussianFlow",
    "Masked",
    "MetricPath",
    "MixturePath",
    "Noised",
    "Path",
    "Process",
    "metric_table",
]
