"""What `braid doctor` says of a run and of a plan is so."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from braid import config, recipes
from braid.checkpoints import Checkpoints, Lock
from braid.data.dummy import dummy_batch
from braid.doctor import Machine, explain_run, plan
from braid.doctor.estimating import GB, Layout, block_activations, estimate, state_bytes
from braid.doctor.planning import best, layouts
from braid.doctor.printing import advice
from braid.doctor.sizes import SIZES, Sizes, skeleton
from braid.errors import BraidError
from braid.paradigms import PARADIGMS
from braid.training.ema import EMA
from braid.training.muon import operations
from braid.training.optimizer import make_optimizer
from braid.transformer import TransformerConfig
from braid.transformer.block import Block
from braid.transformer.cost import PEAKS, peak_flops
from braid.transformer.rope import rotary

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"


# a run


@pytest.fixture
def run(tmp_path):
    """A run that saved at steps 2 and 4, logged step 5, and was killed."""
    recipes.resolve("toy", ["train.steps=8"]).save(tmp_path / "experiment.json")
    saved = Checkpoints(tmp_path / "checkpoints", run="toy")
    for step in (2, 4):
        state = {"step": step, "position": 32 * step, "seconds": 1.0, "tokens": 100 * step}
        state |= {"skipped_rows": {"too long": 3}, "skipped_steps": 1, "rollbacks": 0}
        saved.save(step, {"model": {"w": torch.arange(100.0)}, "ema": {"w": torch.ones(9)}}, state)
    line = {"step": 5, "seconds": 1.25, "tokens_per_second": 400, "train/text/loss": 0.5}
    skipped = {"step": 5, "skipped": "the loss is nan", "samples": [[0, 1]]}
    text = f'{json.dumps(line)}\n{json.dumps(skipped)}\n{{"step": 6, "sec'
    (tmp_path / "metrics.jsonl").write_text(text)
    return tmp_path


def damage(run, step, name="model"):
    """Flip one bit in a file of a checkpoint; returns the file's name."""
    path = next((run / "checkpoints" / f"step-{step}" / name).glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-7] ^= 4
    path.write_bytes(data)
    return path.name


def test_a_killed_run_is_explained(run):
    state = explain_run(run)
    assert (state.name, state.step, state.position, state.progress) == ("toy", 4, 128, 0.5)
    assert [(c.step, c.state) for c in state.checkpoints] == [(2, "sound"), (4, "sound")]
    assert state.metrics["train/text/loss"] == 0.5
    assert state.next == "goes on at step 4 from step-4; steps 5 to 5 are done again"
    assert state.code == 0
    text = "\n".join(state.lines())
    for part in ("3: too long", "3 rows, 1 steps", "400 tokens a second", "50% of its budget"):
        assert part in text
    assert json.loads(json.dumps(state.numbers()))["next"] == state.next


def test_a_damaged_checkpoint_is_named_and_passed_over(run):
    name = damage(run, 4)
    state = explain_run(run)
    assert [c.state for c in state.checkpoints] == ["sound", "damaged"]
    assert state.step == 2
    assert state.next.startswith("falls back to step-2, because step-4 is damaged (model/" + name)
    assert state.code == 1


def test_an_incomplete_checkpoint_is_told_from_a_damaged_one(run):
    next((run / "checkpoints" / "step-4" / "ema").iterdir()).unlink()
    state = explain_run(run)
    assert state.checkpoints[-1].state == "incomplete"
    assert "is missing" in state.next


def test_without_a_sound_checkpoint_the_next_start_refuses(run):
    damage(run, 2, "ema")
    damage(run, 4)
    state = explain_run(run)
    assert state.next.startswith("refuses: no checkpoint is sound (step-4: model/")
    assert (state.step, state.code) == (0, 1)


def test_an_older_damaged_checkpoint_is_no_error(run):
    damage(run, 2)
    state = explain_run(run)
    assert [c.state for c in state.checkpoints] == ["damaged", "sound"]
    assert state.code == 0


def test_a_finished_run_has_nothing_to_do(run):
    recipes.resolve("toy", ["train.steps=4"]).save(run / "experiment.json")
    assert "has nothing to do: the budget is spent at step 4" in explain_run(run).next


def test_a_run_without_checkpoints_begins(tmp_path):
    recipes.resolve("toy").save(tmp_path / "experiment.json")
    state = explain_run(tmp_path)
    assert state.next == "begins at step 0: there is no checkpoint yet"
    assert (state.code, state.metrics, state.progress) == (0, {}, None)
    assert state.lines()


def test_leftovers_of_a_dead_save_are_listed(run):
    (run / "checkpoints" / "step-6.tmp-abc").mkdir()
    state = explain_run(run)
    assert state.leftovers == ["step-6.tmp-abc"]
    assert [c.step for c in state.checkpoints] == [2, 4]


def test_who_trains_in_the_folder_is_told(run):
    assert explain_run(run).held is None
    with Lock(run):
        assert f"process {os.getpid()} on {socket.gethostname()}" in explain_run(run).held
    assert explain_run(run).held is None


def test_the_note_of_a_dead_job_holds_nothing(run):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with Lock(run):
        note = next(run.glob("*lock.json"))
        text = note.read_text()
    note.write_text(text.replace(str(os.getpid()), str(gone.pid)))
    assert explain_run(run).held is None
    note.write_text(text.replace(socket.gethostname(), "elsewhere"))
    assert "if it still lives" in explain_run(run).held


def test_explaining_changes_nothing(run):
    def files():
        return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")}

    before = files()
    explain_run(run)
    assert files() == before


def test_a_damaged_experiment_is_a_problem(run):
    (run / "experiment.json").write_text("{")
    state = explain_run(run)
    assert state.code == 1
    assert "experiment.json" in state.problem
    assert [c.state for c in state.checkpoints] == ["sound", "sound"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(BraidError, match="holds no run"):
        explain_run(tmp_path)


# a plan


@pytest.mark.parametrize("paradigm", PARADIGMS)
@pytest.mark.parametrize("recipe", ["toy", "digits"])
def test_parameters_and_state_are_exact(recipe, paradigm):
    experiment = recipes.resolve(recipe, [f"paradigm={paradigm}"])
    states = {}
    for name, strand in experiment.strands.items():
        modality = config.make_modality(name, strand)
        modality.fit(["row one", "two rows"])
        states[name] = modality.state()
    braid = config.build(experiment, states)
    sizes = Sizes.of(experiment, states)
    assert sizes.parameters == sum(p.numel() for p in braid.parameters())
    optimizer, ema = make_optimizer(braid, experiment.train), EMA(braid, 0.9)
    losses = braid.loss(dummy_batch(braid, experiment, 4), 0)
    for p in braid.parameters():  # also those that this batch has no use for
        p.grad = torch.zeros_like(p)
    losses.total.backward()
    optimizer.step()
    held = {
        "parameters": list(braid.parameters()),
        "gradients": [p.grad for p in braid.parameters()],
        "optimizer": [x for s in optimizer.state.values() for x in s.values() if x.ndim],
        "average": list(ema.average.values()),
    }
    predicted = state_bytes(sizes)
    assert {n: sum(t.nbytes for t in x) for n, x in held.items()} == {n: predicted[n] for n in held}
    alone = estimate(sizes, Machine(gpus=1), Layout()).memory
    assert {n: alone[n] for n in held} == {n: predicted[n] for n in held}


SMALL = ["transformer.width=64", "transformer.depth=3", "train.batch=4"]


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_operations_are_those_that_torch_counts(paradigm):
    experiment = recipes.resolve("digits", [f"paradigm={paradigm}", *SMALL])
    sizes = Sizes.of(experiment)
    braid = skeleton(experiment, device="cpu")
    batch = dummy_batch(braid, experiment, 4)
    braid.corrupt(batch, 0)  # makes tables that are kept
    with FlopCounterMode(display=False) as noise:
        braid.corrupt(batch, 0)
    # the kernel for attention on a CPU is not counted, the plain products are
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        braid.loss(batch, 0).total.backward()
    counted = counter.get_total_flops() - noise.get_total_flops()
    assert sizes.flops * sizes.tokens == pytest.approx(counted, rel=0.05)


def test_every_rank_does_all_operations_of_muon():
    made = [
        recipes.resolve("digits", [*SMALL, f"train.optimizer={name}"]) for name in ("adamw", "muon")
    ]
    adamw, muon = map(Sizes.of, made)
    blocks = skeleton(made[1]).transformer.blocks
    matrices = (m.weight.shape for m in blocks.modules() if hasattr(m, "weight"))
    assert muon.turning == sum(operations(s) for s in matrices if len(s) == 2)
    for gpus in (1, 2):
        with_adamw, with_muon = (
            estimate(s, Machine(gpus=gpus), Layout(shard=gpus)).flops for s in (adamw, muon)
        )
        assert with_muon - with_adamw == pytest.approx(muon.turning)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"key_heads": 2},
        {"qk_norm": "none"},
        {"qk_norm": "layer"},
        {"qk_norm": "heads"},
        {"norm_order": "post"},
        {"dropout": 0.1},
        {"adaln": True},
        {"hidden": 96, "head_width": 8},
    ],
    ids=str,
)
def test_a_block_keeps_the_activations_that_are_predicted(sizes):

    c = TransformerConfig(**{"width": 64, "heads": 4, "depth": 1} | sizes)
    block, rows, row = Block(c), 2, 48
    x = torch.randn(rows, row, 64, requires_grad=True)
    place = torch.arange(row)[None, :, None].expand(rows, row, 3)
    turn = rotary(place, c.size_of_head, c.rope_theta, c.rope_sections)
    own = {p.untyped_storage().data_ptr() for p in (*block.parameters(), *turn)}
    kept = {}

    def keep(t):
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t
        return t

    condition, keys = torch.randn(rows, row, 64), torch.arange(rows * row)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        block(x, turn, None, condition=condition, keys=keys)
    held = sum(t.untyped_storage().nbytes() for t in kept.values())
    assert rows * row * block_activations(c, 4, fused=False) == pytest.approx(held, rel=0.05)


def test_sharding_divides_what_is_kept_and_changes_no_sum():
    sizes = Sizes.of(SIZES["1b"]())
    one, eight = (
        estimate(sizes, Machine(gpus=8), Layout(shard=n)).memory["optimizer"] for n in (1, 8)
    )
    assert one == 8 * eight == 8 * sizes.parameters


def test_each_remedy_saves_what_it_is_for():
    sizes = Sizes.of(SIZES["7b"]())
    plain = estimate(sizes, Machine(gpus=8), Layout(shard=8))
    again = estimate(sizes, Machine(gpus=8), Layout(shard=8, recompute=True))
    parts = estimate(sizes, Machine(gpus=8), Layout(shard=8, accumulate=64))
    split = estimate(sizes, Machine(gpus=8), Layout(shard=1, tensor=8))
    off = estimate(sizes, Machine(gpus=8), Layout(shard=8, offload=True))
    assert again.memory["activations"] < plain.memory["activations"] / 9
    assert again.compute > plain.compute
    assert parts.memory["logits"] == plain.memory["logits"]  # a chunk, however many tokens
    assert parts.sent > plain.sent
    assert split.memory["gathered"] < plain.memory["gathered"]
    assert off.host == sum(plain.memory[n] for n in state_bytes(sizes) if n != "checkpoint")
    assert off.seconds > plain.seconds


@pytest.mark.slow
def test_what_is_proposed_fits_and_can_be_set():
    for name, gpus in (("1b", 1), ("7b", 8), ("70b", 64)):
        made = plan(name, Machine(gpus=gpus))
        assert made.best is not None
        assert made.best.total <= made.room
        asked = plan(name, Machine(gpus=gpus), made.best.layout.settings(gpus))
        assert asked.fits
        assert asked.asked.seconds == pytest.approx(made.best.seconds)


def test_nothing_is_proposed_that_a_run_refuses():
    muon = replace(Sizes.of(SIZES["7b"]()), turned=1)
    assert best(muon, Machine(gpus=1, memory_gb=40)) is None
    offloaded = best(replace(muon, turned=0), Machine(gpus=1, memory_gb=40))
    assert offloaded is not None
    assert offloaded.layout.offload
    whole = replace(muon, transformer=replace(muon.transformer, qk_norm="heads"))
    assert {layout.tensor for layout in layouts(whole, Machine(), False)} == {1}
    assert {layout.tensor for layout in layouts(muon, Machine(), False)} > {1, 2}


def test_one_gpu_with_offloading_gathers_block_by_block():
    sizes = Sizes.of(SIZES["7b"]())
    one, two = (
        estimate(sizes, Machine(gpus=n), Layout(shard=n, offload=True)).memory for n in (1, 2)
    )
    assert one["gathered"] == two["gathered"]


@pytest.mark.slow
def test_what_fits_nowhere_is_said():
    made = plan("70b", Machine(gpus=1, memory_gb=24))
    assert made.best is None
    assert any("no layout fits on 1 GPUs" in line for line in advice(made))
    assert json.loads(json.dumps(made.numbers()))["best"] is None


def test_a_plan_of_a_recipe_takes_its_settings():
    made = plan(recipes.resolve("toy"), Machine(gpus=2), ["train.ema=0", "train.accumulate=2"])
    assert made.asked.memory["average"] == made.asked.memory["parameters"]  # kept all the same
    assert made.asked.layout == Layout(accumulate=2, shard=2)
    assert made.fits


@pytest.mark.parametrize(
    ("machine", "settings", "said"),
    [
        ({"gpus": 8}, ["parallel.shard=3"], "do not divide 8 GPUs"),
        ({"gpus": 3}, [], "not a multiple of train.accumulate"),
        ({"utilisation": 40}, [], "give at most 1"),
        ({"tflops": 0}, [], "must be more than 0"),
    ],
)
def test_numbers_that_contradict_themselves_are_refused(machine, settings, said):
    with pytest.raises(BraidError, match=said):
        plan("1b", Machine(**machine), settings)


def test_an_unknown_size_is_refused_with_the_known_ones():
    with pytest.raises(BraidError, match="did you mean '7b'"):
        plan("7bb")


def test_devices_are_told_by_name():
    assert peak_flops("NVIDIA H100 80GB HBM3") == PEAKS["H100"]
    assert peak_flops("NVIDIA H100 PCIe") == PEAKS["H100 PCIE"] < PEAKS["H100"]
    assert peak_flops("NVIDIA GeForce RTX 4090") == PEAKS["RTX 4090"]
    assert peak_flops("a device of tomorrow") is None
    assert peak_flops(torch.device("cpu")) is None


# the page


@pytest.mark.slow
def test_the_table_of_the_page_is_computed():
    from braid.doctor.tables import TABLE, table

    text = PAGE.read_text(encoding="utf-8")
    shown = re.search(r"<!-- plan -->\n(.*?)\n<!-- /plan -->", text, re.S)[1]
    assert shown == table()
    assert {name for name, _ in TABLE} == set(SIZES)
    assert GB == 1e9
