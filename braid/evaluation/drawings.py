"""The drawings suite: real pictures with captions, judged by class where they have one.

Sets of pictures are compared on the features of a classifier that was trained on the training
pictures, where the rows have a "label", and on pixels averaged to 8 x 8. Is it memory? Drawings
are shown beside the training pictures nearest to them, and those that come too near are counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PIL

from braid import storage
from braid.config import EvaluateConfig
from braid.data import open_data
from braid.data.rows import require
from braid.data.sources import Source
from braid.errors import BraidError
from braid.evaluation.captions import bleu, cider, exact_match
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.features import Classifier, train_classifier
from braid.evaluation.metrics import (
    bits_per_dimension,
    frechet,
    kernel_distance,
    mean,
    precision_recall,
)
from braid.generation import nats
from braid.modalities import CodedImage, Image, Vision
from braid.modalities.codecs import Codes
from braid.modalities.pictures import convert, fit_to, open_picture
from braid.parts import Hole, Part
from braid.pipeline import Pipeline

HELD_OUT = 1000
"""Held-out pictures that are used, unless the experiment sets a limit."""

TRAINING = 50_000
"""Training pictures that are used, at most."""

SIDE = 8
"""Pixels each way of pictures that are compared as sets."""

RECALLED = 100
"""Drawings of training captions, at most."""

COPIED = (
    "share of pictures whose nearest training picture is nearer than a training picture usually "
    "(median) is to the nearest other one; read it beside that of real held-out pictures, and with "
    "the panels"
)


@dataclass(frozen=True)
class Captioned:
    """Pictures with captions.

    Attributes:
        pixels: uint8 [n, H, W, C].
        captions: one a picture.
        labels: one a picture, or none at all where the data has no "label".
        left_out: number of rows that could not be read.
    """

    pixels: np.ndarray
    captions: list[str]
    labels: list[str]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.captions)

    def rows(self, chosen: Sequence[int]) -> Captioned:
        """Return the rows with these numbers."""
        labels = [self.labels[i] for i in chosen] if self.labels else []
        return Captioned(self.pixels[list(chosen)], [self.captions[i] for i in chosen], labels)

    def shown(self) -> list[PIL.Image]:
        """Return the pictures."""
        return [PIL.fromarray(p[..., 0] if p.shape[-1] == 1 else p) for p in self.pixels]


@dataclass(frozen=True)
class Space:
    """What pictures are compared in.

    Attributes:
        name: first word of the numbers of sets.
        prefix: of the numbers of copies.
        about: the note on the numbers.
        few: pixels uint8 [n, H, W, C] to few features [n, D], for sets.
        all: the same to all features, for what is near.
    """

    name: str
    prefix: str
    about: str
    few: Callable[[np.ndarray], np.ndarray]
    all: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Run:
    """What every part of the suite needs.

    Attributes:
        maker: the modality that knows the size of pictures.
    """

    pipe: Pipeline
    maker: Image | CodedImage
    config: EvaluateConfig
    seed: int
    out: Evaluation


def drawings(pipe: Pipeline, held_out: Source, config: EvaluateConfig, seed: int = 0) -> Evaluation:
    """Caption held-out pictures, draw held-out captions, and look for copies of training pictures.

    Sets are compared with held-out pictures: drawings ("distance"), as many training pictures
    ("floor"), and these through the model's codec ("coded").
    """
    strands = pipe.braid.strands
    if "text" in strands and strands["text"].process is not None:
        require("sacrebleu.metrics", "eval")  # what is missing is found before any work
    reads = "image" if "image" in strands else "vision"
    run = _Run(pipe, _maker(pipe, reads), config, seed, Evaluation())
    real = read(held_out, run.maker, config.limit or HELD_OUT)
    run.out.numbers |= {"held_out": len(real), "left_out": real.left_out}
    parts = [Part(reads, p) for p in real.shown()]
    if "text" in strands and strands["text"].process is not None:
        _caption(run, parts, real)
        _score(run, [[p, c] for p, c in zip(parts, real.captions, strict=True)], "text")
    if reads == "image" and strands["image"].process is not None:
        source = open_data(pipe.experiment.data, pipe.experiment.seed).train
        _draw(run, read(source, run.maker, TRAINING), real, source.name)
        _score(run, [[c, p] for p, c in zip(parts, real.captions, strict=True)], "image")
    return run.out


def _maker(pipe: Pipeline, name: str) -> Image | CodedImage:
    """Return the modality that knows the size of the pictures."""
    modality = pipe.braid.strand(name).modality
    modality = modality.picture if isinstance(modality, Vision) else modality
    if not isinstance(modality, Image | CodedImage):
        raise BraidError(
            f"the drawings suite got a strand {name!r} of {type(modality).__name__}, expected "
            "pictures; choose another evaluate.suite"
        )
    return modality


def read(source: Source, maker: Image | CodedImage, limit: int) -> Captioned:
    """Read at most `limit` rows, in a random order that is always the same.

    Rows without a picture, a caption, or a label that others have, are counted and left out.
    """
    labelled = "label" in source.fields
    grids, captions, labels, left_out = [], [], [], 0
    for i in np.random.default_rng(0).permutation(len(source)).tolist():
        if len(grids) == limit:
            break
        try:
            row = source[i]
            caption, label = str(row.get("text") or ""), row.get("label")
            if not caption.strip() or (labelled and label is None):
                raise BraidError(f"{source.describe(i)} has no caption or no label; add it")
            grids.append(_pixels(row.get("image"), maker))
        except (BraidError, OSError):
            left_out += 1
            continue
        captions.append(caption)
        labels.append(str(label))
    if not grids:
        raise BraidError(
            f"no row of {source.name} can be read as a picture with a caption; see data.columns"
        )
    return Captioned(np.stack(grids), captions, labels if labelled else [], left_out)


def _pixels(raw: object, maker: Image | CodedImage) -> np.ndarray:
    """Return a picture at the model's size, uint8 [H, W, C]; of codes what they are decoded to."""
    if isinstance(raw, Codes):
        picture = maker.decode(*maker.tokenise(raw))
    else:
        picture = convert(open_picture(raw), maker.channels)
    resize = maker.resize or (isinstance(maker, CodedImage) and maker.budget is not None)
    picture = fit_to(picture, (maker.width, maker.height), resize)
    return np.array(picture).reshape(maker.height, maker.width, maker.channels)


def _caption(run: _Run, parts: Sequence[Part], real: Captioned) -> None:
    """Caption held-out pictures, and compare with what was written."""
    asked = [[p, Hole("text")] for p in parts]
    seeds = range(run.seed, run.seed + len(asked))
    said = [p[-1] for p in run.pipe.batch(asked, temperature=0.0, seeds=seeds, rows=64)]
    numbers = run.out.numbers
    numbers |= exact_match(said, real.captions).numbers("caption_accuracy")
    numbers |= bleu(said, real.captions).numbers("caption_bleu")
    if len(said) > 1:
        numbers |= cider(said, real.captions).numbers("caption_cider")
    cells = [
        (a if a == b else f"{a} (is {b})", p.raw)
        for a, b, p in zip(said, real.captions, parts, strict=True)
    ]
    run.out.panels["Captions of held-out pictures"] = _grid(cells[:16])


def _score(run: _Run, documents: Sequence[list], name: str) -> None:
    """Add the nats and bits of the last part of each document, given the other."""
    scored = [run.pipe.document(parts) for parts in documents]
    found = nats(run.pipe.braid, scored, seed=run.seed)
    numbers, maker = run.out.numbers, run.maker
    sizes = {"symbol": found.symbols.numpy()}
    if name == "image":
        sizes["dimension"] = np.full(len(scored), maker.height * maker.width * maker.channels)
    numbers[f"{name}_likelihood"] = found.kind
    if found.kind == "none":
        numbers |= dict.fromkeys([f"{name}_nats", *(f"{name}_bits_per_{s}" for s in sizes)])
        return
    numbers |= mean(found.value.numpy()).numbers(f"{name}_nats")
    for what, size in sizes.items():
        numbers |= bits_per_dimension(found.value.numpy(), size).numbers(f"{name}_bits_per_{what}")
    if name == "image" and isinstance(maker, CodedImage):
        numbers["image_bits_per_dimension_note"] = (
            "bits of the codes through pixels times channels; a lossy codec decodes them, so "
            "compare only models with the same codec"
        )


def _draw(run: _Run, train: Captioned, real: Captioned, name: str) -> None:
    """Draw held-out captions; judge each drawing, the set of them, and what they are near to."""
    judge = _judge(run, train, real, name)
    spaces = [PIXELS] if judge is None else [PIXELS, _features(judge)]
    asked = real.rows(range(min(run.config.drawings, len(real))))
    began = time.monotonic()
    drawn, calls = _drawn(run, asked, run.seed)
    run.out.numbers |= {
        "drawings": len(drawn),
        "guidance": run.config.guidance,
        "calls_per_drawing": calls,
        "seconds_per_drawing": (time.monotonic() - began) / len(drawn),
    }
    verdicts = _verdicts(run, judge, drawn, asked)
    _show(run, drawn, verdicts, asked)
    floor = train.rows(range(min(len(asked), len(train))))
    sets = {"distance": drawn, "floor": floor}
    if isinstance(run.maker, CodedImage):
        sets["coded"] = _coded(run.maker, floor)
    for space in spaces:
        _compare(run, space, sets, asked)
    _remember(run, spaces, train, real, drawn)
    example = run.pipe(
        [asked.captions[0], Hole("image")],
        steps=run.config.steps,
        guidance=run.config.guidance,
        seed=run.seed,
        trajectory=True,
    )
    run.out.trajectory = example, 1


def _drawn(run: _Run, asked: Captioned, seed: int) -> tuple[Captioned, int]:
    """Draw captions; also return the network calls of a drawing."""
    done = run.pipe.batch(
        [[c, Hole("image")] for c in asked.captions],
        steps=run.config.steps,
        guidance=run.config.guidance,
        seeds=range(seed, seed + len(asked)),
        rows=64,
    )
    pixels = np.stack([_pixels(p[-1], run.maker) for p in done])
    return replace(asked, pixels=pixels), done[0].calls


def _coded(maker: CodedImage, real: Captioned) -> Captioned:
    """Return pictures as the codec gives them back: the best that a model can draw."""
    coded = [_pixels(maker.decode(maker.encode(p), maker.shape), maker) for p in real.pixels]
    return replace(real, pixels=np.stack(coded))


def _judge(run: _Run, train: Captioned, real: Captioned, name: str) -> Classifier | None:
    """Return the classifier of the folder config.judge, or a new one, which is saved there."""
    if not train.labels or not real.labels:
        return None
    folder = Path(run.config.judge) if run.config.judge is not None else None
    if folder is not None and (folder / "classifier.json").is_file():
        return _checked(Classifier.load(folder), folder, train, real)
    if folder is not None:
        storage.writable(folder.parent)
    judge = train_classifier(
        train.pixels,
        train.labels,
        seconds=run.config.judge_seconds,
        seed=run.seed,
        validation=(real.pixels, real.labels),
        trained_on=name,
    )
    if folder is not None:
        judge.save(folder)
    return judge


def _checked(judge: Classifier, folder: Path, train: Captioned, real: Captioned) -> Classifier:
    """Return a judge that was made for pictures of this size with these labels."""
    strange = sorted({*train.labels, *real.labels} - set(judge.classes))
    shape = (judge.size, judge.size, judge.channels)
    if strange or real.pixels.shape[1:] != shape:
        raise BraidError(
            f"the judge {folder} knows pictures {list(shape)} of {', '.join(judge.classes)}, "
            f"these are {list(real.pixels.shape[1:])} of {', '.join(strange) or 'the same'}; set "
            "evaluate.judge to another folder"
        )
    return judge


def _verdicts(
    run: _Run, judge: Classifier | None, drawn: Captioned, real: Captioned
) -> list[bool] | None:
    """Return whether each drawing is taken for what was asked, and add how many are."""
    if judge is None:
        run.out.numbers["drawn_accuracy"] = None
        run.out.numbers["drawn_accuracy_note"] = "the rows have no label; see data.columns"
        return None
    sets = {"judge": real, "drawn": drawn}
    if isinstance(run.maker, CodedImage):
        sets["coded"] = _coded(run.maker, real)
    right = {name: _right(judge, pictures) for name, pictures in sets.items()}
    for name, verdicts in right.items():
        run.out.numbers |= mean(verdicts).numbers(f"{name}_accuracy")
    return right["drawn"]


def _right(judge: Classifier, pictures: Captioned) -> list[bool]:
    """Return whether the judge takes each picture for its label."""
    said = judge.predict(pictures.pixels)
    return [a == b for a, b in zip(said, pictures.labels, strict=True)]


def _show(run: _Run, drawn: Captioned, right: list[bool] | None, real: Captioned) -> None:
    """Show drawings, by class where there are classes."""
    cells = [
        (caption if right is None or right[i] else f"{caption} (judged otherwise)", picture)
        for i, (caption, picture) in enumerate(zip(drawn.captions, drawn.shown(), strict=True))
    ]
    if drawn.labels:
        classes: dict[str, list[tuple[str, PIL.Image]]] = {
            c: [] for c in sorted(set(drawn.labels))[:10]
        }
        for label, cell in zip(drawn.labels, cells, strict=True):
            if label in classes and len(classes[label]) < 8:
                classes[label].append(cell)
        run.out.panels["Drawn from held-out captions, a row a class"] = list(classes.values())
        return
    run.out.panels["Drawn from held-out captions"] = _grid(cells[:16])
    truth = list(zip(real.captions, real.shown(), strict=True))
    run.out.panels["The real pictures of these captions"] = _grid(truth[:16])


def _grid(cells: Sequence[tuple[str, PIL.Image]]) -> list[list[tuple[str, PIL.Image]]]:
    """Break cells into rows of 8."""
    return [list(cells[i : i + 8]) for i in range(0, len(cells), 8)]


def _features(judge: Classifier) -> Space:
    """Return the space of a classifier's features."""
    about = judge.about
    words = (
        f"features of a classifier trained on {about.get('pictures', '?')} pictures of "
        f"{about.get('trained_on') or 'this data'}"
    )
    if "validation_accuracy" in about:
        words += (
            f", right on {about['validation_accuracy']:.1%} of {about['validation_pictures']} "
            "held-out ones"
        )
    return Space("feature", "feature_", words, judge.features, judge.features)


def _averaged(pixels: np.ndarray) -> np.ndarray:
    """Return pictures averaged to at most SIDE x SIDE, in 0..1."""
    side = min(SIDE, pixels.shape[1]), min(SIDE, pixels.shape[2])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # [n, C, H, W]
    small = [F.adaptive_avg_pool2d(part.float() / 255, side) for part in x.split(1000)]
    return torch.cat(small).flatten(1).numpy()


def _flat(pixels: np.ndarray) -> np.ndarray:
    """Return pictures as rows of their pixels, uint8."""
    return pixels.reshape(len(pixels), -1)


PIXELS = Space("pixel", "", f"on pixels averaged to {SIDE} x {SIDE}", _averaged, _flat)
"""The space that needs no classifier."""


def _compare(run: _Run, space: Space, sets: dict[str, Captioned], real: Captioned) -> None:
    """Add the distances, precision and recall of sets of pictures to held-out ones."""
    reference, numbers = space.few(real.pixels), run.out.numbers
    for kind, pictures in sets.items():
        if min(len(pictures), len(real)) < 4:  # a neighbourhood is the third neighbour's distance
            continue
        rows = space.few(pictures.pixels)
        precision, recall = precision_recall(reference, rows)
        after = "" if kind == "distance" else f"_{kind}"
        numbers |= frechet(rows, reference).numbers(f"{space.name}_frechet_{kind}")
        numbers |= kernel_distance(rows, reference).numbers(f"{space.name}_kernel_{kind}")
        numbers |= precision.numbers(f"{space.name}_precision{after}")
        numbers |= recall.numbers(f"{space.name}_recall{after}")
    numbers[f"{space.name}_frechet_distance_note"] = space.about


def _remember(
    run: _Run, spaces: Sequence[Space], train: Captioned, real: Captioned, drawn: Captioned
) -> None:
    """Draw training captions too, and look for the training pictures nearest to all drawings."""
    known = set(real.captions)
    # where captions name classes, the training captions are the held-out ones
    other = [i for i, c in enumerate(train.captions) if c not in known][:RECALLED]
    asked = {"": drawn, "_of_real": real}
    if other:
        asked["_recalled"], _ = _drawn(run, train.rows(other), run.seed + len(drawn))
    near = {space.prefix: _copies(run, space, train, asked) for space in spaces}
    words = " and by ".join("pixels" if s is PIXELS else f"{s.name}s" for s in spaces)
    for kind, which in (("", "held-out"), ("_recalled", "training")):
        if kind in asked:
            title = f"Drawn from {which} captions, and the training pictures nearest by {words}"
            found = np.concatenate([n[kind] for n in near.values()], 1)
            run.out.panels[title] = _beside(asked[kind], found, train)


def _copies(
    run: _Run, space: Space, train: Captioned, asked: dict[str, Captioned]
) -> dict[str, np.ndarray]:
    """Add the shares of copies; return the numbers of the nearest training pictures, [n, k]."""
    kept = distinct(train.pixels)
    among, numbers = space.all(train.pixels[kept]), run.out.numbers
    found: dict[str, np.ndarray] = {}
    usual = usual_distance(among) if len(kept) > 1 else 0.0
    for kind, pictures in asked.items():
        far, which = nearest(space.all(pictures.pixels), among)
        found[kind] = kept[which]
        copies = mean(far[:, 0] < usual)
        numbers |= copies.numbers(f"{space.prefix}copied_share{kind}")
    numbers[f"{space.prefix}copied_share_note"] = COPIED
    if "_recalled" in asked:
        pairs = zip(asked["_recalled"].captions, found["_recalled"][:, 0], strict=True)
        own = mean([train.captions[i] == caption for caption, i in pairs])
        numbers |= own.numbers(f"{space.prefix}recalled_share")
        numbers[f"{space.prefix}recalled_share_note"] = (
            "share of drawings of training captions that are nearest to the caption's own picture"
        )
    return found


def _beside(
    drawn: Captioned, found: np.ndarray, train: Captioned
) -> list[list[tuple[str, PIL.Image]]]:
    """Return rows of a drawing and the training pictures with the numbers found [n, k]."""
    rows = []
    for caption, picture, numbers in zip(drawn.captions, drawn.shown(), found, strict=True):
        near = train.rows(numbers.tolist())
        titles = [f"training: {c}" for c in near.captions]
        rows.append([(caption, picture), *zip(titles, near.shown(), strict=True)])
        if len(rows) == 8:
            break
    return rows


def distinct(pixels: np.ndarray) -> np.ndarray:
    """Return the numbers of the pictures that no earlier one is equal to, in order."""
    seen: dict[bytes, int] = {}
    for i, picture in enumerate(pixels):
        seen.setdefault(picture.tobytes(), i)
    return np.array(list(seen.values()))


def nearest(
    rows: np.ndarray, among: np.ndarray, k: int = 3, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances and numbers of the k of `among` nearest to each row, both [n, k].

    k is cut to the number there are. `own` holds a number for each row that does not count.
    """
    x = torch.from_numpy(rows).float()
    far, which = torch.empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.long)
    for first in range(0, len(among), 4096):
        part = torch.from_numpy(among[first : first + 4096]).float()
        number = torch.arange(first, first + len(part)).expand(len(x), -1)
        apart = torch.cdist(x, part)
        if own is not None:
            apart.masked_fill_(number == torch.from_numpy(own)[:, None], torch.inf)
        far, which = torch.cat([far, apart], 1), torch.cat([which, number], 1)
        far, place = far.topk(min(k, far.shape[1]), largest=False)
        which = which.gather(1, place)
    return far.numpy(), which.numpy()


def usual_distance(among: np.ndarray) -> float:
    """Return the median distance of a row to the nearest other one, of at most 1000 rows."""
    asked = np.random.default_rng(0).permutation(len(among))[:1000]
    far, _ = nearest(among[asked], among, 1, asked)
    return float(np.median(far))
