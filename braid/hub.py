"""Folders that others released: fetched from the Hub or found here, without a pickle in them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from braid.errors import BraidError

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def library(name: str) -> ModuleType:
    """Import a library that only released models need."""
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise BraidError(f'{name} is not installed; run: pip install "braid-models[hf]"') from e


def named(place: str) -> bool:
    """Return whether a text has the form of a Hub id, owner/name."""
    return _NAME.fullmatch(place) is not None


def fetch(
    what: str,
    repository: str,
    files: Sequence[str],
    *,
    name: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """Return the folder in the cache of a repository of the Hub, fetched unless it is there.

    Honours HF_HUB_OFFLINE, HF_TOKEN and HF_HUB_CACHE.

    Args:
        what: kind of thing, for the message.
        repository: owner/name.
        files: names or patterns of all that may be fetched.
        name: what the user wrote, where it says more than the repository.
        revision: branch, tag or commit.
        token: of a repository that is not public.
        cache_dir: where to keep it.
        local_files_only: take what is cached, and ask no network.

    Raises:
        BraidError: the Hub has no such repository, or cannot be reached.
    """
    try:
        snapshot = library("huggingface_hub").snapshot_download(
            repository,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            allow_patterns=list(files),
            local_files_only=local_files_only,
        )
    except Exception as e:  # each way of transport has errors of its own
        raise BraidError(
            f"{what} {name or repository!r} is neither a folder here nor cached, and the Hub did "
            f"not give it ({first_line(e)}); check the name, or fetch it once where there is a "
            "network and HF_HUB_OFFLINE is not set"
        ) from e
    return Path(snapshot)


def refuse_pickle(folder: Path, wanted: str = "*.safetensors") -> None:
    """Refuse a folder without safetensors of a pattern; name the pickles that it has instead."""
    if any(folder.glob(wanted)):
        return
    if not folder.is_dir():  # read when it is first used, and moved since then
        raise BraidError(f"{str(folder)!r} is there no longer; put it back, or load the model anew")
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLED)
    found = f"only {', '.join(pickled)}, and unpickling runs code" if pickled else "no weights"
    raise BraidError(
        f"{str(folder)!r} holds {found}; expected *.safetensors: choose a release that has them, "
        "or write it anew with the library's save_pretrained"
    )


def first_line(e: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    return f"{type(e).__name__}: {(str(e).strip().splitlines() or [''])[0]}"
