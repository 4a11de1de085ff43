"""Several processes give what one gives."""

from __future__ import annotations

import contextlib
import threading
import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import (
    DistStoreError,
    TCPStore,  # pyright: ignore[reportPrivateImportUsage]
)

from braid import parallel
from braid.errors import BraidError
from braid.parallel import World, join, watch
from braid.parallel.sharding import split
from braid.parallel.watch import Watch
from tests.laws import models
from tests.parallel import work
from tests.parallel.ranks import call

WORK = "tests.parallel.work"


def test_one_process_needs_no_group():
    world = join(environment={})
    assert (world.rank, world.size, world.group) == (0, 1, None)
    assert work.tell(world, [5]) == {
        "total": [5, 1],
        "gathered": [{"rank": 0, "text": ""}],
        "told": 0,
        "any": False,
        "all": False,
    }


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "0"}, "RANK is set but WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK 2 is not below WORLD_SIZE 2"),
        ({"RANK": "a", "WORLD_SIZE": "2"}, "RANK 'a' is no whole number"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(environment, said):
    whole = {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    if len(environment) > 1:
        environment = whole | environment
    with pytest.raises(BraidError, match=said):
        join(environment=environment)


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    environment = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    with pytest.raises(BraidError, match="LOCAL_RANK 2 has no GPU of its own.* sees 2"):
        join(torch.device("cuda"), environment=environment)


@pytest.fixture
def store():
    return TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timedelta(seconds=5))


def test_a_rank_that_waits_for_another_still_gives_signs_of_life(store, monkeypatch):
    monkeypatch.setattr(watch, "_EVERY", 0.02)

    def wait():
        with contextlib.suppress(DistStoreError):
            store.wait(["what no rank sets"], timedelta(seconds=0.5))

    other, sign = store.clone(), Watch(store, 0, 2)
    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.1)
    sign.at(7, "saving")
    time.sleep(0.2)
    assert waiting.is_alive()
    assert other.get("braid/0").endswith(b"7 saving")
    waiting.join()
    sign.close()


def test_ranks_that_lost_their_store_are_told_so(store, monkeypatch):
    sign = Watch(store, 1, 2)

    def gone(key):
        raise DistStoreError("Connection reset by peer")

    monkeypatch.setattr(sign, "_store", SimpleNamespace(get=gone, set=lambda *_: None))
    assert sign.late() == (
        "the store through which the ranks met is gone; this is rank 1 at step 0: starting"
    )
    sign.close()


def test_gains_of_each_head_are_not_split():
    made = models.build(models.experiment("chameleon", "transformer.qk_norm=heads"))
    two = SimpleNamespace(size=lambda: 2)  # a mesh needs as many processes
    with pytest.raises(BraidError, match="gains of each head's own"):
        split(made, two)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ranks", "shard", "tensor", "said"),
    [(4, None, 3, "parallel.tensor 3 does not divide 4"), (4, 3, 1, "parallel.shard 3 does not")],
)
def test_numbers_that_do_not_divide_are_refused(ranks, shard, tensor, said):
    with pytest.raises(BraidError, match=said):
        parallel.mesh("cpu", ranks, shard, tensor)


@pytest.mark.slow
def test_ranks_agree():
    a, b = call(WORK, "tell", 2, {"values": [3, 4]})
    assert (
        a
        == b
        == {
            "total": [7, 2],
            "gathered": [{"rank": 0, "text": ""}, {"rank": 1, "text": "é"}],
            "told": 0,
            "any": True,
            "all": False,
        }
    )


@pytest.mark.slow
def test_an_error_of_one_rank_reaches_all():
    assert call(WORK, "fail", 2, {}) == [
        "BraidError: rank 1: OSError: the disk is full",
        "OSError: the disk is full",
    ]


LAYOUTS = [
    pytest.param(2, None, 1, [], id="sharded", marks=pytest.mark.slow),
    pytest.param(2, 1, 1, [], id="replicated", marks=pytest.mark.slow),
    pytest.param(2, None, 2, [], id="tensor"),
    pytest.param(2, None, 1, ["parallel.recompute=true"], id="recomputed", marks=pytest.mark.slow),
    pytest.param(4, 2, 1, [], id="hybrid", marks=pytest.mark.slow),
    pytest.param(4, None, 2, [], id="sharded-tensor", marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "shard", "tensor", "settings"), LAYOUTS)
def test_a_sharded_gradient_is_the_gradient(ranks, shard, tensor, settings):
    settings = ["data.match=[text, image]", *settings]
    alone = work.gradients(World(), settings, match=True)
    found = call(
        WORK,
        "gradients",
        ranks,
        {"settings": settings, "shard": shard, "tensor": tensor, "match": True},
    )
    assert all(f == found[0] for f in found)
    assert found[0]["loss"] == pytest.approx(alone["loss"], rel=1e-6)
    assert found[0]["norm"] == pytest.approx(alone["norm"], rel=1e-5)
    assert found[0]["norms"].keys() == alone["norms"].keys()
    for name, norm in alone["norms"].items():
        assert found[0]["norms"][name] == pytest.approx(norm, rel=1e-4, abs=1e-6), name
    assert any(abs(x) > 1e-3 for far in alone["moved"].values() for x in far)
    for name, far in alone["moved"].items():
        assert found[0]["moved"][name] == pytest.approx(far, rel=1e-2, abs=3e-4), name
