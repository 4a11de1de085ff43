"""Training: the same run on any split into steps, restarts and micro-batches."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from braid import checkpoints, loading, parallel, storage
from braid.checkpoints import Lock
from braid.config import Experiment
from braid.data import Data
from braid.data.sources import Examples
from braid.data.synthetic import toy as toy_source
from braid.errors import BraidError
from braid.layout import Batch
from braid.parallel import World
from braid.recipes import resolve
from braid.training import Trainer
from braid.training.guard import Guard
from braid.training.trainer import Result
from tests.laws import models

SMALL = (*models.SMALL, "train.steps=6", "train.batch=8", "train.warmup=2")


def experiment(*settings: str) -> Experiment:
    """Return a toy experiment of six steps."""
    return resolve("toy", [*SMALL, *settings])


def trainer(out: Path, made: Experiment, data: Data | None = None) -> Trainer:
    """Return a quiet trainer on the CPU."""
    return Trainer(made, out, Console(file=io.StringIO()), "cpu", data)


class Interrupted(Trainer):
    """A trainer that is interrupted once, during a step."""

    interrupt_at: int | None = 3
    number = signal.SIGINT

    def step(self, batches: list[Batch]) -> Result:
        """Do a step; Ctrl-C comes in the middle of one."""
        if self.state.step + 1 == self.interrupt_at:
            self.interrupt_at = None
            os.kill(os.getpid(), self.number)
        return super().step(batches)


def newest(out: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of the newest checkpoint: weights, average and optimiser."""
    folder = checkpoints.newest(out / "checkpoints")
    assert folder is not None
    groups = ("model", "ema", "optimizer")
    return {f"{g}/{k}": t for g in groups for k, t in checkpoints.read(folder, g).items()}


def lines(out: Path) -> list[dict]:
    """Return the lines of metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Claim that tensors are equal to the bit."""
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def test_a_step_tells_no_loss_of_what_it_did_not_learn(tmp_path):
    trainer(tmp_path / "one", experiment("paradigm=llava", "train.log_every=1")).run()
    assert not any("train/vision/loss" in line for line in lines(tmp_path / "one"))
    rare = experiment("paradigm=chameleon", "train.log_every=1", "train.batch=1")
    trainer(tmp_path / "two", rare).run()
    told = [
        [line.get(f"train/{n}/loss") for n in ("text", "image")] for line in lines(tmp_path / "two")
    ]
    assert any(None in both for both in told)  # a batch of one document learns one of them
    assert all(loss is None or loss > 0 for both in told for loss in both)


@pytest.mark.parametrize(
    "settings",
    [
        *(
            (f"paradigm={p}", f"train.optimizer={o}")
            for p in ("fudoki", "transfusion")
            for o in ("adamw", "muon")
        ),
        ("train.rates={'*': 0.5}",),  # no parameter has the schedule's own rate
        ("transformer.dropout=0.1", "transformer.adaln=true"),
    ],
)
def test_an_interrupted_run_ends_with_the_same_bits(settings, tmp_path):
    made = experiment(*settings)
    trainer(tmp_path / "whole", made).run()
    first = Interrupted(made, tmp_path / "parts", Console(file=io.StringIO()), "cpu")
    first.run()
    assert first.stopped
    assert first.state.step == 3
    second = trainer(tmp_path / "parts", made)
    assert second.state.step == 3
    second.run()
    assert_same(newest(tmp_path / "whole"), newest(tmp_path / "parts"))


def test_an_interrupted_trainer_goes_on_when_it_is_run_again(tmp_path):
    made = experiment()
    whole = trainer(tmp_path / "whole", made).run()
    stopped = Interrupted(made, tmp_path / "parts", Console(file=io.StringIO()), "cpu")
    stopped.run()
    assert_same(dict(whole.state_dict()), dict(stopped.run().state_dict()))
    assert not stopped.stopped


def test_ctrl_c_is_left_as_it_was(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    Interrupted(experiment(), tmp_path, Console(file=io.StringIO()), "cpu").run()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = trainer(tmp_path, experiment()).run()
    written = len(lines(tmp_path))
    again = trainer(tmp_path, experiment())
    assert again.progress == 1
    assert_same(dict(first.state_dict()), dict(again.run().state_dict()))
    assert len(lines(tmp_path)) == written


@pytest.mark.parametrize("name", ["state.json", "optimizer/*.safetensors", "ema/*.safetensors"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(name, tmp_path):
    trainer(tmp_path, experiment("train.save_every=3")).run()
    folder = tmp_path / "checkpoints"
    next((folder / "step-6").glob(name)).write_bytes(b"x")
    again = trainer(tmp_path, experiment("train.save_every=3"))
    assert again.state.step == 3
    assert "step-6" in again.console.file.getvalue()
    next((folder / "step-3").glob(name)).write_bytes(b"x")
    with pytest.raises(BraidError, match="step-3"):
        trainer(tmp_path, experiment("train.save_every=3"))


def test_a_longer_budget_continues_a_run(tmp_path):
    trainer(tmp_path, experiment()).run()
    longer = trainer(tmp_path, experiment("train.steps=8", "train.profile=true"))
    assert longer.state.step == 6
    longer.run()
    assert longer.state.step == 8


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["seed=1", "train.batch=4", "rule=spans", "data.drop=0.5"])
def test_a_run_of_another_experiment_is_refused(setting, tmp_path):
    trainer(tmp_path, experiment()).run()
    name = setting.partition("=")[0]
    with pytest.raises(BraidError, match=rf"another experiment \(they differ in {name}"):
        trainer(tmp_path, experiment(setting))


def test_the_same_seed_gives_the_same_run_and_another_one_another(tmp_path):
    a, b, c = (
        trainer(tmp_path / str(i), experiment(f"seed={seed}")).run().state_dict()
        for i, seed in enumerate([0, 0, 1])
    )
    assert_same(dict(a), dict(b))
    assert not all(torch.equal(a[k], c[k]) for k in a)


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", models.NAMES)
def test_accumulating_gradients_changes_nothing(paradigm, tmp_path):
    once, twice = (
        trainer(tmp_path / str(n), experiment(f"paradigm={paradigm}", f"train.accumulate={n}"))
        for n in (1, 2)
    )
    batches = [
        next(t.loader.steps(0, t.experiment.train.accumulate)).batches for t in (once, twice)
    ]
    assert [len(b) for b in batches] == [1, 2]
    a, b = once.step(batches[0]), twice.step(batches[1])
    assert a.total == pytest.approx(b.total, rel=1e-6)
    assert a.norm == pytest.approx(b.norm, rel=1e-5)
    assert a.per_strand == pytest.approx(b.per_strand, rel=1e-6)


@pytest.mark.parametrize("paradigm", models.NAMES)
def test_packing_rows_changes_no_step(paradigm, tmp_path):
    plain, packed = (
        trainer(tmp_path / str(row), experiment(f"paradigm={paradigm}", f"data.row={row}"))
        for row in ("null", 40)
    )
    (a,), (b,) = (next(t.loader.steps(0)).batches for t in (plain, packed))
    assert len(b.layout.document) < len(a.layout.document)
    assert plain.step([a]).total == pytest.approx(packed.step([b]).total, rel=1e-5)


def test_accumulation_must_divide_the_batch(tmp_path):
    with pytest.raises(BraidError, match="train.batch 8 is not a multiple of train.accumulate 3"):
        trainer(tmp_path, experiment("train.accumulate=3"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_are_lost(value, tmp_path):
    t = trainer(tmp_path, experiment("train.bad_steps=3"))
    with torch.no_grad():
        t.braid.strand("image").kind[0] = value
    before = {n: p.clone() for n, p in t.braid.named_parameters()}
    with pytest.raises(BraidError, match="3 steps in a row were bad .the loss is nan.*lower train"):
        t.run()
    after = dict(t.braid.named_parameters())
    assert all(torch.equal(before[n].nan_to_num(), after[n].nan_to_num()) for n in before)
    assert (t.state.step, t.state.position, t.state.skipped_steps) == (0, 24, 3)
    assert [line["position"] for line in lines(tmp_path)] == [0, 8, 16]
    assert all(len(line["samples"]) == 8 for line in lines(tmp_path))


class Spoiled(Trainer):
    """A trainer whose gradient is not a number for the documents at some positions."""

    positions: tuple[int, ...] = ()

    def step(self, batches: list[Batch]) -> Result:
        """Do a step, with a gradient that may be spoiled."""
        bad = self.state.position in self.positions
        kind = self.braid.strand("text").kind
        hook = kind.register_hook(lambda g: g * math.nan if bad else g)
        result = super().step(batches)
        hook.remove()
        return result


def spoiled(out: Path, positions: Sequence[int], *settings: str) -> Spoiled:
    """Return a trainer that meets bad steps."""
    t = Spoiled(experiment(*settings), out, Console(file=io.StringIO()), "cpu")
    t.positions = tuple(positions)
    return t


def test_bad_steps_are_left_out(tmp_path):
    t = spoiled(tmp_path, [8, 24])
    t.run()
    assert (t.state.step, t.state.position, t.state.skipped_steps) == (6, 64, 2)
    assert "skipped the documents 8 to 15 at step 1" in t.console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("last", [16, 32], ids=["before them", "among them"])
def test_bad_steps_count_on_where_a_run_was_stopped(tmp_path, last):
    settings = ("train.save_every=2", "train.bad_steps=3", "train.steps=7")
    bad = [24, 32, 40]
    whole = spoiled(tmp_path / "a", bad, *settings)
    whole.run()
    assert whole.state.rollbacks == 1

    class Stopped(Spoiled):
        def step(self, batches: list[Batch]) -> Result:
            if self.state.position == last:
                signal.raise_signal(signal.SIGTERM)
            return super().step(batches)

    first = Stopped(experiment(*settings), tmp_path / "b", Console(file=io.StringIO()), "cpu")
    first.positions = tuple(bad)
    first.run()
    assert first.stopped
    again = spoiled(tmp_path / "b", bad, *settings)
    again.run()
    assert replace(again.state, seconds=0.0) == replace(whole.state, seconds=0.0)
    for x, y in zip(whole.braid.parameters(), again.braid.parameters(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.slow
def test_too_many_bad_steps_in_a_row_go_back_and_on_with_later_documents(tmp_path):
    settings = ("train.save_every=2", "train.bad_steps=3")
    t = spoiled(tmp_path, [24, 32, 40], *settings)
    t.run()
    assert (t.state.step, t.state.position, t.state.rollbacks) == (6, 80, 1)
    assert "back to step 2, on with document 48" in t.console.file.getvalue()
    stopped = spoiled(tmp_path / "b", [24, 32, 40], *settings, "train.rollbacks=0")
    with pytest.raises(BraidError, match="3 steps in a row .* train.rollbacks 0 are used up"):
        stopped.run()


@pytest.mark.slow
def test_a_spike_is_skipped_and_nothing_else_is(tmp_path):
    t = trainer(tmp_path, experiment("train.spike=30", "train.steps=25", "train.warmup=0"))
    clean = t.run()
    assert t.state.skipped_steps == 0
    assert len(t.state.norms) == 25
    plain = trainer(tmp_path / "plain", experiment("train.steps=25", "train.warmup=0")).run()
    assert_same(dict(clean.state_dict()), dict(plain.state_dict()))
    guard = Guard(spike=6.0, norms=[1.0, 1.1, 0.9, 1.05] * 10)
    assert guard.judge(1.0, 1.2) is None
    assert guard.judge(1.0, 20.0) == "the gradient's norm 20 is above 1.495"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_is_told_that_the_run_was_saved(number, tmp_path):
    t = Interrupted(experiment(), tmp_path, Console(file=io.StringIO()), "cpu")
    t.number = number
    t.run()
    assert (t.stopped, t.code, t.state.step) == (True, 75, 3)
    assert checkpoints.newest(tmp_path / "checkpoints").name == "step-3"
    t.run()
    assert (t.stopped, t.code, t.state.step) == (False, 0, 6)


def test_resume_may_be_refused_or_wanted(tmp_path):
    def make(resume: str) -> Trainer:
        return Trainer(experiment(), tmp_path, Console(quiet=True), "cpu", resume=resume)

    with pytest.raises(BraidError, match="holds no checkpoint to go on from"):
        make("must")
    make("never").run()
    with pytest.raises(BraidError, match="holds a run already"):
        make("never")
    assert make("must").state.step == 6


@pytest.mark.slow
def test_two_jobs_never_share_a_run(tmp_path):
    first, second = trainer(tmp_path, experiment()), trainer(tmp_path, experiment())
    with Lock(tmp_path), pytest.raises(BraidError, match=str(os.getpid())):
        second.run()
    first.run()


@pytest.mark.slow
@pytest.mark.parametrize("background", [False, True])
def test_saving_in_the_background_writes_the_same(background, tmp_path):
    made = experiment(f"train.save_in_background={background}", "train.save_every=2")
    trainer(tmp_path / "a", made).run()
    trainer(tmp_path / "b", experiment()).run()
    assert_same(newest(tmp_path / "a"), newest(tmp_path / "b"))


@pytest.mark.parametrize("dropout", [0, 0.1])
def test_recomputing_changes_no_bit(dropout, tmp_path):
    given = f"transformer.dropout={dropout}"
    trainer(tmp_path / "a", experiment(given, "parallel.recompute=true")).run()
    trainer(tmp_path / "b", experiment(given)).run()
    assert_same(newest(tmp_path / "a"), newest(tmp_path / "b"))


def test_the_first_step_is_the_optimisers_first(tmp_path):
    run = trainer(tmp_path, experiment("train.steps=1"))
    assert not run.optimizer.state
    run.run()
    states = run.optimizer.state.values()
    assert {float(state["step"]) for state in states} == {1.0}


def test_the_rate_that_is_told_is_the_schedules(tmp_path):
    told = []
    for name, settings in (("a", []), ("b", ["train.rates={'*': 0.5}"])):
        trainer(tmp_path / name, experiment("train.log_every=1", *settings)).run()
        told.append([line.get("learning_rate") for line in lines(tmp_path / name)])
    assert told[0] == told[1]
    assert max(rate or 0 for rate in told[0]) > 0.9 * experiment().train.learning_rate


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_no_bit(workers, tmp_path):
    trainer(tmp_path / "a", experiment(f"data.workers={workers}")).run()
    trainer(tmp_path / "b", experiment()).run()
    assert_same(newest(tmp_path / "a"), newest(tmp_path / "b"))


def test_what_needs_a_launcher_is_refused_without(tmp_path):
    with pytest.raises(BraidError, match="start with torchrun"):
        trainer(tmp_path, experiment("parallel.tensor=2", "train.batch=8"))


def test_a_run_directory_holds_what_it_should(tmp_path):
    trainer(tmp_path, experiment("train.save_every=2", "train.log_every=2")).run()
    names = {p.name for p in tmp_path.iterdir()}
    assert {"experiment.json", "modalities.json", "metrics.jsonl", "checkpoints"} <= names
    assert [n for n, _ in storage.steps(tmp_path / "checkpoints")] == [4, 6]  # the last two
    assert [x["step"] for x in lines(tmp_path)] == [2, 4, 6]
    assert [x["position"] for x in lines(tmp_path)] == [16, 32, 48]
    assert all(x["train/image/loss"] > 0 and x["train/text/loss"] > 0 for x in lines(tmp_path))


@pytest.mark.slow
def test_the_experiment_of_a_run_directory_repeats_it(tmp_path):
    for paradigm in models.NAMES:
        made = experiment(f"paradigm={paradigm}", "train.steps=1")
        first = trainer(tmp_path / paradigm / "a", made).run()
        again = resolve(str(tmp_path / paradigm / "a" / "experiment.json"))
        assert again == made
        second = trainer(tmp_path / paradigm / "b", again).run()
        assert_same(dict(first.state_dict()), dict(second.state_dict()))


@pytest.mark.parametrize("tied", [False, True])
def test_a_run_directory_is_loaded_with_the_averaged_weights(tied, tmp_path):
    t = trainer(tmp_path, experiment("paradigm=showo", f"strands.text.tied={tied}"))
    trained = t.run()
    assert_same(dict(loading.load(tmp_path).braid.state_dict()), dict(trained.state_dict()))
    last = checkpoints.read(tmp_path / "checkpoints" / "step-6", "model")
    assert not all(torch.equal(last[n], p) for n, p in trained.named_parameters())


def test_without_an_average_the_last_weights_are_used(tmp_path):
    trainer(tmp_path, experiment("train.ema=0")).run()
    last = checkpoints.read(tmp_path / "checkpoints" / "step-6", "model")
    assert_same(dict(loading.load(tmp_path).braid.state_dict()), last)


@pytest.mark.slow
def test_previews_change_nothing(tmp_path):
    plain = trainer(tmp_path / "a", experiment()).run()
    drawing = trainer(tmp_path / "b", experiment("train.preview_every=3")).run()
    assert_same(dict(plain.state_dict()), dict(drawing.state_dict()))
    assert {p.name for p in (tmp_path / "b" / "samples").iterdir()} == {"step-3.png", "step-6.png"}


def data_with(images: list) -> Data:
    """Return toy data with some pictures exchanged."""
    good = toy_source(64, 0)
    rows = [good[i] for i in range(64)]
    columns = {f: [r[f] for r in rows] for f in good.fields}
    columns["image"][: len(images)] = images
    return Data(Examples("spoiled", columns), good)


def test_unreadable_rows_are_skipped_counted_and_told(tmp_path):
    made = experiment("data.bad_limit=0.5", "train.log_every=1", "train.batch=64")
    t = trainer(tmp_path, made, data_with([b"no picture", b""]))
    t.run()
    assert lines(tmp_path)[-1]["skipped_rows"] == 12  # each of the six steps meets both
    assert "skipped spoiled row 0: image: not a readable picture" in t.console.file.getvalue()


def test_numbers_among_texts_are_bad_rows(tmp_path):
    texts = ["row two", 7, "column", None] * 16
    source = Examples("numbers", {"text": texts})
    made = experiment("data.tasks={text: 1}", "data.bad_limit=0.6", "data.source=files")
    t = trainer(tmp_path, made, Data(source, source))
    t.run()
    assert sum(t.state.skipped_rows.values()) > 0


def test_what_was_converted_is_told_at_the_end(tmp_path):
    colored = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    t = trainer(tmp_path, experiment("train.batch=64"), data_with([colored] * 3))
    t.run()
    assert t.console.file.getvalue().endswith("image: 3 x RGB converted to grey\n")


def test_too_many_unreadable_rows_stop_the_run(tmp_path):
    made = experiment("data.bad_limit=0.01", "train.log_every=1", "train.batch=64")
    with pytest.raises(BraidError, match="of 64 rows of 'spoiled' are bad .*raise data.bad_limit"):
        trainer(tmp_path, made, data_with([b"no picture", b""])).run()


def test_a_text_longer_than_the_row_is_refused_with_the_remedy(tmp_path):
    said = r"does not fit a row of 4; shorten it, or begin a run with a higher data\.row"
    with pytest.raises(BraidError, match=said):
        trainer(tmp_path, experiment("data.row=4")).run()


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BraidError, match="cannot write to .* choose another folder"):
        trainer(tmp_path / "file" / "run", experiment())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.tasks={text_to_audio: 1}", "unknown field 'audio'"),
        ("data.tasks={image: 0}", "give at least one task a weight above 0"),
        ("data.tasks={text: -1, image: 2}", "none a negative one"),
        ("data.source=toys", "unknown data source 'toys'; did you mean 'toy'?"),
        ("data.source=files", "data.path is not set"),
    ],
)
def test_wrong_data_is_refused_before_any_work(setting, message, tmp_path):
    with pytest.raises(BraidError) as e:
        trainer(tmp_path, experiment(setting))
    assert message in str(e.value)


def test_a_causal_strand_has_no_infilling_task(tmp_path):
    made = experiment("paradigm=chameleon", "data.tasks={infill_image: 1}")
    with pytest.raises(BraidError, match="generated token by token and cannot look ahead"):
        trainer(tmp_path, made)


def test_what_is_only_read_cannot_be_a_target(tmp_path):
    made = experiment("paradigm=llava", "data.tasks={text_to_vision: 1}")
    with pytest.raises(BraidError, match="modality 'vision' is read only; it cannot be learned"):
        trainer(tmp_path, made)


@pytest.mark.slow
@pytest.mark.parametrize("paradigm", models.NAMES)
def test_the_toy_is_learned(paradigm, tmp_path):
    made = resolve("toy", [f"paradigm={paradigm}", "train.steps=150", "train.log_every=10"])
    trainer(tmp_path, made).run()
    for name in models.drawn(paradigm):
        losses = [x[f"train/{name}/loss"] for x in lines(tmp_path) if f"train/{name}/loss" in x]
        assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


@dataclass(frozen=True)
class Launched(World):
    """One rank that speaks for all."""

    group: Any = "all ranks"

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return what this rank has."""
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return what this rank says."""
        return [value]


def test_no_rank_puts_the_whole_model_on_its_device(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(parallel, "mesh", lambda *_: None)
    monkeypatch.setattr(parallel, "shard", lambda b, *_, **__: seen.append(b.device.type) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Trainer(experiment(), tmp_path, Console(file=io.StringIO()), "meta", world=Launched())
    assert seen == ["cpu"]
