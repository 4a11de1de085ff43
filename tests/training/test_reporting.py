"""What a step found is told in the units that its names say."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from braid.training.reporting import _memory


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_memory_is_told_in_bytes_on_every_system(system, unit, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert _memory(torch.device("cpu")) == pytest.approx(before * unit, rel=0.01)
