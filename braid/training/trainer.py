"""The one trainer: a run directory, an experiment and a step, whatever the processes are."""

from __future__ import annotations

import json
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from braid import config, storage
from braid.braid import Braid, Losses
from braid.config import Experiment
from braid.data import Data, Loader, open_data, streams_for, texts_of
from braid.device import choose
from braid.errors import BraidError
from braid.layout import Batch
from braid.modalities import conversions
from braid.pipeline import load
from braid.training import checkpoint
from braid.training.checkpoint import State
from braid.training.ema import EMA
from braid.training.logger import Logger
from braid.training.optimizer import make_optimizer
from braid.training.preview import preview
from braid.training.schedule import rate


class Trainer:
    """Trains the model of an experiment in a run directory; goes on where that stopped.

    Attributes:
        braid: the model, with its last weights.
        ema: their average.
        state: how far the run is.
        stopped: the run was interrupted; `run` may be called again.
        matched: the last matching loss, or None.
    """

    def __init__(
        self,
        experiment: Experiment,
        out: Path,
        console: Console | None = None,
        device: str | None = None,
        data: Data | None = None,
    ) -> None:
        where = choose(device)
        self.experiment, self.out = experiment, storage.writable(out)
        self.console = console or Console()
        c = experiment.train
        if c.batch % c.accumulate:
            raise BraidError(
                f"train.batch {c.batch} is not a multiple of train.accumulate {c.accumulate}; "
                "change one of them"
            )
        states = self._same_experiment()
        self.data = data or open_data(experiment.data, experiment.seed)
        torch.manual_seed(experiment.seed)
        modalities = {n: config.make_modality(n, s) for n, s in experiment.strands.items()}
        for name, modality in modalities.items():
            if states is not None:
                modality.load_state(states.get(name, {}))
            else:
                modality.fit(texts_of(experiment, self.data, modality))
        self.modality_states = {n: m.state() for n, m in modalities.items()}
        self.braid = config.build(experiment, self.modality_states).to(where)
        row, limit = experiment.data.row, experiment.data.bad_limit
        self.loader, self.held_out = (
            Loader(
                streams_for(experiment, self.braid, self.data, held_out),
                self.braid,
                c.batch,
                experiment.seed,
                row,
                limit,
            )
            for held_out in (False, True)
        )
        if c.start is not None and not storage.steps(self.out / "checkpoints"):
            self._start_from(c.start)
        self.optimizer = make_optimizer(self.braid, c)
        self.ema = EMA(self.braid, c.ema)
        self.state = State()
        self.stopped = False
        self.matched: float | None = None
        found = checkpoint.resume(self.out / "checkpoints", self.braid, self.ema, self.optimizer)
        if found is not None:
            self.state = found
        self._write_experiment()

    def _start_from(self, path: str) -> None:
        """Take the tensors of a trained model whose names and shapes agree with this one's."""
        source = load(path, "cpu").braid
        theirs, ours = source.state_dict(), self.braid.state_dict()
        own = tuple(  # what a symbol means differs
            f"strands.{name}.{part}."
            for name, strand in self.braid.strands.items()
            for part in ("embedder", "head")
            if name in source.strands
            and source.strands[name].modality.state() != strand.modality.state()
        )
        taken = [
            n
            for n, x in ours.items()
            if n in theirs and theirs[n].shape == x.shape and not n.startswith(own)
        ]
        if not taken:
            raise BraidError(f"train.start {path!r} has no tensor in common with this model")
        with torch.no_grad():
            for name in taken:
                ours[name].copy_(theirs[name])
        self.console.print(
            f"started from {path}: {len(taken)} tensors taken, {len(ours) - len(taken)} new, "
            f"{len(theirs) - len(taken)} left behind",
            highlight=False,
            soft_wrap=True,
        )

    def _same_experiment(self) -> dict | None:
        """Return the modality states of a run that is already there.

        Refuse a run of another experiment.
        """
        path = self.out / "experiment.json"
        if not path.exists():
            return None
        there = storage.read_json(path)
        here = self.experiment.model_dump(mode="json")
        for section in here:
            before, now = there.get(section), here[section]
            if section == "train":  # a longer budget continues the same run
                before, now = (
                    {k: v for k, v in d.items() if k not in _FREE} for d in (before or {}, now)
                )
            if before != now and section != "evaluate":
                raise BraidError(
                    f"{str(self.out)!r} holds a run of another experiment (they differ in "
                    f"{section!r}); choose another folder with --out, or repeat the same settings"
                )
        modalities = self.out / "modalities.json"
        return storage.read_json(modalities) if modalities.exists() else None

    def _write_experiment(self) -> None:
        self.experiment.save(self.out / "experiment.json")
        (self.out / "modalities.json").write_text(
            json.dumps(self.modality_states) + "\n", encoding="utf-8"
        )
        for name, strand in self.braid.strands.items():
            for option, folder in strand.modality.folders().items():
                copy = self.out / f"{name}-{option}"
                if not copy.exists():  # the run can be used wherever it is moved
                    shutil.copytree(folder, copy)

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        c = self.experiment.train
        done = self.state.step / c.steps
        return min(
            1.0, done if c.minutes is None else max(done, self.state.seconds / (60 * c.minutes))
        )

    def run(self) -> Braid:
        """Train to the end of the budget; returns the model with its averaged weights.

        Ctrl-C ends the step at hand, saves, sets `stopped` and returns.

        Raises:
            BraidError: the loss is not finite, or too many rows cannot be read.
        """
        c = self.experiment.train
        self.stopped = False
        logger = Logger(self.out / "metrics.jsonl", self.console)
        for rows in self.loader.rows:
            rows.on_skip = lambda i, why: logger.say(f"skipped {why}")
        if self.state.step:
            logger.say(f"going on at step {self.state.step}")
        torch.set_float32_matmul_precision(c.matmul)
        if c.compile:
            for block in self.braid.transformer.blocks:
                block.compile()
        batches = self.loader.steps(self.state.step, c.accumulate)
        try:
            with _interruptible(self._stop):
                self._steps(batches, logger)
        finally:
            batches.close()
            logger.close()
        if self.state.step:
            self.save()
        for line in conversions({n: s.modality.converted for n, s in self.braid.strands.items()}):
            logger.say(line)
        if not self.stopped and c.ema:
            EMA._copy(self.braid, self.ema.average)
        return self.braid.eval()

    def _steps(self, batches: Iterator[list[Batch]], logger: Logger) -> None:
        c = self.experiment.train
        clock = time.monotonic()
        while self.progress < 1 and not self.stopped:
            losses, norm = self.step(next(batches))
            now = time.monotonic()
            self.state = replace(self.state, seconds=self.state.seconds + now - clock)
            clock, step = now, self.state.step
            if step % c.log_every == 0 or self.progress >= 1:
                self._report(logger, losses, norm)
            if step % c.save_every == 0:
                self.save()
            if c.preview_every and step % c.preview_every == 0:
                with self.ema.applied(self.braid):
                    preview(self.braid, self.held_out, self.out / "samples", step)
                clock = time.monotonic()  # drawing is not training

    def step(self, batches: Sequence[Batch]) -> tuple[Losses, torch.Tensor]:
        """Do one optimiser step on micro-batches.

        Returns the losses and the gradient's norm before clipping.
        """
        c, device = self.experiment.train, self.braid.device
        self.braid.train()
        lr = c.learning_rate * rate(self.state.step, self.progress, c.warmup, c.final_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        counts = {
            n: sum((b.target[n].sum() for b in batches if n in b.target), torch.tensor(0)).to(
                device
            )
            for n in self.braid.strands
        }
        per_strand: dict[str, torch.Tensor] = {}
        total = torch.zeros((), device=device)
        precision = (
            torch.autocast(device.type, torch.bfloat16)
            if c.precision == "bfloat16"
            else nullcontext()
        )
        for batch in batches:
            with precision:
                losses = self.braid.loss(batch.to(device), self.experiment.seed, counts)
            losses.total.backward()
            total = total + losses.total.detach()
            for name, value in losses.per_strand.items():
                per_strand[name] = per_strand.get(name, 0) + value
        if c.match_weight and self.state.step % c.match_every == 0:
            pairs = self.loader.pairs(self.state.step * c.match_pairs, c.match_pairs)
            if pairs is not None:
                with precision:
                    a, b, same = pairs
                    matched = self.braid.match_loss(a.to(device), b.to(device), same)
                (c.match_weight * matched).backward()
                self.matched = float(matched.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.braid.parameters(), c.clip)
        self._check_finite(total, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.braid)
        tokens = sum(b.size for b in batches)
        self.state = replace(
            self.state, step=self.state.step + 1, tokens=self.state.tokens + tokens
        )
        return Losses(total, per_strand, counts), norm

    def _check_finite(self, total: torch.Tensor, norm: torch.Tensor) -> None:
        if self.braid.device.type != "cpu" and self.state.step % self.experiment.train.log_every:
            return  # looking would wait for the device
        if not math.isfinite(float(total)) or not math.isfinite(float(norm)):
            raise BraidError(
                f"the loss is {float(total)} and the gradient's norm {float(norm)} at step "
                f"{self.state.step}; "
                "lower train.learning_rate or train.clip, and go on from the last checkpoint "
                "with the same command"
            )

    def _report(self, logger: Logger, losses: Losses, norm: torch.Tensor) -> None:
        s = self.state
        values = {f"train/{n}/loss": round(float(v), 5) for n, v in losses.per_strand.items()}
        if self.matched is not None:
            values["train/match/loss"] = round(self.matched, 5)
        speed = s.tokens / max(s.seconds, 1e-9)
        logger.write(
            step=s.step,
            position=s.step * self.experiment.train.batch,
            seconds=round(s.seconds, 2),
            tokens=s.tokens,
            tokens_per_second=round(speed),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            gradient_norm=round(float(norm), 4),
            skipped_rows=self.loader.skipped,
            **values,
        )
        left = s.seconds * (1 / self.progress - 1) if self.progress else 0.0
        text = "  ".join(f"{n.split('/')[1]} {v:.3f}" for n, v in values.items())
        logger.show(
            self.progress, f"step {s.step}  {text}  {speed:,.0f} tokens/s  {left:,.0f} s left"
        )

    def save(self) -> Path:
        """Write a checkpoint, if this step has none yet."""
        folder = self.out / "checkpoints"
        found = storage.steps(folder)
        if found and found[-1][0] == self.state.step:
            return found[-1][1]
        return checkpoint.save(
            folder, self.braid, self.ema, self.optimizer, self.state, self.experiment.train.keep
        )

    def _stop(self) -> None:
        self.stopped = True


_FREE = ("steps", "minutes", "log_every", "save_every", "keep", "preview_every")
"""Settings of training that may change when a run goes on."""


@contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first Ctrl-C or SIGTERM; a second one ends the program at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: object) -> None:
        stop()
        for s, handler in before.items():
            signal.signal(s, handler)

    for s in before:
        signal.signal(s, handle)
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
