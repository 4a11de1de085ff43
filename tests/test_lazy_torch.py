"""Torch without what an answer does not need: it waits and comes when asked for, all of it."""

import json
import subprocess
import sys

import pytest
import torch

from braid import lazy_torch
from braid.lazy_torch import KNOWN, LATER

pytestmark = pytest.mark.skipif(torch.__version__ not in KNOWN, reason="another build of torch")
WAITING = "[n for n in lazy_torch.LATER if type(sys.modules.get(n)).__name__ == '_Later']"


def _run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _light(body):
    """Run code where torch was imported without what can wait; return what it printed as JSON."""
    head = "import json, sys\nfrom braid import lazy_torch\nlazy_torch.put_off()\nimport torch\n"
    return _run(head + body)


@pytest.mark.slow
def test_what_can_wait_waits_until_something_is_asked_for():
    told = _light(f"""
before = {WAITING}
found = [torch.export.export.__name__, torch.nn.qat.Linear.__name__]
print(json.dumps([before, found, torch.export is sys.modules["torch.export"], {WAITING}]))
""")
    assert told == [list(LATER), ["export", "Linear"], True, []]


def test_an_answer_asks_for_nothing_that_waits():
    told = _light(f"""
from braid.cli import main
import os
os._exit = lambda code: None  # by which an answer ends
try:
    main(["sample", "mini", "how many objects are there?", "--to", "text"])
except SystemExit as stop:
    assert not stop.code
print(json.dumps({WAITING}))
""")
    assert told == list(LATER)


@pytest.mark.slow
def test_what_torch_takes_over_by_name_computes():
    told = _light("""
x, held = torch.arange(3.0), torch.vmap
told = [torch.vmap(torch.neg)(x).tolist(), held(torch.neg)(x).tolist()]
told.append(torch.cond(torch.tensor(True), torch.neg, torch.exp, (x,)).tolist())
print(json.dumps([told, torch.vmap is torch.func.vmap]))
""")
    assert told == [[[0.0, -1.0, -2.0]] * 3, True]


@pytest.mark.slow
@pytest.mark.parametrize("first", LATER)
def test_each_can_be_the_first_that_is_asked_for(first):
    body = f"""
getattr(sys.modules[{first!r}], "no_such_thing", None)
x = torch.randn(4, generator=torch.Generator().manual_seed(1))
print(json.dumps([{WAITING}, len(x)]))
"""
    assert _light(body) == [[], 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    "inside",
    ["torch.fx.experimental.proxy_tensor", "torch.optim.adamw", "torch._prims.rng_prims"],
)
def test_what_lies_inside_can_be_the_first_that_is_imported(inside):
    told = _light(f"""
import importlib
there = importlib.import_module({inside!r})
parent, _, child = {inside!r}.rpartition(".")
same = there is sys.modules[{inside!r}] is getattr(sys.modules[parent], child)
again = torch.optim.AdamW is sys.modules["torch.optim.adamw"].AdamW
print(json.dumps([{WAITING}, same, again, there.__spec__.origin == there.__file__]))
""")
    assert told == [[], True, True, True]


TOLD = """
names = sorted(n for n in sys.modules if n.split(".")[0] == "torch")
ops = sorted(torch._C._dispatch_get_all_op_names())
print(json.dumps([names, ops, sorted(dir(torch)), sorted(dir(torch.nn))]))
"""


@pytest.mark.slow
def test_nothing_is_missing_once_all_is_fetched():
    plain = _run("import json, sys, torch\n" + TOLD)
    names, *rest = _light("lazy_torch.complete()\n" + TOLD)
    assert set(plain[0]) <= set(names)
    assert plain[1:] == rest


@pytest.mark.slow
def test_the_compiler_finds_all_of_torch():
    """No tensor without numbers, which it computes with, is understood without what waited."""
    told = _light(f"""
def mean(x):
    return torch.nn.functional.scaled_dot_product_attention(x, x, x).mean()
x = torch.ones(1, 1, 4, 4)
print(json.dumps([float(torch.compile(mean, backend="aot_eager")(x)), {WAITING}]))
""")
    assert told == [1.0, []]


@pytest.mark.slow
def test_what_waits_can_be_fetched_for_tensors_without_numbers():
    told = _light(f"""
lazy_torch.complete()
x = torch.ones(1, 1, 4, 4, device="meta")
where = torch.nn.functional.scaled_dot_product_attention(x, x, x).device
print(json.dumps([where.type, {WAITING}]))
""")
    assert told == ["meta", []]


def test_nothing_is_put_off_where_torch_is_there_or_unknown(monkeypatch):
    import torch.export

    lazy_torch.put_off()
    assert sys.modules["torch.export"] is torch.export
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(lazy_torch, "KNOWN", ("no such version",))
    lazy_torch.put_off()
    assert sys.modules["torch.export"] is torch.export
