"""Import torch without what an answer does not need: graphs, meta tensors, quantisers and more."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

KNOWN = ("2.13.0+cpu",)
"""Builds of torch of which it is known that the rest works without `LATER`."""

LATER = (
    "torch.distributions",
    "torch.hub",
    "torch.nested",
    "torch.optim",
    "torch.testing",
    "torch.utils.data",
    "torch.ao",
    "torch.quantization",
    "torch.nn.intrinsic",
    "torch.nn.qat",
    "torch.nn.quantizable",
    "torch.nn.quantized",
    "torch.masked",
    "torch.fx",
    "torch.fx.experimental",
    "torch.fx.traceback",
    "torch.export",
    "torch.func",
    "torch._higher_order_ops",
    "torch.distributed._meta_registrations",
    "torch._meta_registrations",
    "torch.compiler",
    "torch._native",
    "torch._prims",
    "torchgen.model",
)
"""What torch imports along with itself, in about its order, of which an answer needs nothing.

They are about half of its time.
"""

CALLED = {
    "torch._higher_order_ops": ("cond", "while_loop"),
    "torch.func": ("vmap",),
}
"""Functions of these that torch takes over under its own name."""


class _Later(ModuleType):
    """A module that has not run; with the first thing that is asked of one, all of them run."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__"):  # which the import system and `inspect` ask of all modules
            raise AttributeError(name)
        if isinstance(self, _Due):
            _run(self)
        else:
            complete()
        return getattr(self, name)


class _Due(_Later):
    """One that runs as soon as those that run before it ask it for something."""


def complete() -> None:
    """Run what was put off, in torch's own order: elsewhere its circles of imports break."""
    waiting = {n: m for n in LATER if isinstance(m := sys.modules.get(n), _Later)}
    for module in waiting.values():
        _become(module, _Due)
    for module in waiting.values():
        _run(module)
    for name in CALLED.keys() & waiting.keys():
        for function in CALLED[name]:
            setattr(sys.modules["torch"], function, getattr(waiting[name], function))


def _run(module: ModuleType) -> None:
    """Run a module in place, so that who holds it already holds all of it."""
    if isinstance(module, _Due):
        _become(module, ModuleType)
        spec = module.__spec__
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(module)


def _become(module: ModuleType, kind: type[ModuleType]) -> None:
    object.__setattr__(module, "__class__", kind)


def _called(name: str, function: str) -> Callable[..., Any]:
    """Return a function that stands for one of a module that was put off."""

    def call(*args: object, **kwargs: object) -> object:
        complete()
        return getattr(sys.modules[name], function)(*args, **kwargs)

    return call


class _Watch:
    """Completes torch before an import that works in a complete one only.

    The compiler asks no module by name for what it needs, and what lies inside of a module that was
    put off may be a part of a circle.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find what came along; all else is found as ever."""
        inside = sys.modules.get(name.rpartition(".")[0])
        if name == "torch._dynamo" or type(inside) is _Later:
            complete()
            if name in sys.modules:  # whose own spec would run it again
                there = sys.modules[name]
                there.__spec__ = ModuleSpec(name, _There(there))
                return there.__spec__
        return None


class _There(Loader):
    """Loads a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def put_off() -> None:
    """Import torch without `LATER`, which run when something of one of them is asked for.

    Nothing where torch has been imported, or where it is not one of the `KNOWN` builds.
    """
    found = None if "torch" in sys.modules else importlib.util.find_spec("torch")
    if found is None or found.origin is None or _version(found) not in KNOWN:
        return
    site = Path(found.origin).parent.parent
    waiting = {name: _waiting(name, site) for name in LATER}
    for name, functions in CALLED.items():
        for function in functions:
            setattr(waiting[name], function, _called(name, function))
    sys.modules.update(waiting)
    import torch
    from torch._opaque_base import OpaqueBaseMeta

    # what importing `torch._prims` does besides: no torch.Generator is made without
    torch._C._set_generator_metaclass(OpaqueBaseMeta)  # type: ignore[attr-defined]
    for name, module in waiting.items():
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, module)
    sys.meta_path.insert(0, _Watch())


def _version(found: ModuleSpec) -> str | None:
    """Return the version of a torch that is not imported; None where it does not tell."""
    told = Path(str(found.origin)).with_name("version.py")
    said = re.search(r"__version__ = '(.*)'", told.read_text()) if told.is_file() else None
    return said and said[1]


def _waiting(name: str, site: Path) -> ModuleType:
    file = site.joinpath(*name.split("."))
    inside = [str(file)] if file.is_dir() else None
    file = file / "__init__.py" if inside else file.with_suffix(".py")
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=inside)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    _become(module, _Later)
    return module
