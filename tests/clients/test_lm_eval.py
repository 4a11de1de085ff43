"""The real lm-eval asks a model of braid, offline, and gets what direct scoring gives."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from braid import Hole, Pipeline
from braid.clients import lm_eval as client
from braid.clients.continuing import Continuing, Wish
from braid.clients.lm_eval import wish
from braid.errors import BraidError
from tests.laws import models

lm_eval = pytest.importorskip("lm_eval")

CHOICES = ["row one", "column two", "a row and a column", "one"]
QUESTIONS = ["row", "column", "which", "two and", "a picture of", "one"]
ROWS = [{"question": q, "choices": CHOICES, "gold": i % 4} for i, q in enumerate(QUESTIONS)]

CHOICE = """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""
WRITING = """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[gold]}}"
generation_kwargs:
  until: ["e", "zzz"]
  max_gen_toks: 6
  do_sample: false
metric_list:
  - metric: exact_match
"""
ROLLING = """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}} {{choices[gold]}}"
metric_list:
  - metric: byte_perplexity
"""
TASKS = {"toy_choice": CHOICE, "toy_writing": WRITING, "toy_rolling": ROLLING}


@pytest.fixture(scope="module", autouse=True)
def tasks(tmp_path_factory) -> Path:
    """Write tasks and their data; keep what `datasets` caches out of the home folder."""
    import datasets

    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for name, text in TASKS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        head += f"    test: {data}\n  cache_dir: {folder / 'cache'}\ntest_split: test\n"
        (folder / f"{name}.yaml").write_text(head + text.lstrip())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        yield folder


def saved(paradigm: str, folder: Path) -> tuple[Pipeline, Path]:
    """Return a pipeline of random weights, and a folder that holds it."""
    pipe = models.pipeline(paradigm)
    pipe.save_pretrained(folder / "model")
    return pipe, folder / "model"


def evaluate(model: Path, tasks: Path, name: str, **options) -> dict:
    """Run lm-eval's own evaluation."""
    from lm_eval.tasks import TaskManager

    client.register()
    return lm_eval.simple_evaluate(
        model="braid",
        model_args={"pretrained": str(model), "device": "cpu", **options},
        tasks=[name],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    "paradigm",
    [
        "chameleon",
        "fudoki",
        pytest.param("mmada", marks=SLOW),
        pytest.param("blockdiff", marks=SLOW),
    ],
)
def test_accuracy_is_that_of_choosing(paradigm, tasks, tmp_path):
    pipe, model = saved(paradigm, tmp_path)
    chosen = [
        pipe.choose([r["question"]], r["choices"], times=4, seed=1).index == r["gold"] for r in ROWS
    ]
    options = {"turns": True, "times": 4, "seed": 1, "greedy": False}
    found = evaluate(model, tasks, "toy_choice", **options)
    assert found["results"]["toy_choice"]["acc,none"] == sum(chosen) / len(chosen)
    by_document = {s["doc_id"]: s["acc"] for s in found["samples"]["toy_choice"]}
    assert [bool(by_document[i]) for i in range(len(ROWS))] == chosen
    assert 0 < sum(chosen) < len(chosen) or paradigm != "chameleon"


@pytest.mark.slow
def test_accuracy_of_one_text_is_that_of_its_likelihoods(tasks, tmp_path):
    pipe, model = saved("showo", tmp_path)
    right = 0
    for row in ROWS:
        found = Continuing(pipe).likelihoods([(row["question"], c) for c in row["choices"]])
        right += max(range(4), key=lambda i: found[i].nats) == row["gold"]
    found = evaluate(model, tasks, "toy_choice")
    assert found["results"]["toy_choice"]["acc,none"] == right / len(ROWS)


@pytest.mark.slow
def test_texts_are_written_up_to_a_stop(tasks, tmp_path):
    pipe, model = saved("showo", tmp_path)
    samples = evaluate(model, tasks, "toy_writing")["samples"]["toy_writing"]
    written = {s["doc_id"]: s["resps"][0][0] for s in samples}
    for i, row in enumerate(ROWS):
        (direct,) = Continuing(pipe).texts([row["question"]], [Wish(6)])
        assert written[i] == direct.split("e")[0].split("zzz")[0]


def test_answers_are_those_of_the_pipeline(tasks, tmp_path):
    pipe, model = saved("chameleon", tmp_path)
    samples = evaluate(model, tasks, "toy_writing", turns=True)["samples"]["toy_writing"]
    written = {s["doc_id"]: s["resps"][0][0] for s in samples}
    for i, row in enumerate(ROWS):
        direct = pipe([row["question"], Hole("text", 6)], temperature=0.0)[1]
        assert written[i] == direct.split("e")[0]


def test_perplexity_is_that_of_the_texts(tasks, tmp_path):
    pipe, model = saved("showo", tmp_path)
    texts = [f"{r['question']} {r['choices'][r['gold']]}" for r in ROWS]
    found = evaluate(model, tasks, "toy_rolling")["results"]["toy_rolling"]
    nats, size = -sum(Continuing(pipe).rolling(texts)), sum(len(t.encode()) for t in texts)
    assert math.isclose(found["byte_perplexity,none"], math.exp(nats / size), rel_tol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["verb", pytest.param("module", marks=SLOW)])
def test_its_own_command_line_knows_the_model(way, tasks, tmp_path, monkeypatch):
    from lm_eval import tasks as known

    from braid.cli import main

    _, model = saved("showo", tmp_path)
    # the thousands of tasks that come with lm-eval take long to list
    monkeypatch.setattr(known.TaskManager.__init__, "__defaults__", (None, None, False, None))
    arguments = ["--model", "braid", "--model_args", f"pretrained={model}"]
    arguments += ["--device", "cpu"] if way == "verb" else []  # lm-eval's own is cuda:0
    arguments += ["--tasks", "toy_choice", "--include_path", str(tasks)]
    arguments += ["--output_path", str(tmp_path / "out")]
    if way == "module":
        client.main(arguments)
    else:
        with pytest.raises(SystemExit) as e:
            main(["lm-eval", *arguments])
        assert not e.value.code
    (written,) = (tmp_path / "out").rglob("results_*.json")
    direct = evaluate(model, tasks, "toy_choice")["results"]["toy_choice"]
    results = json.loads(written.read_text())["results"]["toy_choice"]
    assert results["acc,none"] == direct["acc,none"]


def test_options_of_a_task_become_a_wish():
    assert wish({"until": "\n"}, 9) == Wish(9, ("\n",), 0.0)
    assert wish({"until": ["a", ""], "max_gen_toks": 3}, 9) == Wish(3, ("a",), 0.0)
    assert wish({"do_sample": True}, 9).temperature == 1.0
    assert wish({"do_sample": True, "temperature": 0.5}, 9).temperature == 0.5
    assert wish({"do_sample": False, "temperature": 0.5, "top_p": 1.0}, 9).temperature == 0.0
    assert wish({"do_sample": True, "temperature": 0.0}, 9).temperature == 0.0
    with pytest.raises(BraidError, match=r"generation_kwargs top_k=5 is not supported"):
        wish({"top_k": 5}, 9)


def test_a_wrong_batch_size_is_named(tmp_path):
    _, model = saved("showo", tmp_path)
    with pytest.raises(BraidError, match="batch_size 'many' is no number; use one, or auto"):
        client.register()(pretrained=str(model), device="cpu", batch_size="many")
