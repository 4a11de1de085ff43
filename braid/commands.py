"""The commands of models as functions: `braid train ...` is `braid.commands.train(...)`."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from braid import storage
from braid.config import Experiment
from braid.errors import BraidError, unknown
from braid.modalities import conversions

if TYPE_CHECKING:
    from braid.data import Source
    from braid.evaluation import Evaluation
    from braid.parallel import World
    from braid.parts import Parts
    from braid.pipeline import Pipeline
    from braid.training import Trainer
    from braid.training.directory import Resume

Numbers = dict[str, float | int | str | None]


def train(
    recipe: str,
    settings: Sequence[str] = (),
    out: Path | None = None,
    device: str | None = None,
    resume: str = "auto",
) -> int:
    """Train a recipe or an experiment file in a run directory.

    Started by torchrun, all processes train one model; they end with this function.

    Args:
        recipe: a recipe's name, an experiment in YAML or JSON, or a run directory.
        settings: `key.path=value` overrides.
        out: run directory; runs/NAME where it is None.
        device: where to train; the accelerator if there is one.
        resume: "auto" goes on with a run that is there, "never" refuses one, "must" wants one.

    Returns:
        0, or the exit code of a run that was interrupted and saved: 75, or 130 after Ctrl-C.
    """
    from braid import parallel, recipes
    from braid.device import choose

    if resume not in ("auto", "never", "must"):
        raise unknown("--resume", resume, ("auto", "never", "must"))
    experiment = recipes.resolve(recipe, settings)
    if out is None:
        out = Path(recipe) if Path(recipe).is_dir() else Path("runs") / experiment.name
    world = parallel.join(choose(device), experiment.parallel.seconds)
    with world.waiting():
        trainer, _ = _train(experiment, out, device, world, resume)
    parallel.leave(world, trainer.code)
    return trainer.code


def _train(
    experiment: Experiment,
    out: Path,
    device: str | None = None,
    world: World | None = None,
    resume: Resume = "auto",
) -> tuple[Trainer, Console]:
    from braid.evaluation import suite
    from braid.training import Trainer

    suite(experiment.evaluate.suite)  # a misspelt name is found before the training, not after
    console = Console(quiet=world is not None and not world.first)
    trainer = Trainer(experiment, out, console, device, world=world, resume=resume)
    size = sum(p.numel() for p in trainer.braid.parameters())
    console.print(
        f"{experiment.name}: {size:,} parameters on {trainer.braid.device}, run in {out}",
        highlight=False,
        soft_wrap=True,
    )
    trainer.run()
    if trainer.stopped:
        console.print(
            f"interrupted and saved at step {trainer.state.step}; the same command goes on from "
            "there",
            highlight=False,
            soft_wrap=True,
        )
    return trainer, console


def demo(
    paradigm: str = "fudoki", out: Path = Path("runs/demo"), minutes: float = 2.8, seed: int = 0
) -> int:
    """Use the embedded model; then train on handwritten digits, evaluate, and write a report.

    Returns whether it was interrupted.
    """
    from braid import recipes
    from braid.evaluation.digits import need_scikit_learn
    from braid.training.interruption import saved

    need_scikit_learn()
    if not minutes > 0:
        raise BraidError(f"--minutes {minutes} must be more than 0")
    greet(storage.writable(out))
    experiment = recipes.resolve(
        "digits", [f"paradigm={paradigm}", f"train.minutes={minutes}", f"seed={seed}"]
    )
    trainer, console = _train(experiment, out)
    if trainer.stopped:
        return trainer.code
    began = time.monotonic()
    console.print("evaluating on held-out digits ...", highlight=False)
    with saved():
        result = _evaluate(_pipeline(trainer), experiment, out, trainer.data.held_out, seed)
    numbers = result.numbers
    print_numbers(numbers, console)
    console.print(
        f"evaluated in {time.monotonic() - began:.0f} s; open {out / 'report.html'}",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def greet(out: Path) -> None:
    """Draw a picture, read it back and say a digit with the embedded model, in seconds."""
    from braid import loading
    from braid.parts import Hole

    console, began = Console(), time.monotonic()
    pipe = loading.load("mini", "cpu")
    prompt = "a small red circle left of a large blue square"
    picture = pipe([prompt, Hole("image")], guidance=2.0)[-1]
    read = pipe([picture, Hole("text")], temperature=0.0)[-1]
    spoken = pipe(["theo says seven", Hole("audio")], guidance=1.5)[-1]
    picture.resize((256, 256), 0).save(out / "mini.png")
    spoken.save(out / "mini.wav")
    console.print(
        f"the embedded model drew {prompt!r} ({out / 'mini.png'}), reads it as {read!r}, and "
        f"said 'seven' ({out / 'mini.wav'}), in {time.monotonic() - began:.1f} s; now a model is "
        "trained from nothing",
        highlight=False,
        soft_wrap=True,
    )


def _pipeline(trainer: Trainer) -> Pipeline:
    from braid.pipeline import Pipeline

    return Pipeline(trainer.braid, trainer.experiment)


def evaluate(
    run: str,
    data: str | None = None,
    suite: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str | None = None,
    quiet: bool = False,
) -> Numbers:
    """Measure a model on held-out data; writes report.html and report.json beside it.

    Args:
        run: a run directory or a saved model.
        data: held-out data (any form that data.path takes) instead of the experiment's.
        suite: name of the suite; the experiment's own where it is None.
        limit: use only so many held-out examples.
        seed: of everything that is drawn.
        device: where to run.
        quiet: print nothing.
    """
    from braid import loading, parallel
    from braid.evaluation import open_held_out

    parallel.alone("evaluation")
    if limit is not None and limit < 1:
        raise BraidError(f"--limit {limit} must be at least 1")
    pipe = loading.load(run, device)
    changes = {k: v for k, v in {"suite": suite, "limit": limit}.items() if v is not None}
    experiment = pipe.experiment.model_copy(
        update={"evaluate": pipe.experiment.evaluate.model_copy(update=changes)}
    )
    held_out = open_held_out(experiment, data)
    console = Console(quiet=quiet)
    out = Path(run) if Path(run).is_dir() else Path("runs") / run  # of an embedded model
    numbers = _evaluate(pipe, experiment, out, held_out, seed).numbers
    console.print(f"wrote {out / 'report.html'}", highlight=False, soft_wrap=True)
    return numbers


def _evaluate(
    pipe: Pipeline, experiment: Experiment, out: Path, held_out: Source, seed: int
) -> Evaluation:
    from braid.evaluation import run_suite
    from braid.evaluation.report import write

    storage.writable(out)
    result: Evaluation = run_suite(pipe, experiment, held_out, seed)
    result.numbers |= _facts(pipe, out)
    write(out, experiment, result)
    return result


def _facts(pipe: Pipeline, out: Path) -> Numbers:
    """Return the size of the model and what its training took."""
    facts: Numbers = {"parameters": sum(p.numel() for p in pipe.braid.parameters())}
    found = [path for _, path in storage.steps(out / "checkpoints")]
    newest = pipe.checkpoint or (found[-1] if found else None)
    if newest is not None:
        state = storage.read_json(newest / "state.json")
        facts |= {
            "train_steps": state["step"],
            "train_seconds": round(state["seconds"], 1),
            "train_tokens": state["tokens"],
        }
        facts["train_flops"] = 6 * int(facts["parameters"] or 0) * state["tokens"]
    return facts


def compare(
    recipe: str,
    settings: Sequence[str] = (),
    paradigms: Sequence[str] = ("fudoki", "transfusion", "chameleon", "mmada"),
    minutes: float = 2.0,
    out: Path = Path("runs/compare"),
    seed: int = 0,
) -> int:
    """Train several paradigms on the same data, backbone and budget; write a page."""
    from braid import recipes
    from braid.evaluation.compare import write
    from braid.evaluation.digits import need_scikit_learn
    from braid.training.interruption import saved

    names = [p.strip() for p in paradigms if p.strip()]
    if recipe not in recipes.RECIPES:
        raise unknown("recipe", recipe, recipes.RECIPES)
    if not minutes > 0 or not names:
        raise BraidError(
            f"compare needs at least one paradigm and --minutes above 0, got {names} and {minutes}"
        )
    own = [*settings, f"train.minutes={minutes}", "train.steps=1000000", f"seed={seed}"]
    experiments = {
        p: recipes.resolve(recipe, [f"paradigm={p}", *own]) for p in names
    }  # all are checked before any trains
    if any(e.evaluate.suite == "digits" for e in experiments.values()):
        need_scikit_learn()
    results: dict[str, Numbers] = {}
    panels: dict[str, Any] = {}
    for name, experiment in experiments.items():
        trainer, console = _train(experiment, out / name)
        if trainer.stopped:
            return trainer.code
        console.print(f"evaluating {name} ...", highlight=False)
        held_out = trainer.data.held_out
        with saved():
            result = _evaluate(_pipeline(trainer), experiment, out / name, held_out, seed)
        results[name], panels[name] = result.numbers, result.panels
    write(out, experiments, results, panels)
    print_comparison(results)
    print(f"open {out / 'compare.html'}")
    return 0


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    rows: int = 32,
    queue: int = 64,
    cost: int = 4_000_000,
    limit: Sequence[str] = (),
    **options: Any,
) -> None:
    """Serve a model over HTTP until a signal comes; see `braid.serving.serve.serve`.

    Args:
        model: what `braid.load` takes.
        host: address to listen on.
        port: to listen on.
        rows: that share a pass of the transformer.
        queue: requests that may wait.
        cost: tokens x network calls that all requests may have together.
        limit: `name=value` for fields of `braid.serving.limits.Limits`.
        options: as `braid.serving.serve.serve` takes them.
    """
    from braid.serving.engine import Room
    from braid.serving.limits import Limits
    from braid.serving.serve import serve as run

    room = Room(rows=rows, requests=queue, cost=cost)
    run(model, host, port, room=room, limits=Limits.of(limit), **options)


def sample(
    model: str,
    prompt: str | None = None,
    to: str = "image",
    image: Path | None = None,
    audio: Path | None = None,
    steps: int | None = None,
    guidance: float = 1.0,
    temperature: float | None = None,
    n: int = 1,
    seed: int = 0,
    out: Path | None = None,
    trajectory: Path | None = None,
    device: str | None = None,
    *,
    dtype: str | None = None,
    quantise: str | None = None,
    offload: bool = False,
    revision: str | None = None,
) -> Iterator[str]:
    """Generate one modality from text, a picture and sound, or nothing; yields a line per result.

    Pictures and sound are written to `out` (sample.png, sample.wav; numbered where n > 1; inside
    where it is a folder); text is the line itself, and written to `out` if given. What was changed
    in given pictures and sound is told on standard error.
    """
    from braid import loading, saving
    from braid.parts import Hole, Part

    if n < 1:
        raise BraidError(f"--n {n} must be at least 1")
    if prompt is None and not _names_a_model(model):
        model, prompt = "mini", model
    pipe = loading.load(
        model, device, dtype=dtype, quantise=quantise, offload=offload, revision=revision
    )
    parts: list[Any] = []
    if image is not None:
        given = [m for m in ("image", "vision") if m in pipe.braid.strands]
        if not given:
            raise BraidError(
                f"this model reads no pictures; it has {', '.join(pipe.braid.strands)}"
            )
        parts.append(Part(given[0], image))
    if audio is not None:
        if "audio" not in pipe.braid.strands:
            raise BraidError(f"this model reads no sound; it has {', '.join(pipe.braid.strands)}")
        parts.append(Part("audio", audio))
    if prompt is not None:
        parts.append(prompt)
    parts.append(Hole(to))
    if out is not None:
        out = saving.checked(out, pipe.braid.strand(to).modality)
    if trajectory is not None:
        if trajectory.suffix.lower() != ".gif":
            raise BraidError(f"--trajectory {str(trajectory)!r} is a GIF; let its name end in .gif")
        storage.writable(trajectory.parent)
    done: list[Parts] = pipe(
        parts,
        steps=steps,
        guidance=guidance,
        temperature=temperature,
        seed=seed,
        n=n,
        trajectory=trajectory is not None,
    )
    for line in conversions({m: s.modality.converted for m, s in pipe.braid.strands.items()}):
        Console(stderr=True).print(line, highlight=False, soft_wrap=True)
    for i, result in enumerate(done):
        made = result[-1]
        if hasattr(made, "save"):
            yield str(saving.save_media(made, out, i, n))
        else:
            if out is not None:
                saving.save_text(str(made), saving.numbered(out, i, n))
            yield str(made)
    if trajectory is not None:
        from braid.evaluation.animate import animate  # what it draws with takes a second to import

        animate(pipe, done[0], len(parts) - 1, trajectory)
        yield str(trajectory)


def draw(
    model: str,
    prompts: Path,
    kind: str,
    out: Path,
    n: int = 4,
    steps: int | None = None,
    guidance: float = 1.0,
    temperature: float | None = None,
    seed: int = 0,
    rows: int = 64,
    device: str | None = None,
    dtype: str | None = None,
    compile: bool | str = False,
) -> Iterator[str]:
    """Draw a benchmark's prompts, see `braid.clients.drawings.draw`; yields a line for each."""
    from braid import loading
    from braid.clients import drawings

    yield from drawings.draw(
        loading.load(model, device, dtype=dtype, compile=compile),
        kind,
        prompts,
        out,
        n=n,
        steps=steps,
        guidance=guidance,
        temperature=temperature,
        seed=seed,
        rows=rows,
        model=model,
    )


def push(
    model: str,
    repository: str,
    private: bool | None = None,
    revision: str | None = None,
    license: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a model with a card; returns the address, see `braid.publishing.push`."""
    from braid import loading, publishing

    return loading.load(model, "cpu").push_to_hub(
        repository,
        private=private,
        revision=revision,
        license=license,
        commit_message=message or publishing.MESSAGE,
        create_pr=create_pr,
    )


def _names_a_model(word: str) -> bool:
    """Whether the only word of a command is a model, and not a prompt for the embedded one."""
    from braid.loading import ASSETS

    looks = word == "mini" or (" " not in word and ("/" in word or "\\" in word))
    if looks or (word and (_is_there(Path(word)) or _is_there(ASSETS / word))):
        return True
    runs = [p.parent.name for p in Path().glob("*/experiment.json")]
    close = [] if " " in word else difflib.get_close_matches(word, runs, n=1)
    if close:
        raise BraidError(
            f"{word!r} does not exist; did you mean the run {close[0]!r}? If it is a prompt, name "
            f"the model first: braid sample mini {word}"
        )
    return False


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than names may be, or with a character they cannot have
        return False


def print_numbers(numbers: Numbers, console: Console | None = None) -> None:
    """Print numbers under their names, each with its interval where there is one."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, told in _told(numbers).items():
        table.add_row(name, told)
    (console or Console()).print(table, markup=False)


def print_comparison(results: dict[str, Numbers]) -> None:
    """Print one column a paradigm."""
    table = Table(box=None)
    table.add_column("", no_wrap=True)
    for name in results:
        table.add_column(name, justify="right")
    columns = [_told(numbers) for numbers in results.values()]
    for row in dict.fromkeys(k for told in columns for k in told if not k.endswith("_note")):
        table.add_row(row, *(told.get(row, "-") for told in columns))
    Console(width=200 if len(results) > 4 else None).print(table, markup=False)


def _told(numbers: Numbers) -> dict[str, str]:
    """Return numbers as they are printed; what NAME_low and NAME_high say stands beside NAME."""
    out: dict[str, str] = {}
    for name, value in numbers.items():
        measured, _, end = name.rpartition("_")
        if end in ("low", "high") and f"{measured}_low" in numbers and measured in numbers:
            continue
        ends = [numbers[f"{name}_{end}"] for end in ("low", "high") if f"{name}_{end}" in numbers]
        known = value is not None and None not in ends
        between = f" [{', '.join(map(_number, ends))}]" if ends and known else ""
        out[name] = _number(value) + between
    return out


def _number(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
