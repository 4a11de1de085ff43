"""Launch files only say who the ranks are: each starts the same `braid train` command."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from braid import recipes
from braid.cli import app

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
TRAIN = ["digits", "train.steps=3", "data.workers=2", "--out", "runs/a folder", "--device", "cpu"]
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="the launch files are for bash")


def start(*command: object, **env: str) -> str:
    """Run a command in the project's folder; return what it printed."""
    names = ("NODES", "NODE_RANK", "MASTER_ADDR", "PROCESSES", "SLURM_NODEID", "DRY_RUN", "RUN_ID")
    kept = {k: v for k, v in os.environ.items() if k not in names}
    done = subprocess.run(
        [str(c) for c in command],
        env={**kept, **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def rank_command(line: str, processes: int, nodes: int = 1) -> list[str]:
    """Check a command of torchrun; return what it starts as a rank."""
    from torch.distributed.run import get_args_parser

    words = shlex.split(line)
    at = words.index("torch.distributed.run")
    assert words[at - 1] == "-m"
    made = get_args_parser().parse_args(words[at + 1 :])
    assert (made.nnodes, made.nproc_per_node) == (str(nodes), str(processes))
    assert "SIGUSR1" in made.signals_to_handle.split(",")
    assert made.no_python
    assert Path(made.training_script) == LAUNCH / "rank.sh"
    return made.training_script_args


def read_by_braid(words: list[str]) -> dict[str, object]:
    """Read a command line as braid would; return the parameters of its command."""
    import typer

    group = typer.main.get_command(app)
    context = group.make_context("braid", list(words))
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    read = command.make_context(name, rest, parent=context).params
    assert name == "train"
    recipes.resolve(read["recipe"], read["settings"] or [])  # its settings exist
    return read


def is_the_usual(words: list[str]) -> None:
    """Claim that a command is `braid train` with the arguments of TRAIN."""
    read = read_by_braid(words)
    assert (read["recipe"], read["out"], read["device"]) == (
        "digits",
        Path("runs/a folder"),
        "cpu",
    )
    assert read["settings"] == ["train.steps=3", "data.workers=2"]


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_torchrun_on_one_machine(dry):
    env = {"PROCESSES": "4"} | ({} if dry else {"DRY_RUN": "1"})
    is_the_usual(rank_command(start(BASH, LAUNCH / "torchrun.sh", *dry, *TRAIN, **env), 4))


def test_torchrun_on_several_machines():
    from torch.distributed.run import get_args_parser

    for number, hosts in (("0", "true"), ("1", "false")):
        env = {"NODES": "2", "NODE_RANK": number, "MASTER_ADDR": "first", "PROCESSES": "8"}
        line = start(BASH, LAUNCH / "torchrun.sh", "--dry-run", *TRAIN, **env)
        is_the_usual(rank_command(line, 8, 2))
        made = get_args_parser().parse_args(shlex.split(line)[3:])
        assert (made.rdzv_backend, made.rdzv_endpoint) == ("c10d", "first:29500")
        assert f"is_host={hosts}" in made.rdzv_conf


def test_torchrun_without_the_name_of_machine_0_is_refused():
    with pytest.raises(subprocess.CalledProcessError) as e:
        start(BASH, LAUNCH / "torchrun.sh", "--dry-run", *TRAIN, NODES="2")
    assert "MASTER_ADDR" in e.value.stderr


@pytest.mark.parametrize("file", ["torchrun.sh", "slurm.sbatch"])
def test_no_recipe_is_a_mistake_in_the_input(file):
    with pytest.raises(subprocess.CalledProcessError) as e:
        start(BASH, LAUNCH / file, DRY_RUN="1")
    assert e.value.returncode == 2
    assert "usage" in e.value.stderr


def test_slurm_starts_torchrun_once_a_machine():
    env = {"DRY_RUN": "1", "SLURM_JOB_NUM_NODES": "4", "MASTER_ADDR": "first", "SLURM_JOB_ID": "7"}
    words = shlex.split(start(BASH, LAUNCH / "slurm.sbatch", *TRAIN, **env))
    assert words[:5] == ["srun", "--nodes", "4", "--ntasks-per-node", "1"]
    inner = {**env, "NODES": "4", "SLURM_NODEID": "3", "PROCESSES": "8"}
    is_the_usual(rank_command(start(*words[5:], **inner), 8, 4))


def test_slurm_asks_for_a_signal_and_queues_again():
    text = (LAUNCH / "slurm.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", text, re.M))
    assert options["signal"] == "B:USR1@120"
    assert {"requeue", "open-mode"} <= options.keys()
    assert options["ntasks-per-node"] == "1"


def test_kubernetes_starts_torchrun_in_each_pod():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    train = pod["containers"][0]
    env = {e["name"]: e["value"] for e in train["env"]}
    assert int(env["NODES"]) == spec["completions"] == spec["parallelism"]
    assert int(env["PROCESSES"]) == train["resources"]["limits"]["nvidia.com/gpu"]
    assert env["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["completionMode"] == "Indexed"
    again = [r["onExitCodes"]["values"] for r in spec["podFailurePolicy"]["rules"][1:]]
    assert again == [[75], [2]]
    pod_env = {**env, "JOB_COMPLETION_INDEX": "1", "DRY_RUN": "1"}
    made = start(*train["command"], *train["args"], **pod_env)
    assert read_by_braid(rank_command(made, 8, 2))["out"] == Path("/runs/omni")


def test_skypilot_starts_torchrun_on_each_machine():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    env = {
        "SKYPILOT_NUM_NODES": str(task["num_nodes"]),
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "192.0.2.1\n192.0.2.2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
        "SKYPILOT_TASK_ID": "sky-1",
        "DRY_RUN": "1",
    }
    made = start(BASH, "-c", task["run"], **{**task["envs"], **env})
    assert "192.0.2.1:29500" in made
    assert read_by_braid(rank_command(made, 8, 2))["recipe"] == "omni"


def ray_train():
    """Import launch/ray_train.py, which needs no ray before it starts workers."""
    spec = importlib.util.spec_from_file_location("ray_train", LAUNCH / "ray_train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ray_workers_start_the_command_as_ranks():
    words = shlex.split(
        start(sys.executable, LAUNCH / "ray_train.py", "--workers", 16, "--dry-run", *TRAIN)
    )
    assert words[1:3] == ["-m", "braid"]
    is_the_usual(words[3:])
    from braid.parallel.world import VARIABLES

    env = ray_train().environment(3, 16, 1, "192.0.2.1", 29500)
    assert set(env) == set(VARIABLES)
    assert (env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"]) == ("3", "16", "1")


def test_a_rank_tells_its_exit_code_and_torchrun_only_of_failures(tmp_path):
    """Codes that mean "saved" end as success; torchrun would otherwise kill the other ranks."""
    stand = tmp_path / "python"  # ends with the code it is given as the recipe
    stand.write_text('#!/bin/sh\n[ "$1 $2 $3" = "-m braid train" ] && exit "$4"\nexit 99\n')
    stand.chmod(0o755)
    for code, told in ((0, 0), (75, 0), (130, 0), (2, 2), (1, 1)):
        env = {**os.environ, "PYTHON": str(stand), "BRAID_CODES": str(tmp_path), "LOCAL_RANK": "1"}
        done = subprocess.run([BASH, LAUNCH / "rank.sh", "train", str(code)], env=env, check=False)
        assert done.returncode == told
        assert (tmp_path / "1.code").read_text() == f"{code}\n"


SMALL = [
    "toy",
    *("transformer.width=32", "transformer.depth=2", "transformer.heads=2"),
    *("train.batch=8", "train.preview_every=0", "train.log_every=1"),
]


def launch(out: Path, *settings: str, ranks: int = 2) -> subprocess.Popen:
    """Start launch/torchrun.sh on the CPU."""
    env = {**os.environ, "PROCESSES": str(ranks), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = str(ROOT)
    words = [BASH, str(LAUNCH / "torchrun.sh"), *SMALL, *settings]
    return subprocess.Popen(
        [*words, "--out", str(out), "--device", "cpu"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_launch_ends_with_the_code_of_its_ranks_and_goes_on(tmp_path):
    out = tmp_path / "run"
    first = launch(out, "train.steps=100000")
    metrics = out / "metrics.jsonl"
    while first.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.1)
    first.send_signal(signal.SIGUSR1)
    said, _ = first.communicate(timeout=120)
    assert first.returncode == 75, said
    steps = [int(p.name.removeprefix("step-")) for p in (out / "checkpoints").iterdir()]
    assert len(steps) == 1
    second = launch(out, f"train.steps={steps[0] + 2}")
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert f"going on at step {steps[0]}" in said
    wrong = launch(out, "train.stepz=3")
    said, _ = wrong.communicate(timeout=120)
    assert (wrong.returncode, "did you mean 'train.steps'" in said) == (2, True)
