"""Steps: the same samples on any ranks and workers, and bad rows counted exactly on all of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
import torch

from braid import config, paradigms
from braid.braid import Braid
from braid.config import DataConfig, Experiment
from braid.data import Stream, documents_for
from braid.data.loader import Loader, Sample, Step, _size
from braid.data.sources import Examples
from braid.data.synthetic import toy
from braid.errors import BraidError
from braid.layout import Batch
from braid.modalities import Image, Tokens
from braid.recipes.strands import strands
from tests.data import dirty
from tests.laws import models

SIZE = 8
SPLITS = [(1, 0, 1), (2, 0, 1), (4, 0, 2), (2, 1, 2), (1, 3, 1), (1, 3, 4)]
"""Ranks, workers and micro-batches."""


def small_loader(seed: int = 0, **options) -> Loader:
    """Return a loader of the toy's rows, two streams of them."""
    braid = models.build("fudoki")
    streams = [
        Stream(source, documents_for(DataConfig(tasks=tasks), braid, source.fields))
        for source, tasks in ((toy(50, 0), {"text_to_image": 1.0}), (toy(30, 1), {"text": 1.0}))
    ]
    return Loader(streams, braid, SIZE, seed, **options)


def taken(
    loader: Loader, position: int, steps: int, ranks: int = 1, workers: int = 0, accumulate: int = 1
) -> list[list[Step]]:
    """Return all ranks' parts of some steps, [steps][ranks]."""
    parts = []
    for rank in range(ranks):
        made = loader.steps(position, accumulate, rank=rank, ranks=ranks, workers=workers)
        parts.append(list(itertools.islice(made, steps)))
        made.close()
    return [list(step) for step in zip(*parts, strict=True)]


def in_order(step: Sequence[Step]) -> Iterator[Sample]:
    """Yield the samples of all ranks of a step in order of position."""
    share = len(step[0].samples) // len(step[0].batches)
    for i in range(len(step[0].batches)):
        for part in step:
            yield from part.samples[i * share : (i + 1) * share]


def counted(steps: Sequence[Sequence[Step]]) -> Counter[str]:
    """Return the bad positions of all steps and ranks, by reason."""
    return sum((Counter(part.skipped) for step in steps for part in step), Counter())


def keys_of(batches: Sequence[Batch], name: str) -> torch.Tensor:
    """Return the keys of all tokens of a modality."""
    return torch.cat([b.token_key[name] for b in batches if name in b.token_key])


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "workers", "accumulate"), SPLITS)
def test_samples_are_the_same_on_any_ranks_and_workers(ranks, workers, accumulate):
    whole = taken(small_loader(), 16, 4)
    parts = taken(small_loader(), 16, 4, ranks, workers, accumulate)
    assert [s for step in parts for s in in_order(step)] == [
        s for step in whole for s in in_order(step)
    ]
    assert [[part.position for part in step] for step in parts] == [
        [16 + SIZE * i] * ranks for i in range(4)
    ]
    for a, b in zip(whole, parts, strict=True):
        for name in a[0].batches[0].tokens:
            ours = keys_of([batch for part in b for batch in part.batches], name)
            theirs = keys_of(a[0].batches, name)
            assert torch.equal(ours.sort().values, theirs.sort().values)


def test_workers_yield_the_same_bits():
    plain, forked = (taken(small_loader(), 0, 5, workers=w, accumulate=2) for w in (0, 3))
    for (a,), (b,) in zip(plain, forked, strict=True):
        assert a.samples == b.samples
        for x, y in zip(a.batches, b.batches, strict=True):
            assert x.tokens.keys() == y.tokens.keys()
            assert all(torch.equal(x.tokens[n], y.tokens[n]) for n in x.tokens)
            assert torch.equal(x.layout.document, y.layout.document)


@pytest.mark.slow
def test_a_run_goes_on_from_any_position_with_other_ranks_and_workers():
    whole = [s for step in taken(small_loader(), 0, 12) for s in in_order(step)]
    found: list[Sample] = []
    for ranks, workers in ((2, 0), (1, 3), (4, 2), (2, 0)):
        steps = taken(small_loader(), len(found), 3, ranks, workers)
        found += [s for step in steps for s in in_order(step)]
    assert found == whole


def test_at_makes_the_same_documents():
    loader = small_loader()
    (step,) = taken(loader, 40, 1)[0]
    batch = loader.at(40, SIZE)
    assert all(torch.equal(x, batch.tokens[n]) for n, x in step.batches[0].tokens.items())


@pytest.mark.parametrize(("accumulate", "ranks"), [(3, 1), (1, 3), (4, 4), (0, 1)])
def test_a_batch_that_cannot_be_cut_evenly_is_refused_at_once(accumulate, ranks):
    with pytest.raises(
        BraidError,
        match=f"train.batch 8 is not a multiple of train.accumulate {accumulate} x {ranks} ranks; "
        "change one of them",
    ):
        small_loader().steps(0, accumulate, ranks=ranks)


@pytest.fixture(scope="module")
def model() -> Braid:
    """Return a model of text, pictures and sound."""
    image = {"kind": "image", "size": 4, "channels": 1, "patch": 2, "levels": 2, "resize": True}
    modalities = {
        "text": {"kind": "text", "vocabulary": 270, "length": 4},
        "image": image,
        "audio": {"kind": "audio", "seconds": 0.4},
    }
    paradigm = paradigms.with_sound("fudoki")
    made = Experiment(
        name="dirty",
        strands=strands(paradigm, modalities),
        rule=paradigm.rule,
        transformer=models.experiment("fudoki").transformer,
        data=DataConfig(tasks={"text": 1}),
    )
    states = {}
    for name, strand in made.strands.items():
        modality = config.make_modality(name, strand)
        modality.fit(dirty.WORDS)
        states[name] = modality.state()
    return config.build(made, states)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> tuple[dirty.Corpus, dirty.Corpus]:
    """Return the clean corpus and the dirty one."""
    clean, spoilt = (tmp_path_factory.mktemp("corpus") / str(i) for i in range(2))
    return dirty.corpus(clean, dirty=False), dirty.corpus(spoilt)


def mixed_loader(corpus: dirty.Corpus, braid: Braid, limit: float = 0.2) -> Loader:
    """Return a loader of all sources of a corpus."""
    streams = []
    for source in corpus.sources.values():
        tasks = {"text_to_image" if "image" in source.fields else "text_to_audio": 1.0}
        documents = documents_for(DataConfig(tasks=tasks), braid, source.fields)
        streams.append(Stream(source, documents))
    return Loader(streams, braid, 20, seed=3, bad_limit=limit)


def expected(
    clean: list[Sample], bad: Sequence[dict[int, str]], lengths: Sequence[int]
) -> tuple[list[Sample], Counter[str]]:
    """Return the samples of a dirty corpus and its bad positions by reason."""
    samples, reasons = [], Counter()
    for stream, row in clean:
        if row in bad[stream]:
            reasons[bad[stream][row]] += 1
        while row in bad[stream]:
            row = (row + 1) % lengths[stream]
        samples.append((stream, row))
    return samples, reasons


STEPS = 60


PLANS = [
    (1, 0),
    pytest.param(2, 0, marks=pytest.mark.slow),
    pytest.param(1, 3, marks=pytest.mark.slow),
    pytest.param(2, 3, marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "workers"), PLANS)
def test_bad_rows_are_counted_exactly_and_move_nothing(ranks, workers, model, corpora):
    clean, spoilt = corpora
    loader = mixed_loader(clean, model)
    reference = [s for step in taken(loader, 0, STEPS) for s in in_order(step)]
    assert loader.skipped == 0
    loader, said = mixed_loader(spoilt, model), Counter[str]()
    for rows in loader.rows:
        rows.on_skip = lambda i, message: said.update([message])
    got = taken(loader, 0, STEPS, ranks, workers)
    bad = list(spoilt.bad.values())
    samples, reasons = expected(reference, bad, [len(s) for s in spoilt.sources.values()])
    assert [s for step in got for s in in_order(step)] == samples
    assert counted(got) == reasons
    assert {s for s in reference if s[1] in bad[s[0]]} == {
        (stream, row) for stream, rows in enumerate(bad) for row in rows
    }  # every bad row was met
    assert set(said.values()) == {1}
    assert loader.skipped == len(said) == sum(map(len, bad)) == 19
    for rows, known in zip(loader.rows, bad, strict=True):
        assert sum(rows.skipped.values()) == len(known)


@pytest.mark.slow
def test_counts_of_positions_do_not_depend_on_where_a_run_was_interrupted(model, corpora):
    _, spoilt = corpora
    whole = counted(taken(mixed_loader(spoilt, model), 0, STEPS))
    first = counted(taken(mixed_loader(spoilt, model), 0, 7))
    rest = counted(taken(mixed_loader(spoilt, model), 7 * 20, STEPS - 7, workers=2))
    assert first + rest == whole


@pytest.mark.parametrize("workers", [0, 3])
def test_too_many_bad_rows_end_a_run_with_any_workers(workers, model, corpora):
    loader = mixed_loader(corpora[1], model, limit=0.05)
    steps = loader.steps(0, workers=workers)
    with pytest.raises(BraidError, match=r"rows of '.*' are bad .* raise data.bad_limit"):
        for _ in range(STEPS):
            next(steps)
    steps.close()


def test_a_sample_is_named(model, corpora):
    loader = mixed_loader(corpora[1], model)
    assert loader.describe((0, 7)) == "rows row 7 (7.png)"


@pytest.mark.slow
def test_what_workers_convert_is_counted(model, corpora):
    image = model.strand("image").modality
    assert isinstance(image, Image)
    counts = []
    for workers in (0, 2):
        image.converted.clear()
        taken(mixed_loader(corpora[1], model), 0, STEPS, workers=workers)
        counts.append(set(image.converted))
    assert counts[0] == counts[1]
    assert "first frame of an animation" in counts[1]


def test_a_worker_keeps_its_share_of_the_rows():
    rows = Examples("numbers", {"text": ["a"], "image": [toy(1, 0)[0]["image"]]})
    braid = models.build("fudoki")
    documents = documents_for(DataConfig(tasks={"text": 1}), braid, rows.fields)
    (checked,) = Loader([Stream(rows, documents)], braid, SIZE, 0).rows
    checked.get(0)
    before = checked._room
    checked.share(4)
    assert checked._room == before // 4


def test_what_spans_take_beside_their_numbers_counts_as_kept():
    text = Tokens(torch.zeros(4).long(), (4,))
    one = _size({("text", None): text})
    assert one > 1000  # as measured: 912 and the numbers
    assert _size({("text", None): text, ("text", "image"): text}) == one
    other = Tokens(torch.zeros(4).long(), (4,))
    assert _size({("text", None): text, ("text", "image"): other}) == 2 * one


def long_texts(row: int | None, limit: float = 0.1, tasks: dict[str, float] | None = None):
    """Return a loader of twenty texts, of which the eighth is long."""
    braid = models.build("fudoki")
    images = [toy(1, 0)[0]["image"]] * 20
    texts = [f"row {i}" for i in range(20)]
    texts[7] = "row one " * 50
    rows = Examples("rows", {"text": texts, "image": images})
    documents = documents_for(DataConfig(tasks=tasks or {"text": 1}), braid, rows.fields)
    return Loader([Stream(rows, documents)], braid, SIZE, 0, row, limit)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_document_that_does_not_fit_a_row_is_a_bad_row(workers):
    loader = long_texts(32)
    steps = [step for (step,) in taken(loader, 0, 5, workers=workers)]
    assert loader.skipped == 1
    ((row, message),) = loader.rows[0].bad
    assert row == 7
    assert message.startswith("rows row 7: a document of ")
    assert message.endswith(
        "does not fit a row of 32; shorten it, or begin a run with a higher data.row"
    )
    assert counted([steps]) == {"a document of N tokens does not fit a row of N": 2}  # two epochs
    assert 7 not in {row for step in steps for _, row in step.samples}
    loader = long_texts(None)
    assert 7 in {row for (step,) in taken(loader, 0, 5) for _, row in step.samples}
    assert loader.skipped == 0


def test_too_many_documents_that_do_not_fit_end_a_run():
    with pytest.raises(BraidError, match="data.bad_limit 0.01 allows 0; repair the rows or raise"):
        taken(long_texts(32, limit=0.01), 0, 5)


def test_whether_a_document_fits_does_not_depend_on_the_task_that_is_drawn():
    loader = long_texts(32, tasks={"image": 1, "text_to_image": 1e-9})
    taken(loader, 0, 5)
    assert loader.skipped == 1
    loader = long_texts(32, tasks={"image": 1, "text_to_image": 0})
    taken(loader, 0, 5)
    assert loader.skipped == 0
