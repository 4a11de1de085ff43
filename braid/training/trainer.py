"""The one trainer: a run directory, an experiment and a step, whatever the processes are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from braid import adapting, compiling, config, parallel, storage
from braid.braid import Braid
from braid.checkpoints import Checkpoints, Lock
from braid.config import Experiment
from braid.data import Data, Loader, open_data, streams_for
from braid.data.loader import Sample, Step
from braid.device import choose
from braid.errors import BraidError
from braid.layout import Batch
from braid.loading import load
from braid.modalities import conversions
from braid.parallel import World
from braid.tracing import part
from braid.training import checkpoint, directory, gradient, interruption, preparing, reporting
from braid.training.checkpoint import State
from braid.training.directory import Resume
from braid.training.ema import EMA
from braid.training.guard import Guard
from braid.training.interruption import SAVED, Interruption
from braid.training.logger import Logger
from braid.training.optimizer import make_optimizer
from braid.training.preview import preview
from braid.training.profiling import Profiler
from braid.training.reporting import Result
from braid.training.schedule import rate
from braid.training.start import learned, start_from


class Trainer:
    """Trains the model of an experiment in a run directory; goes on where that stopped.

    Several processes that were started by one launcher train one model: see `braid.parallel`.

    Attributes:
        braid: the model, with its last weights.
        ema: their average.
        state: how far the run is.
        stopped: the run was interrupted; `run` may be called again.
        code: what the process should exit with.
        world: this process and the others.
    """

    def __init__(
        self,
        experiment: Experiment,
        out: Path,
        console: Console | None = None,
        device: str | None = None,
        data: Data | None = None,
        *,
        world: World | None = None,
        resume: Resume = "auto",
    ) -> None:
        """Make or go on with a run.

        Args:
            experiment: what to train.
            out: the run directory.
            console: where to report; quiet on all ranks but the first.
            device: where to train; the accelerator if there is one.
            data: instead of what the experiment names.
            world: this process and the others; alone if None.
            resume: what to do with a run that is already there.

        Raises:
            BraidError: the experiment, the folder, the data or the number of ranks do not do.
        """
        self.world = world = world or World()
        self.device = choose(device)
        if self.device.type == "cuda" and world.group is not None:
            self.device = torch.device("cuda", world.local_rank)
        self.experiment, self.out = experiment, storage.writable(out)
        self.console = (console or Console()) if world.first else Console(quiet=True)
        c = experiment.train
        self.replicas = preparing.replicas(experiment, world, self.device)
        if c.compile:
            compiling.check(self.device)
        directory.check_resume(self.out, resume)
        states = directory.known_states(self.out, experiment)
        self.checkpoints = Checkpoints(
            self.out / "checkpoints",
            world,
            run=experiment.name,
            keep=c.keep,
            keep_every=c.keep_every,
            background=c.save_in_background,
            say=self._say,
        )
        begin = None
        if c.start is not None and not self.checkpoints.steps():
            begin = load(c.start, "cpu")
            states = states or learned(begin, experiment)
        self.data = data or open_data(experiment.data, experiment.seed)
        self.modality_states = preparing.fit(experiment, self.data, states or {}, world)
        torch.manual_seed(experiment.seed)
        self.braid = config.build(experiment, self.modality_states)
        if world.group is None:  # ranks move block by block what they keep
            self.braid.to(self.device)
        self.loader, self.held_out = (
            Loader(
                streams_for(experiment, self.braid, self.data, held_out),
                self.braid,
                c.batch,
                experiment.seed,
                experiment.data.row,
                experiment.data.bad_limit,
            )
            for held_out in (False, True)
        )
        if begin is not None:
            for line in start_from(self.braid, begin.braid, str(c.start)).lines():
                self._say(line)
        adapting.prepare(self.braid, c)
        preparing.lay_out(self.braid, experiment, world, self.device)
        self.optimizer = make_optimizer(self.braid, c)
        self.ema = EMA(self.braid, c.ema)
        self.state, self.stopped, self.code = State(), False, 0
        self._restore()
        self.guard = Guard(c.spike, self.state.norms, self.state.bad_in_row)
        with world.together():
            if world.first:
                directory.describe(self.out, experiment, self.modality_states, self.braid)

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

        A signal of `braid.training.interruption` ends the step at hand, saves, sets `stopped` and
        `code`, and returns.

        Raises:
            BraidError: too many steps were bad, too many rows cannot be read, a checkpoint cannot
                be written, another job trains in the folder, or another rank is lost.
        """
        c, world = self.experiment.train, self.world
        self.stopped, self.code = False, 0
        torch.set_float32_matmul_precision(c.matmul)
        echo = interruption.ECHO if world.group is not None else 0.0
        with self._alone(), Interruption(echo) as asked:
            logger = self._logger()
            for rows in self.loader.rows:
                rows.on_skip = lambda i, why: logger.say(f"skipped {why}")
            if self.state.step:
                spent = "; the budget is spent, raise train.steps or train.minutes"
                logger.say(
                    f"going on at step {self.state.step}{spent if self.progress >= 1 else ''}"
                )
            try:
                with world.waiting():
                    self._steps(logger, asked)
                    if self.state.step:
                        self._save(logger)
                        self._settle(logger)
            finally:
                logger.close()
        for line in conversions({n: s.modality.converted for n, s in self.braid.strands.items()}):
            self._say(line)
        if not self.stopped and c.ema:
            self.ema.copy(self.braid, self.ema.average)
        return self.braid.eval()

    def _steps(self, logger: Logger, asked: Interruption) -> None:
        """Do steps until the budget is spent or some rank is asked to stop."""
        steps = self._data(asked)
        profiler = self._profiler(logger)
        clock = time.monotonic()
        try:
            while self.progress < 1:
                self.world.at(self.state.step, "reading data")
                with part("data"):
                    data = next(steps, None)
                now = time.monotonic()
                if self._leaving(asked, data is None, now - clock, logger):
                    return
                assert data is not None, "the ranks would have left"
                clock = now
                self.world.at(self.state.step, "training")
                result = self._accept(data, self.step(data.batches), logger)
                if result.wrong is not None:
                    if self.guard.bad_in_row >= self.experiment.train.bad_steps:
                        self._roll_back(result.wrong, logger)
                        steps.close()
                        steps = self._data(asked)
                    continue
                if self._after(data, result, logger, asked):
                    clock = time.monotonic()  # drawing is not training
                if profiler is not None:
                    profiler.step()
        finally:
            steps.close()
            if profiler is not None:
                profiler.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other jobs out of the run directory."""
        with ExitStack() as stack:
            with self.world.together():
                if self.world.first:
                    stack.enter_context(Lock(self.out))
            yield

    def _logger(self) -> Logger:
        path = self.out / "metrics.jsonl" if self.world.first else None
        loggers = self.experiment.train.loggers if self.world.first else ()
        return Logger(path, self.console, loggers=loggers, name=self.experiment.name)

    def _profiler(self, logger: Logger) -> Profiler | None:
        """Return what watches the first steps, on one rank, where train.profile asks for it."""
        if not (self.experiment.train.profile and self.world.first):
            return None
        return Profiler(self.out / "profile", self.device, logger.say)

    def _data(self, asked: Interruption) -> Generator[Step]:
        c, p = self.experiment, self.experiment.parallel
        return self.loader.steps(
            self.state.position,
            c.train.accumulate,
            rank=self.world.rank // p.tensor,
            ranks=self.replicas,
            workers=c.data.workers,
            stopped=lambda: asked.asked,
            seconds=p.seconds,
        )

    def _leaving(self, asked: Interruption, dry: bool, seconds: float, logger: Logger) -> bool:
        """Let all ranks agree on the time, on stopping, and on what became of the last save."""
        error = self.checkpoints.poll()
        told = self.world.total(
            torch.tensor(
                [
                    seconds if self.world.first else 0.0,
                    float(asked.asked or dry),
                    float(asked.asked and asked.code == SAVED),
                    float(error is not None),
                ],
                dtype=torch.float64,
            )
        ).tolist()
        self.state = replace(self.state, seconds=self.state.seconds + told[0])
        if told[3]:
            self._save_failed(error, logger)
        if told[1]:
            self.stopped, self.code = True, SAVED if told[2] else 130
        return bool(told[1])

    def step(self, batches: Sequence[Batch]) -> Result:
        """Do one optimiser step on this rank's micro-batches; leave it out where it is bad."""
        c = self.experiment.train
        self.braid.train()
        lr = c.learning_rate * rate(self.state.step, self.progress, c.warmup, c.final_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        told = self._counts(batches)
        there = told.to(self.device, non_blocking=True)  # the last step may still be at work
        counts = dict(zip(self.braid.strands, there, strict=True))
        each: list[torch.Tensor] = []  # stay on the device: a copy would wait for it
        for batch in batches:
            with self._precision(), part("losses"):
                found = self.braid.loss(batch.to(self.device), self.experiment.seed, counts)
            with part("gradient"):
                found.total.backward()
            none = torch.zeros_like(found.total)
            own = [found.total, *(found.per_strand.get(n, none) for n in counts)]
            each.append(torch.stack([x.detach() for x in own]))
        if c.match_weight and self.state.step % c.match_every == 0:
            with part("matching"):
                self._match()
        losses = torch.stack(each).cpu().double().sum(0)
        losses = self.world.total(losses) / self.experiment.parallel.tensor
        total, *rest = losses.tolist()
        with part("norm"):
            norm = gradient.norm(self.braid.parameters(), self.world)
        wrong = self.guard.judge(total, norm)
        if wrong is None:
            with part("optimizer"):
                gradient.clip(self.braid.parameters(), norm, c.clip)
                self.optimizer.step()
            with part("average"):
                self.ema.update(self.braid, self.state.step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        known = zip(counts, rest, told.tolist(), strict=True)
        return Result(total, {n: loss for n, loss, count in known if count}, norm, lr, wrong)

    def _counts(self, batches: Sequence[Batch]) -> torch.Tensor:
        """Return the number of targets of each strand, [strands], over all ranks and batches."""
        own = torch.tensor(
            [
                sum(int(b.target[n].sum()) for b in batches if n in b.target)
                for n in self.braid.strands
            ]
        )
        return self.world.total(own) // self.experiment.parallel.tensor

    def _match(self) -> None:
        """Add the gradient of data.match; every rank computes all pairs, and its share counts."""
        c = self.experiment.train
        pairs = self.loader.pairs(self.state.step * c.match_pairs, c.match_pairs)
        if pairs is None:
            return
        a, b, same = pairs
        with self._precision():
            matched = self.braid.match_loss(a.to(self.device), b.to(self.device), same)
        (c.match_weight / self.replicas * matched).backward()
        self.state = replace(self.state, matched=float(matched.detach()))

    def _precision(self) -> AbstractContextManager[object]:
        if self.experiment.train.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def _accept(self, data: Step, result: Result, logger: Logger) -> Result:
        """Count what a step used and skipped."""
        s, size = self.state, self.experiment.train.batch
        used = torch.tensor([sum(b.size for b in data.batches), sum(data.skipped.values())])
        tokens, skipped = (self.world.total(used) // self.experiment.parallel.tensor).tolist()
        rows = s.skipped_rows
        if skipped:
            said = self.world.gather(data.skipped)[:: self.experiment.parallel.tensor]
            rows = dict(sum((Counter(x) for x in said), Counter(rows)))
        s = replace(s, position=s.position + size, skipped_rows=rows, norms=self.guard.norms)
        if result.wrong is None:
            self.state = replace(s, step=s.step + 1, tokens=s.tokens + tokens, bad_in_row=0)
            return result
        self.state = replace(s, skipped_steps=s.skipped_steps + 1, bad_in_row=self.guard.bad_in_row)
        logger.write(
            step=s.step,
            position=s.position - size,
            skipped=result.wrong,
            samples=self._samples(data),
        )
        logger.say(
            f"skipped the documents {s.position - size} to {s.position - 1} at step {s.step}: "
            f"{result.wrong}"
        )
        return result

    def _roll_back(self, wrong: str, logger: Logger) -> None:
        """Go back to the last checkpoint, and on with later data."""
        c, now = self.experiment.train, self.state
        remedy = "lower train.learning_rate or train.clip, or look at the skipped documents"
        told = f"{c.bad_steps} steps in a row were bad ({wrong})"
        if now.rollbacks >= c.rollbacks:
            raise BraidError(f"{told} and train.rollbacks {c.rollbacks} are used up; {remedy}")
        self._settle(logger)
        saved = self.checkpoints.steps()
        if not saved:
            raise BraidError(f"{told} before the first checkpoint; {remedy}")
        # not to one that only an interruption left: a run without it would have gone back further
        self._restore(c.save_every if any(n % c.save_every == 0 for n in saved) else 1)
        self.state = replace(
            self.state,
            position=now.position,
            seconds=now.seconds,
            skipped_steps=now.skipped_steps,
            skipped_rows=now.skipped_rows,
            rollbacks=now.rollbacks + 1,
            bad_in_row=0,
        )
        self.guard = Guard(c.spike, self.state.norms)
        logger.say(f"{told}: back to step {self.state.step}, on with document {now.position}")

    def _restore(self, every: int = 1) -> None:
        """Go on from the newest sound checkpoint of a multiple of steps, if there is one."""
        tensors = checkpoint.tensors(self.braid, self.ema, self.optimizer)
        found = self.checkpoints.load(tensors, every)
        if found is not None:
            checkpoint.adopt(self.braid, self.optimizer, tensors["optimizer"])
            self.state = State.of(found)
        else:  # listing its tensors made the optimiser count a step of nothing
            self.optimizer.state.clear()

    def _after(self, data: Step, result: Result, logger: Logger, asked: Interruption) -> bool:
        """Report, save and draw where it is time to; returns whether that took a while."""
        c, step = self.experiment.train, self.state.step
        if step % c.log_every == 0 or self.progress >= 1:
            self._report(data, result, logger)
        if step % c.save_every == 0:
            self._save(logger)
        if not c.preview_every or step % c.preview_every:
            return False
        self.world.at(step, "drawing")
        with self.ema.applied(self.braid), parallel.gathered(self.braid):
            preview(
                self.braid,
                self.held_out,
                self.out / "samples" if self.world.first else None,
                step,
                stopped=lambda: self.world.any(asked.asked),
            )
        return True

    def _report(self, data: Step, result: Result, logger: Logger) -> None:
        row, s = data.batches[0].layout.document.shape[1], self.state
        told = reporting.numbers(s, result, self.braid, self.device, self.world.size, row)
        more = {"samples": self._samples(data)} if self.experiment.train.log_samples else {}
        logger.write(**told, **more)
        logger.show(self.progress, reporting.line(told, s, result, self.progress))

    def _samples(self, data: Step) -> list[Sample]:
        c = self.experiment
        return reporting.samples(data, c.train.accumulate, c.parallel.tensor, self.world)

    def save(self) -> None:
        """Write a checkpoint, if this step has none yet.

        Raises:
            BraidError: it cannot be written.
        """
        self.world.at(self.state.step, "saving")
        tensors = checkpoint.tensors(self.braid, self.ema, self.optimizer)
        self.checkpoints.save(self.state.step, tensors, self.state.json())

    def _save(self, logger: Logger) -> None:
        try:
            self.save()
        except BraidError as e:
            self._save_failed(e, logger)

    def _settle(self, logger: Logger) -> None:
        """Wait for a save in the background."""
        error = None
        try:
            self.checkpoints.wait()
        except BraidError as e:
            error = e
        if self.world.any(error is not None):
            self._save_failed(error, logger)

    def _save_failed(self, error: BaseException | None, logger: Logger) -> None:
        """Stop, or go on without the checkpoint, as train.on_save_error says."""
        try:
            self.world.check(error)
        except (BraidError, OSError) as e:
            if self.experiment.train.on_save_error == "stop":
                raise
            logger.say(f"the checkpoint was not written: {e}")

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)
