"""The command line of codecs: `braid codec train|evaluate|encode|list`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from braid.startup import importing

app = typer.Typer(
    help="Train, measure and use the codecs through which pictures and sound are read.",
    no_args_is_help=True,
)

Name = Annotated[
    str, typer.Argument(help="Folder of a codec, a name of `braid codec list`, or a Hub id.")
]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A codec recipe, or an experiment file.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="key.path=value, as codec.quantiser=kl:4.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the codec.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, mps.")] = None,
) -> None:
    """Train a codec, and measure rate and distortion on held-out data."""
    with importing():
        from braid import codec_commands

    codec_commands.train(recipe, settings or [], out, device)


@app.command()
def evaluate(
    name: Name,
    data: Annotated[str | None, typer.Option("--data", help="Held-out data.")] = None,
    size: Annotated[
        float | None, typer.Option("--size", help="Side in pixels, or length in seconds.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Use only so many examples.")] = 1000,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure rate and distortion."""
    with importing():
        from braid import codec_commands, commands

    numbers = codec_commands.evaluate(name, data, size, limit)
    if json:
        from json import dumps

        print(dumps(numbers, indent=1))
    else:
        commands.print_numbers(numbers)


@app.command()
def encode(
    name: Name,
    data: Annotated[str, typer.Argument(help="Data, or the name of built-in data.")],
    out: Annotated[Path, typer.Argument(help="Folder of the encoded data.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(help="What is read, as columns='{image: photo}' or split=train."),
    ] = None,
    size: Annotated[int, typer.Option("--size", help="Side of the pictures in pixels.")] = 32,
    limit: Annotated[int | None, typer.Option("--limit", help="Only so many rows.")] = None,
) -> None:
    """Encode a data set once; training reads the folder as data.path."""
    with importing():
        from braid import codec_commands

    print(codec_commands.encode(name, data, out, size, limit, settings or []))


@app.command("list")
def list_() -> None:
    """List codec recipes, and the codecs that are at hand."""
    with importing():
        from braid import codec_commands

    codec_commands.show()
