"""Training: one trainer for every assignment of processes."""

from braid.training.trainer import Trainer

__all__ = ["Trainer"]
