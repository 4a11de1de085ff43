"""The command line: each command checks its arguments and calls a function of the same name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from braid import lazy_torch
from braid.codec_cli import app as codec_app
from braid.startup import importing, leave

app = typer.Typer(
    name="braid",
    help="One transformer that reads and writes text, pictures and sound, each by its own process.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(codec_app, name="codec")

Out = Annotated[Path | None, typer.Option("--out", help="Folder or file to write.")]
Seed = Annotated[int, typer.Option("--seed", help="Fixes every random number.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, mps; the accelerator if there is one.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16, float16; the files' own.")
]
Quantise = Annotated[
    str | None, typer.Option("--quantise", help="int8: weights of linear layers in 8 bits.")
]
Offload = Annotated[
    bool, typer.Option("--offload", help="Keep blocks in the host's memory until they compute.")
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the model's blocks: slow to start, faster.")
]
Revision = Annotated[
    str | None, typer.Option("--revision", help="Branch, tag or commit of a Hub id.")
]


@app.command()
def demo(
    paradigm: Annotated[
        str,
        typer.Option(
            "--paradigm", help="Published system whose processes are used; see `braid recipes`."
        ),
    ] = "fudoki",
    out: Out = None,
    minutes: Annotated[float, typer.Option("--minutes", help="Training budget.")] = 2.8,
    seed: Seed = 0,
) -> None:
    """Train on real handwritten digits, then draw, read, complete and refine.

    Writes report.html.
    """
    with importing():
        from braid import commands

    _finish(commands.demo(paradigm, out or Path("runs/demo"), minutes, seed))


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe's name, an experiment in YAML or JSON, or a run directory."),
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key.path=value, such as train.steps=100.")
    ] = None,
    out: Out = None,
    device: Device = None,
    resume: Annotated[
        str,
        typer.Option(
            "--resume",
            help="auto goes on with a run of the same experiment that is there, never refuses "
            "one, must wants one.",
        ),
    ] = "auto",
) -> None:
    """Train; goes on by itself where the folder holds a run of the same experiment.

    Exits with 75 where a signal asked it to stop and it saved: the same command goes on.
    """
    with importing():
        from braid import commands

    _finish(commands.train(recipe, settings or [], out, device, resume))


@app.command()
def sample(
    model: Annotated[
        str,
        typer.Argument(
            help="A run directory, a saved model, a Hub id, or mini, which comes with the package; "
            "may be left out for mini."
        ),
    ] = "mini",
    prompt: Annotated[str | None, typer.Argument(help="A text that is given.")] = None,
    to: Annotated[
        str, typer.Option("--to", help="Modality to generate: text, image, audio, ...")
    ] = "image",
    image: Annotated[Path | None, typer.Option("--image", help="A picture that is given.")] = None,
    audio: Annotated[Path | None, typer.Option("--audio", help="Sound that is given.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Sampling steps.")] = None,
    guidance: Annotated[
        float, typer.Option("--guidance", help="Weight of the condition; 1 is no guidance.")
    ] = 1.0,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="Of drawing symbols; 0 takes the likeliest."),
    ] = None,
    n: Annotated[int, typer.Option("--n", help="Number of results.")] = 1,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write, or a folder; numbered where --n is more."),
    ] = None,
    trajectory: Annotated[
        Path | None, typer.Option("--trajectory", help="Write an animation (GIF) of the steps.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantise: Quantise = None,
    offload: Offload = False,
    revision: Revision = None,
) -> None:
    """Generate from a text, a picture, or nothing."""
    with importing():
        lazy_torch.put_off()
        from braid import commands

    for line in commands.sample(
        model,
        prompt,
        to,
        image,
        audio,
        steps,
        guidance,
        temperature,
        n,
        seed,
        out,
        trajectory,
        device,
        dtype=dtype,
        quantise=quantise,
        offload=offload,
        revision=revision,
    ):
        print(line)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run directory or a saved model.")],
    data: Annotated[
        str | None, typer.Option("--data", help="Held-out data instead of the experiment's.")
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", help="digits, pairs, scenes, ...; the experiment's own by default."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Use only so many held-out examples.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Measure a model on held-out data; writes report.html and report.json into a run directory."""
    with importing():
        from braid import commands

    numbers = commands.evaluate(run, data, suite, limit, seed, device, quiet=json)
    if json:
        from json import dumps

        print(dumps(numbers, indent=1))
    else:
        commands.print_numbers(numbers)


@app.command()
def compare(
    recipe: Annotated[str, typer.Argument(help="A recipe's name.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key.path=value, for all of them.")
    ] = None,
    paradigms: Annotated[
        str, typer.Option("--paradigms", help="Names, separated by commas.")
    ] = "fudoki,transfusion,chameleon,mmada",
    minutes: Annotated[float, typer.Option("--minutes", help="Training budget of each.")] = 2.0,
    out: Out = None,
    seed: Seed = 0,
) -> None:
    """Train several paradigms on the same data, backbone and budget; writes a table and plots."""
    with importing():
        from braid import commands

    _finish(
        commands.compare(
            recipe, settings or [], paradigms.split(","), minutes, out or Path("runs/compare"), seed
        )
    )


@app.command()
def convert(
    source: Annotated[
        str, typer.Argument(help="Folder of a released model, or a Hub id such as owner/name.")
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to write, which the others read.")],
    revision: Revision = None,
    token: Annotated[
        str | None, typer.Option("--token", help="Of a Hub id that is not public; else HF_TOKEN.")
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option("--cache-dir", help="Where models of the Hub are kept.")
    ] = None,
    pickled_tables: Annotated[
        bool,
        typer.Option(
            "--pickled-tables",
            help="Read tables of embeddings out of pickles, none of which is run.",
        ),
    ] = False,
) -> None:
    """Turn a released model into one of braid; see docs/checkpoints.md for those it knows."""
    with importing():
        from braid import convert_commands

    made = convert_commands.convert(source, folder, revision, token, cache_dir, pickled_tables)
    for line in made:
        print(line)


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="What `braid convert` wrote, or a run from it.")],
    folder: Annotated[Path, typer.Argument(help="New folder in the layout of the release.")],
) -> None:
    """Write a converted model back in the layout that it was released in."""
    with importing():
        from braid import convert_commands

    print(convert_commands.export(source, folder))


@app.command(
    "lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def lm_eval(context: typer.Context) -> None:
    """Run lm-eval's own command, which then knows --model braid; all options are lm-eval's."""
    from braid.clients.lm_eval import main

    main(context.args)


@app.command()
def draw(
    model: Annotated[str, typer.Argument(help="A run directory, a saved model, or a Hub id.")],
    prompts: Annotated[
        Path, typer.Argument(help="GenEval's metadata (JSONL), or DPG-Bench's folder of ID.txt.")
    ],
    kind: Annotated[str, typer.Option("--for", help="geneval or dpg.")] = "geneval",
    out: Out = None,
    n: Annotated[int, typer.Option("--n", help="Pictures a prompt; 1 or 4 for dpg.")] = 4,
    steps: Annotated[int | None, typer.Option("--steps", help="Sampling steps.")] = None,
    guidance: Annotated[
        float, typer.Option("--guidance", help="Weight of the condition; 1 is no guidance.")
    ] = 1.0,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of drawing symbols.")
    ] = None,
    seed: Seed = 0,
    rows: Annotated[int, typer.Option("--rows", help="Pictures that are drawn together.")] = 64,
    device: Device = None,
    dtype: Dtype = None,
    compile: Compile = False,
    freeze: Annotated[
        bool,
        typer.Option(
            "--freeze", help="Compile all with constant weights: minutes to start, fastest."
        ),
    ] = False,
) -> None:
    """Draw a benchmark's prompts into the folder that its evaluation reads; goes on by itself."""
    with importing():
        from braid import commands

    out = out or Path("runs") / kind
    for line in commands.draw(
        model,
        prompts,
        kind,
        out,
        n,
        steps,
        guidance,
        temperature,
        seed,
        rows,
        device,
        dtype,
        "frozen" if freeze else compile,
    ):
        print(line)


@app.command()
def push(
    model: Annotated[str, typer.Argument(help="A run directory or a saved model.")],
    repository: Annotated[str, typer.Argument(help="owner/name on the Hub.")],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a repository that is made.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch to write to; main.")
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="For the card, such as apache-2.0.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", help="Of the commit.")] = None,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="Open a pull request instead.")
    ] = False,
) -> None:
    """Upload a model with a model card to the Hub; the token is that of HF_TOKEN or `hf auth`."""
    with importing():
        from braid import commands

    print(commands.push(model, repository, private, revision, license, message, create_pr))


@app.command()
def serve(
    model: Annotated[
        str,
        typer.Argument(help="A run directory, a saved model, a Hub id, or mini."),
    ] = "mini",
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    name: Annotated[
        str | None, typer.Option("--name", help="Under which the model is served.")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="A key a line; BRAID_API_KEYS may hold some, too."),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve other machines without a key.")
    ] = False,
    open_metrics: Annotated[
        bool, typer.Option("--open-metrics", help="/metrics needs no key.")
    ] = False,
    rows: Annotated[
        int, typer.Option("--rows", help="Rows that share a pass of the transformer.")
    ] = 32,
    queue: Annotated[
        int, typer.Option("--queue", help="Requests that may wait; more are refused with 429.")
    ] = 64,
    cost: Annotated[
        int,
        typer.Option("--cost", help="Tokens x network calls that requests may have together."),
    ] = 4_000_000,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", help="name=value, such as steps=64; see docs/serving.md."),
    ] = None,
    shutdown_seconds: Annotated[
        float, typer.Option("--shutdown-seconds", help="For requests under way at the end.")
    ] = 30.0,
    device: Device = None,
    dtype: Dtype = None,
    quantise: Quantise = None,
    offload: Offload = False,
    compile: Compile = False,
    revision: Revision = None,
) -> None:
    """Serve a model over HTTP, in the words of OpenAI's interface and in braid's own.

    Ends with Ctrl-C or SIGTERM, once the requests under way are answered.
    """
    with importing():
        from braid import commands

    commands.serve(
        model,
        host,
        port,
        name=name,
        key_file=key_file,
        insecure=insecure,
        open_metrics=open_metrics,
        rows=rows,
        queue=queue,
        cost=cost,
        limit=limit or [],
        shutdown_seconds=shutdown_seconds,
        device=device,
        dtype=dtype,
        quantise=quantise,
        offload=offload,
        compile=compile,
        revision=revision,
    )


@app.command()
def recipes() -> None:
    """List recipes, paradigms, processes, samplers and modalities."""
    with importing():
        from braid import doctor_commands

    doctor_commands.recipes()


@app.command()
def doctor(
    what: Annotated[
        str | None,
        typer.Argument(help="A recipe, an experiment file or a run to try without data."),
    ] = None,
    settings: Annotated[list[str] | None, typer.Argument(help="key.path=value.")] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Say what became of this run; its checkpoints are verified."),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Compute memory and time on GPUs; also of 1b, 7b and 70b."),
    ] = False,
    gpus: Annotated[int, typer.Option("--gpus", help="With --plan: number of GPUs.")] = 8,
    memory_gb: Annotated[float, typer.Option("--memory-gb", help="Memory of each.")] = 80.0,
    tflops: Annotated[float, typer.Option("--tflops", help="Peak of each, in bfloat16.")] = 990.0,
    utilisation: Annotated[
        float, typer.Option("--utilisation", help="Share of the peak that is reached.")
    ] = 0.4,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what this machine can do, and try an experiment for one step without data.

    Or explain a run, or plan one. Exits with 1 where a run's newest checkpoint is not sound.
    """
    with importing():
        from braid import doctor_commands

    if run is not None:
        _finish(doctor_commands.doctor_run(run, json))
    elif plan:
        machine = {
            "gpus": gpus,
            "memory_gb": memory_gb,
            "tflops": tflops,
            "utilisation": utilisation,
        }
        doctor_commands.doctor_plan(what or "7b", settings or [], machine, json)
    else:
        doctor_commands.doctor(what, settings or [])


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from braid import __version__

        print(__version__)
        raise typer.Exit


def _finish(code: int) -> None:
    """Exit with a code: 75 where a run was asked to stop and saved, 130 after Ctrl-C."""
    if code:
        raise typer.Exit(code)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a mistake in the input ends with one line and exit code 2."""
    from braid.errors import BraidError

    try:
        result: Any = app(arguments, standalone_mode=False)
    except BraidError as e:
        _fail(str(e))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as e:
        explain = getattr(e, "format_message", None)  # a mistake on the command line itself
        if explain is None:
            raise
        _fail(explain())
    code = result if isinstance(result, int) else 0
    if arguments is None and sys.argv[1:2] == ["sample"] and "torch" in sys.modules:
        leave(code)  # the shortest command of all: its end is felt
    raise SystemExit(code)


def _fail(message: str) -> NoReturn:
    if message:  # no command at all: the help was printed
        print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)
