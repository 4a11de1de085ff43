"""A run that is profiled says where its time went, and learns what it would have learned."""

from __future__ import annotations

import io
import json

import pytest
import torch
from rich.console import Console
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.autograd.profiler_util import EventList, FunctionEvent, Kernel

from braid.recipes import resolve
from braid.training import Trainer
from braid.training.profiling import SKIPPED, WATCHED, table
from tests.laws import models

SETTINGS = (*models.SMALL, "train.batch=8", "train.warmup=2", "train.profile=true")


def run(out, *settings):
    said = io.StringIO()
    trainer = Trainer(resolve("toy", [*SETTINGS, *settings]), out, Console(file=said), "cpu")
    return trainer.run(), said.getvalue()


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, *run(out, f"train.steps={SKIPPED + WATCHED + 2}")


@pytest.mark.slow
def test_a_profile_is_a_trace_and_a_table(profiled):
    out, _, said = profiled
    trace = json.loads((out / "profile" / "trace.json").read_text())
    named = {e.get("name") for e in trace["traceEvents"]}
    assert {"part: losses", "part: gradient", "part: optimizer"} <= named
    assert "table.txt" in said.replace("\n", "")


def test_the_parts_of_a_step_make_up_most_of_it(profiled):
    lines = (profiled[0] / "profile" / "table.txt").read_text().splitlines()
    first = lines.index(next(x for x in lines if x.startswith("part of a step")))
    parts = {}
    for line in lines[first + 1 : lines.index("", first)]:
        name, ms, share, calls = line.split()
        parts[name] = float(share.rstrip("%"))
        assert float(ms) >= 0
        assert float(calls) > 0
    assert {"losses/noise", "losses/transformer", "data", "average"} <= parts.keys()
    whole = sum(share for name, share in parts.items() if "/" not in name)
    assert 50 < whole <= 101
    assert parts["losses/transformer"] <= parts["losses"]


def test_profiling_changes_nothing(profiled, tmp_path):
    plain, _ = run(tmp_path, f"train.steps={SKIPPED + WATCHED + 2}", "train.profile=false")
    for name, value in profiled[1].state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert not (tmp_path / "profile").exists()


def test_a_run_that_is_too_short_says_so(tmp_path):
    _, said = run(tmp_path, "train.steps=3")
    assert f"takes {SKIPPED + WATCHED} steps" in " ".join(said.split())
    assert not (tmp_path / "profile").exists()


def test_the_time_of_a_gpu_is_counted_once():
    def event(number, name, **more):
        return FunctionEvent(number, name, 0, 0, 4000, stack=[], use_device="cuda", **more)

    kernel = "void cutlass::" + "gemm<float>" * 20
    launched = event(1, "aten::mm", device_type=DeviceType.CPU)
    launched.kernels.append(Kernel(kernel, 0, 4000))
    named = event(3, "Optimizer.step", device_type=DeviceType.CUDA, is_user_annotation=True)
    run = event(2, kernel, device_type=DeviceType.CUDA)
    events = EventList([launched, run, named], use_device="cuda")
    events._build_tree()
    lines = table(events.key_averages(), "cuda")
    operations = lines[lines.index("operation on the cuda") :].splitlines()[1:]
    (line,) = operations
    assert line.startswith("void cutlass::")
    assert "100.0%" in line
    assert len(line) < 120
