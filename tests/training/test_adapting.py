"""Adaptation: what is kept of a next-token model, what learns, and how fast."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

import braid
from braid import Hole, adapting, storage
from braid.convert_commands import convert
from braid.data import Data
from braid.data.sources import Examples
from braid.errors import BraidError
from braid.layout import Span, pack
from braid.recipes import resolve
from braid.settings import load
from braid.training import Trainer
from tests.families import made
from tests.laws import models

SHORT = ("train.steps=2", "train.batch=8", "train.warmup=1", "train.ema=0")
CAUSAL = [p for p in models.NAMES if any(s.causal for s in models.build(p).strands.values())]
FLOWS = ["discrete_flow", "masked", "{kind: discrete_flow, path: mask}"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """Return paradigm -> a folder of its model with random weights."""
    folder = tmp_path_factory.mktemp("saved")
    for paradigm in models.NAMES:
        models.pipeline(paradigm).save(folder / paradigm)
    return {paradigm: folder / paradigm for paradigm in models.NAMES}


def trainer(model: Path, out: Path, *settings: str) -> tuple[Trainer, str]:
    """Return a trainer that adapts a model, and what it said on the way."""
    said = io.StringIO()
    found = resolve("adapt-ar", [f"model={model}", *SHORT, *settings])
    return Trainer(found, out, Console(file=said, width=500), "cpu"), said.getvalue()


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def changed(before: dict[str, torch.Tensor], model: torch.nn.Module) -> set[str]:
    return {n for n, p in model.named_parameters() if not torch.equal(before[n], p)}


@pytest.mark.parametrize("process", FLOWS)
@pytest.mark.parametrize("paradigm", CAUSAL)
def test_the_shift_is_kept_and_attention_opened(paradigm, process, saved):
    source = models.experiment(paradigm)
    causal = [n for n, s in models.build(paradigm).strands.items() if s.causal]
    settings = [f"strands.{n}.process={process}" for n in causal]
    found = resolve("adapt-ar", [f"model={saved[paradigm]}", *settings])
    model = models.build(found)
    assert found.rule == "full"
    assert found.train.start == str(saved[paradigm])
    assert found.data == source.data
    for name, strand in model.strands.items():
        assert not strand.causal
        if name in causal:
            assert strand.shift == 1
        else:
            assert found.strands[name] == source.strands[name]
    assert load(json.loads(json.dumps(found.model_dump(mode="json")))) == found


def test_settings_are_obeyed(saved):
    here = [f"model={saved['chameleon']}"]
    kept = resolve("adapt-ar", [*here, "strands.image.process=autoregressive"])
    assert kept.rule == "spans"  # the picture must not see itself
    assert kept.strands["image"].sampler == models.experiment("chameleon").strands["image"].sampler
    assert models.build(kept).strands["image"].causal
    assert models.build(kept).strands["text"].shift == 1
    chosen = ["strands.text.process={kind: discrete_flow, shift: 0}", "rule=spans"]
    found = resolve("adapt-ar", [*here, *chosen])
    assert (found.rule, models.build(found).strands["text"].shift) == ("spans", 0)
    blocks = "strands.text.process={kind: masked, size_of_block: 2}"
    assert resolve("adapt-ar", [*here, blocks]).rule == "spans"


@pytest.mark.parametrize("paradigm", CAUSAL)
def test_it_begins_as_the_model_that_it_came_from(paradigm, saved, tmp_path):
    """Where each token sees only what came before, nothing but the process's noise differs."""
    begun, _ = trainer(saved[paradigm], tmp_path / "run", "rule=spans")
    source = braid.load(saved[paradigm], "cpu").braid
    tokens = models.span(source, "text", 6).tokens
    layout = pack([[[Span("text", tokens)]]], source.placements, twins=False).layout
    for time in (0.1, 0.9):
        told = {"text": torch.full((6,), time)}
        there, here = (m.eval()({"text": tokens}, told, layout) for m in (source, begun.braid))
        assert torch.allclose(there["text"], here["text"], atol=1e-5)


def test_the_table_tells_what_was_taken_new_and_left(saved, tmp_path):
    process = "strands.text.process=masked"
    run, said = trainer(saved["transfusion"], tmp_path / "run", process)
    source = braid.load(saved["transfusion"], "cpu").braid
    ours, theirs = dict(run.braid.state_dict()), dict(source.state_dict())
    table = "strands.text.embedder.table.weight"
    size = len(theirs[table])
    assert len(ours[table]) == size + 1
    assert torch.equal(ours[table][:size], theirs[table])
    assert torch.allclose(ours[table][size], theirs[table].mean(0), atol=1e-6)
    assert all(torch.equal(ours[n], theirs[n]) for n in ours.keys() - {table})
    lines = said.splitlines()
    assert f"{len(ours)} tensors taken, 0 new, 0 left behind" in lines[0]
    assert sum(int(line.split()[2]) for line in lines[1:] if line.startswith("  taken")) == len(
        ours
    )
    assert any("strands.text.embedder" in x and "mask begins as their mean" in x for x in lines)


def test_what_has_no_place_is_told(saved, tmp_path):
    settings = ["transformer.hidden=40", "strands.text.process=discrete_flow"]
    run, said = trainer(saved["transfusion"], tmp_path / "run", *settings)
    hidden = [n for n, _ in run.braid.named_parameters() if ".feed." in n]
    summary = said.splitlines()[0]
    assert f"{len(hidden) + 2} new, {len(hidden)} left behind" in summary  # and a clock
    assert "of shape" in said
    assert "begins at zero" in said


PARTS = {
    "text": lambda n: n.startswith("strands.text."),
    "transformer": lambda n: n.startswith("transformer."),
    "transformer.blocks.0": lambda n: n.startswith("transformer.blocks.0."),
    "strands.*.kind": lambda n: n.endswith(".kind"),
    "*_norm.weight": lambda n: n.endswith("_norm.weight"),
}


@pytest.mark.parametrize("pattern", PARTS)
def test_what_is_frozen_stays_and_all_else_learns(pattern, saved, tmp_path):
    run, _ = trainer(saved["chameleon"], tmp_path / "run", f'train.freeze=["{pattern}"]')
    before = values(run.braid)
    frozen = {n for n in before if PARTS[pattern](n)}
    run.run()
    assert frozen
    assert changed(before, run.braid) == before.keys() - frozen


def test_each_part_learns_at_its_own_rate(saved, tmp_path):
    rates = ["train.rates={text: 0.5, strands.text.head: 0.25, transformer.blocks.1: 3}"]
    run, _ = trainer(saved["chameleon"], tmp_path / "run", "train.rates.image=2")
    assert {g["factor"] for g in run.optimizer.param_groups} == {1.0, 2.0}
    run, _ = trainer(saved["chameleon"], tmp_path / "other", *rates)
    names = {id(p): n for n, p in run.braid.named_parameters()}
    run.run()
    base = run.experiment.train.learning_rate
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            factor = 1.0
            if name.startswith("strands.text."):
                factor = 0.25 if ".head." in name else 0.5
            elif name.startswith("transformer.blocks.1."):
                factor = 3.0
            assert group["factor"] == factor
            assert 0 < group["lr"] <= base * factor


def test_rates_and_frozen_parts_survive_an_interruption(saved, tmp_path):
    settings = ["train.rates={text: 0.5}", "train.freeze=[transformer.blocks.0]"]
    settings += ["train.final_rate=1"]  # a schedule would end with the first part
    whole, _ = trainer(saved["chameleon"], tmp_path / "whole", *settings, "train.steps=4")
    whole.run()
    first, _ = trainer(saved["chameleon"], tmp_path / "parts", *settings)
    first.run()
    second, _ = trainer(saved["chameleon"], tmp_path / "parts", *settings, "train.steps=4")
    second.run()
    assert second.state.step == 4
    assert not changed(values(whole.braid), second.braid)
    assert not {n for n in changed(values(first.braid), second.braid) if "blocks.0." in n}


WRONG = [
    (["train.freeze=[txt]"], r"train.freeze 'txt' fits no parameter; this model has text, image"),
    (["train.rates={text.heads: 2}"], r"train.rates 'text.heads' fits no parameter"),
    (["train.freeze=['*']"], "leaves nothing to learn"),
    (["train.rates={text: 0}"], "greater than 0"),
    (["train.lora=0"], "greater than or equal to 1"),
    (["train.lora={rank: 2, within: [text.kind]}"], "holds no linear layer that may learn"),
    (["train.lora=2", "train.freeze=[transformer]"], "holds no linear layer that may learn"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_a_wrong_setting_is_named_before_work_starts(settings, message, saved, tmp_path):
    with pytest.raises(BraidError, match=message):
        trainer(saved["chameleon"], tmp_path / "run", *settings)
    assert not storage.steps(tmp_path / "run" / "checkpoints")


def test_a_model_that_does_not_do_is_named(saved, tmp_path):
    with pytest.raises(BraidError, match=r"recipe 'adapt-ar' needs model=\.\.\."):
        resolve("adapt-ar", [])
    with pytest.raises(BraidError, match="does not exist"):
        resolve("adapt-ar", [f"model={tmp_path / 'none'}"])
    with pytest.raises(BraidError, match="has no strand that is generated token by token"):
        resolve("adapt-ar", [f"model={saved['fudoki']}"])
    with pytest.raises(BraidError, match=r"would still be generated token by token; set a process"):
        resolve(
            "adapt-ar",
            [f"model={saved['transfusion']}", "strands.text.process=autoregressive"],
        )
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BraidError, match="is a released model; convert it first: braid convert"):
        resolve("adapt-ar", [f"model={tmp_path}"])


LORA = "train.lora={rank: 3, alpha: 6}"


def test_adapters_alone_learn_beside_the_transformer(saved, tmp_path):
    pytest.importorskip("peft")
    run, _ = trainer(saved["chameleon"], tmp_path / "run", LORA, "train.freeze=[image]")
    before = values(run.braid)
    run.run()
    moved = changed(before, run.braid)
    assert {n for n in moved if n.startswith("transformer.")} == {n for n in before if "lora_" in n}
    assert {n for n in before if n.startswith("strands.text.")} <= moved
    assert not {n for n in moved if n.startswith("strands.image.")}


def test_a_head_of_symbols_has_no_adapter_and_every_adapter_learns(tmp_path):
    pytest.importorskip("peft")
    source = models.experiment("fudoki", "strands.text.tied=true")
    braid.Pipeline(models.build(source), source).save(tmp_path / "source")
    given = [
        "train.lora={rank: 2, within: [transformer, text]}",
        f"train.start={tmp_path / 'source'}",
    ]
    made = resolve("toy", [*models.SMALL, "strands.text.tied=true", *SHORT, *given])
    run = Trainer(made, tmp_path / "run", Console(quiet=True), "cpu")
    before = values(run.braid)
    run.run()
    adapters = {n for n in before if "lora_B" in n}
    assert adapters <= changed(before, run.braid)
    assert any(n.startswith("strands.text.clock") for n in adapters)
    assert not any(".head." in n for n in adapters)
    braid.load(run.out, "cpu").save(tmp_path / "saved")
    only = "train.lora={rank: 2, within: [strands.text.head]}"
    with pytest.raises(BraidError, match="holds no linear layer that may learn"):
        Trainer(made.model_copy(update={"train": resolve("toy", [only]).train}), tmp_path / "b")


def test_merged_adapters_predict_the_same_and_leave_no_trace(saved, tmp_path):
    pytest.importorskip("peft")
    run, _ = trainer(saved["chameleon"], tmp_path / "run", LORA, "train.learning_rate=0.05")
    plain = set(dict(models.build(run.experiment).named_parameters()))
    run.run()
    model = run.braid.eval()
    batch = models.packed(model, [[models.all_learned(model)]])
    with torch.no_grad():
        noised = model.corrupt(batch, 0)
        told = ({n: x.noisy for n, x in noised.items()}, {n: x.time for n, x in noised.items()})
        apart = model(*told, batch.layout)
        loaded = braid.load(run.out, "cpu")
        braid.Pipeline(model, run.experiment).save(tmp_path / "saved")
        again = braid.load(tmp_path / "saved", "cpu")
        adapting.merge(model)
        for one in (model, loaded.braid, again.braid):
            assert set(dict(one.named_parameters())) == plain
            assert all(p.requires_grad for p in one.parameters())
            together = one(*told, batch.layout)
            assert all(torch.allclose(together[n], apart[n], atol=1e-4) for n in apart)
    moved = {n for n, p in model.named_parameters() if n.endswith("query.weight")}
    source = dict(braid.load(saved["chameleon"], "cpu").braid.named_parameters())
    assert all(not torch.equal(dict(model.named_parameters())[n], source[n]) for n in moved)


def test_a_run_with_adapters_goes_on(saved, tmp_path):
    pytest.importorskip("peft")
    trainer(saved["chameleon"], tmp_path / "run", LORA)[0].run()
    again, said = trainer(saved["chameleon"], tmp_path / "run", LORA, "train.steps=3")
    before = values(again.braid)
    again.run()
    assert again.state.step == 3
    assert "started from" not in said
    assert changed(before, again.braid)


@pytest.mark.parametrize("process", ["discrete_flow", "masked"])
def test_a_converted_release_is_adapted(process, tmp_path):
    pytest.importorskip("transformers")
    folder, _ = made.released(tmp_path / "release", "llama, tied")
    list(convert(str(folder), tmp_path / "model"))
    texts = Examples("texts", {"text": list(made.TEXTS) * 4})
    wanted = [f"model={tmp_path / 'model'}", f"strands.text.process={process}", *SHORT]
    experiment = resolve("adapt-ar", [*wanted, "strands.text.modality.length=8"])
    run = Trainer(experiment, tmp_path / "run", Console(quiet=True), "cpu", Data(texts, texts))
    source = braid.load(folder, "cpu").braid
    before = dict(source.named_parameters(remove_duplicate=False))
    for name, tensor in run.braid.named_parameters(remove_duplicate=False):
        if name in before:
            assert torch.equal(tensor[: len(before[name])], before[name])
    assert run.braid.strands["text"].shift == 1
    table, head = (f"strands.text.{x}.weight" for x in ("embedder.table", "head.linear"))
    own = dict(run.braid.named_parameters(remove_duplicate=False))
    assert (own[table] is own[head]) == (process == "discrete_flow")
    run.run()
    (text,) = braid.load(run.out, "cpu")([Hole("text", 8)], steps=2)
    assert isinstance(text, str)
