"""Starting from a trained model: what is taken from it, and what is not."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

import braid
from braid.data import Data
from braid.data.sources import Examples
from braid.data.synthetic import toy as toy_source
from braid.errors import BraidError
from braid.recipes import resolve
from braid.training import Trainer
from tests.laws import models

SMALL = (*models.SMALL, "train.steps=2", "train.batch=8", "train.warmup=1")


def trainer(out: Path, *settings: str, data: Data | None = None) -> tuple[Trainer, str]:
    """Return a trainer of a toy on the CPU, and what it said on the way."""
    said = io.StringIO()
    made = resolve("toy", [*SMALL, *settings])
    return Trainer(made, out, Console(file=said, width=500), "cpu", data), said.getvalue()


def renamed() -> Data:
    """Return the toy's pictures with words that split otherwise."""
    rows = list(toy_source(64, 0))
    columns = {f: [r[f] for r in rows] for f in rows[0]}
    columns["text"] = [f"zxqj {text[::-1]}" for text in columns["text"]]
    return Data(made := Examples("renamed", columns), made)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved model."""
    run, _ = trainer(tmp_path_factory.mktemp("start") / "run")
    run.run()
    pipe = braid.load(run.out, "cpu")
    pipe.save(saved := run.out.parent / "saved")
    return saved


def test_all_tensors_and_the_vocabulary_are_taken(trained, tmp_path):
    fitted, _ = trainer(tmp_path / "afresh", data=renamed())
    begun, said = trainer(tmp_path / "on", f"train.start={trained}", data=renamed())
    source = braid.load(trained, "cpu").braid
    theirs = source.state_dict()
    assert fitted.modality_states["text"] != source.strands["text"].modality.state()
    assert begun.modality_states["text"] == source.strands["text"].modality.state()
    assert all(torch.equal(x, theirs[n]) for n, x in begun.braid.state_dict().items())
    assert f"{len(theirs)} tensors taken, 0 new, 0 left behind" in said


def test_another_vocabulary_is_fitted_where_it_is_described_otherwise(trained, tmp_path):
    size = "strands.text.modality.vocabulary=300"
    begun, said = trainer(tmp_path / "on", f"train.start={trained}", size)
    theirs = braid.load(trained, "cpu").braid
    differ = [
        n
        for n, x in begun.braid.state_dict().items()
        if n in (t := theirs.state_dict()) and t[n].shape == x.shape and not torch.equal(t[n], x)
    ]
    assert all(n.startswith("strands.text.") for n in differ)
    assert " 0 new" not in said


def test_nothing_in_common_is_refused(trained, tmp_path):
    other = ("transformer.width=48", "transformer.hidden=80", "transformer.head_width=24")
    with pytest.raises(BraidError, match="no tensor in common"):
        trainer(tmp_path / "on", f"train.start={trained}", *other)
