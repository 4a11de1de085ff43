"""A codec as a folder of safetensors and JSON."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from braid import storage
from braid.errors import BraidError, unknown
from braid.modalities.codecs import released
from braid.modalities.codecs.codec import Codec

ASSETS = Path(__file__).parents[2] / "assets"
"""Where the codecs that come with the package lie."""


def save(codec: Codec, path: str | Path) -> None:
    """Write a codec as codec.json and codec.safetensors."""
    header = {
        "kind": codec.kind,
        "config": codec.config(),
        "fingerprint": codec.fingerprint(),
        "card": codec.card,
    }
    storage.save(Path(path), {"codec": dict(codec.state_dict())}, {"codec": header})


def find(name: str | Path) -> Path:
    """Return the folder of a codec: a path, or the name of one that comes with the package.

    Raises:
        BraidError: there is none.
    """
    for folder in (Path(name), ASSETS / name):
        if (folder / "codec.json").is_file():
            return folder
    # the usual places of codecs trained here are no names of the Hub
    own = str(name).startswith(("codecs/", "mini/")) and not Path(name).exists()
    if not own and (folder := released.find(name)) is not None:
        return folder
    raise BraidError(
        f"codec {str(name)!r} does not exist; give the folder of a codec, as "
        "`braid codec train RECIPE --out FOLDER` writes it, or a name of `braid codec list`"
    )


def card_of(name: str | Path) -> dict[str, Any]:
    """Return a codec's header: kind, config, fingerprint and card."""
    folder = find(name)
    if not (folder / "codec.json").is_file():
        return released.header(folder, name)
    header = storage.read_json(folder / "codec.json")
    for key in ("kind", "config", "fingerprint"):
        if key not in header:
            raise BraidError(f"codec {str(name)!r}: codec.json lacks {key!r}; write it again")
    return header


def shell(name: str | Path) -> Codec:
    """Make a codec without reading its weights, to know its shapes."""
    from braid.modalities.codecs import CODECS

    folder = find(name)
    if not (folder / "codec.json").is_file():
        return released.shell(folder, name)
    header = card_of(name)
    if header["kind"] not in CODECS:
        raise unknown("codec kind", header["kind"], CODECS)
    try:
        # libraries draw again until a number is in range, which one that is never drawn may not be
        draws = issubclass(kind := CODECS[header["kind"]], released.Released)
        with contextlib.nullcontext() if draws else storage.undrawn():
            codec = kind(**header["config"])
    except TypeError as e:
        raise BraidError(f"codec {str(name)!r}: codec.json does not fit its kind: {e}") from e
    codec.card = header.get("card", {})
    return codec.eval().requires_grad_(False)


def load(name: str | Path) -> Codec:
    """Load a codec and check that its weights are the ones that its header names.

    Raises:
        BraidError: the folder is incomplete, damaged, or of another codec.
    """
    folder = find(name)
    if not (folder / "codec.json").is_file():
        return released.load(folder, name)
    codec = shell(name)
    tensors = storage.read_tensors(folder / "codec.safetensors")
    storage.adopt(codec, tensors, str(folder))
    wanted = card_of(name)["fingerprint"]
    if codec.fingerprint() != wanted:
        raise BraidError(
            f"codec {str(name)!r}: its weights are not those of its codec.json ({wanted}); "
            "the two files belong to different codecs"
        )
    return codec
