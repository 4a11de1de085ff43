"""The shape of the code: no paradigm's name, no heavy import, no pickle, nothing undocumented."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import braid
from braid.paradigms import PARADIGMS

PACKAGE = Path(braid.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMING = ("recipes", "families")  # folders whose files say which published system they are of
NAMES = [re.compile(name, re.IGNORECASE) for name in PARADIGMS]
MODULES = [
    ".".join(("braid", *f.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for f in FILES
    if f.name != "__main__.py"
]


@functools.cache
def parsed(file: Path) -> list[ast.AST]:
    """Return all nodes of a file."""
    return list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def nodes(kind: type[ast.AST], files: list[Path] = FILES) -> Iterator[tuple[Path, ast.AST]]:
    """Yield every node of a kind, with its file."""
    yield from ((file, node) for file in files for node in parsed(file) if isinstance(node, kind))


def named(text: str) -> bool:
    """Return whether a paradigm's name is part of a name."""
    return any(p.search(text.replace("-", "_")) for p in NAMES)


def general() -> list[Path]:
    """Return the files that must not know any paradigm."""
    return [f for f in FILES if f.name != "paradigms.py" and f.parent.name not in NAMING]


def test_no_file_bears_a_paradigms_name():
    # a family of released models is named as its makers did: it maps their tensors, and is data
    assert [f for f in FILES if named(f.stem) and f.parent.name != "families"] == []
    assert len(FILES) > 40


def test_no_class_or_function_bears_a_paradigms_name():
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    assert [f"{f}:{n.lineno} {n.name}" for f, n in nodes(kinds, general()) if named(n.name)] == []


def test_no_variable_or_attribute_bears_a_paradigms_name():
    found = [(f, n.lineno, n.id) for f, n in nodes(ast.Name, general())]
    found += [(f, n.lineno, n.attr) for f, n in nodes(ast.Attribute, general())]
    found += [(f, n.lineno, n.arg) for f, n in nodes(ast.arg, general())]
    assert [x for x in found if named(x[-1])] == []


def constants(node: ast.AST) -> list[str]:
    """Return all strings within a node."""
    return [
        c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)
    ]


def test_nothing_branches_on_a_paradigms_name():
    branches = [(f, n) for f, n in nodes(ast.Compare)] + [
        (f, n.pattern) for f, n in nodes(ast.match_case)
    ]
    assert [f"{f}: {ast.unparse(n)}" for f, n in branches if any(map(named, constants(n)))] == []


def test_recipes_look_paradigms_up_and_never_list_them():
    recipes = [f for f in FILES if f.parent.name == "recipes"]
    listed = [(f, n) for f, n in nodes(ast.Dict | ast.Set | ast.List | ast.Tuple, recipes)]
    assert [f"{f}: {ast.unparse(n)}" for f, n in listed if any(map(named, constants(n)))] == []


BANNED = ("torchvision", "torchaudio", "flow_matching", "pickle", "dill", "joblib")


def imported() -> Iterator[tuple[str, str]]:
    """Yield every file with the names it imports."""
    for file, node in nodes(ast.Import):
        yield from ((str(file), alias.name) for alias in node.names)
    for file, node in nodes(ast.ImportFrom):
        yield from ((str(file), f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("module", BANNED)
def test_a_banned_module_is_never_imported(module):
    names = list(imported())
    assert ("torch" in {n for _, n in names}) and len(names) > 100
    assert [(f, n) for f, n in names if n.split(".")[0] == module] == []


def test_nothing_unpickles_or_names_a_device():
    calls = {"torch.load", "torch.save", "np.load", "numpy.load"}
    found = [
        (f, ast.unparse(n.func)) for f, n in nodes(ast.Call) if isinstance(n.func, ast.Attribute)
    ]
    assert [
        x for x in found if x[1] in calls or x[1].endswith((".cuda", ".set_default_device"))
    ] == []


def test_nothing_is_evaluated_from_text():
    names = [(f, n.func.id) for f, n in nodes(ast.Call) if isinstance(n.func, ast.Name)]
    assert [x for x in names if x[1] in ("eval", "exec", "compile", "__import__")] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_and_says_what_it_is_for(module):
    assert (importlib.import_module(module).__doc__ or "").strip()


@pytest.mark.parametrize("name", braid.__all__)
def test_every_public_name_resolves_and_is_documented(name):
    assert (inspect.getdoc(getattr(braid, name)) or "").strip()
    assert name in dir(braid)


def test_an_unknown_public_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match="no attribute 'Brade'; public are Braid"):
        braid.Brade  # noqa: B018


def run(*arguments: str) -> tuple[float, str]:
    """Run Python in a fresh process; return how long it took, and what it printed."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=PACKAGE.parent, check=True
    )
    return time.monotonic() - began, done.stdout


LISTED = "import sys; {}; print(*sorted(m for m in sys.modules if m.split('.')[0] in {!r}))"
HEAVY = ("torch", "numpy", "yaml", "PIL", "tokenizers", "sklearn", "matplotlib")


@pytest.mark.parametrize("what", ["import braid", "import braid.cli", "import braid.errors"])
def test_importing_braid_imports_nothing_heavy(what):
    assert run("-c", LISTED.format(what, HEAVY))[1].strip() == ""


HELP = (
    "import sys\nsys.argv = ['braid', *{!r}]\nfrom braid.cli import main\n"
    "try: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
    "print('heavy:', *[m for m in sys.modules if m in {!r}])"
)


@pytest.mark.parametrize("command", [[], ["train"], ["sample"], ["demo"], ["doctor"]])
def test_help_imports_nothing_heavy(command):
    _, said = run("-c", HELP.format([*command, "--help"], HEAVY))
    assert "Usage: braid" in said
    assert said.strip().endswith("heavy:")


def test_help_answers_in_under_a_second():
    assert min(run("-m", "braid", "--help")[0] for _ in range(5)) < 1.0
