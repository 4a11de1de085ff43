"""The begin and the end of a process that answers one question, without work for nobody."""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

LATER = ("torch.export", "torch._meta_registrations", "torch.distributed._meta_registrations")
"""The last that torch imports: for graphs and for tensors without numbers, a fifth of its time."""

KNOWN = ("2.13.",)
"""Versions of torch of which it is known that the rest works without."""


class _Later(ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__") and name != "__path__":  # which `inspect` asks of all modules
            raise AttributeError(name)
        return getattr(_now(self.__name__), name)


def _now(name: str) -> ModuleType:
    if isinstance(sys.modules.get(name), _Later):
        del sys.modules[name]
    return importlib.import_module(name)


class _Tracing:
    """Watches imports for torch's compiler, which needs what was put off and asks none by name."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Find nothing; the import goes on."""
        if name == "torch._dynamo":
            complete()


def put_off() -> None:
    """Import torch without `LATER`, each of which is imported when something of it is asked for.

    Nothing where torch has been imported, or where its version is not a `KNOWN` one.
    """
    # one built by hand may tell none
    told = [d.version for d in importlib.metadata.distributions(name="torch")]
    if "torch" in sys.modules or not told or not told[0].startswith(KNOWN):
        return
    sys.modules.update({name: _Later(name) for name in LATER})
    sys.meta_path.insert(0, _Tracing())
    import torch._prims.rng_prims  # noqa: F401  # a part of it: no torch.Generator is made without


def complete() -> None:
    """Import what was put off and not asked for since."""
    for name in LATER:
        if isinstance(sys.modules.get(name), _Later):
            _now(name)


@contextmanager
def importing() -> Iterator[None]:
    """Keep the collector of cycles away from what is imported here, now and when the process ends.

    Modules stay as long as the process does, yet torch makes so many objects that Python would
    search them again and again while it imports and once more at its end: half a second in all.
    For a process of our own only: what other code has made until then is kept too.
    """
    on, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        if on:
            gc.enable()


def leave(code: int = 0) -> NoReturn:
    """End the process once what it wrote is out and what waits for its end has been called.

    Python would take down torch's thousand modules one by one, a fifth of a second in which nothing
    is left to do. For a process of our own whose results are written and whose files are closed.
    """
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError as e:  # a closed pipe, a full disk
        print(f"error: the output could not be written: {e}", file=sys.stderr)
        code = code or 1
    sys.stderr.flush()
    os._exit(code)
