"""Pictures drawn while training, so that a person sees whether it works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from braid.braid import Braid
from braid.data import Loader, Task
from braid.generation import Known, Opening, generate
from braid.modalities import CodedImage
from braid.modalities import Image as ImageModality
from braid.randomness import Keys


def preview(
    braid: Braid,
    held_out: Loader,
    folder: Path | None,
    step: int,
    count: int = 8,
    guidance: float = 1.5,
    stopped: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Draw the first held-out examples of a task that ends in a picture, as one strip.

    Args:
        braid: the model.
        held_out: where the examples are.
        folder: where step-N.png is written; None draws without writing, as ranks do that only help.
        step: N.
        count: number of pictures.
        guidance: weight of the condition.
        stopped: asked at every network call; True ends it without a picture.

    Returns:
        the path of step-N.png, or None where no task draws or it was not written.
    """
    found = _drawing_task(braid, held_out)
    if found is None:
        return None
    number, task = found
    documents, rows = held_out.streams[number].documents, held_out.rows[number]
    target = documents.modality_of[task.target]
    examples = [rows.get(i) for i in range(min(count, len(rows)))]
    parts: list[Known | Opening] = [
        Known(
            documents.modality_of[n[0]],
            [e[n].values for e in examples],
            [e[n].shape for e in examples],
        )
        for n in documents.needs_of(task)[:-1]
    ]
    modality = braid.strand(target).modality
    parts.append(Opening(target, modality.shape))
    training = braid.training
    braid.eval()
    drawn = generate(
        braid,
        parts,
        Keys.of(0, len(examples)).key,
        guidance=guidance if len(parts) > 1 else 1.0,
        watch=lambda frame: not stopped(),
    )
    braid.train(training)
    if drawn.stopped or folder is None:
        return None
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step}.png"
    strip([modality.decode(t, modality.shape) for t in torch.unbind(drawn.tokens[-1].cpu())]).save(
        path
    )
    return path


def _drawing_task(braid: Braid, held_out: Loader) -> tuple[int, Task] | None:
    """Return the first task that ends in a picture, and the number of its stream."""
    for number, stream in enumerate(held_out.streams):
        for task in stream.documents.tasks:
            if task.talk or task.infill or not stream.weight:
                continue
            modality = braid.strand(stream.documents.modality_of[task.target]).modality
            if isinstance(modality, ImageModality | CodedImage):
                return number, task
    return None


def strip(pictures: list[Image.Image], scale: int | None = None, gap: int = 2) -> Image.Image:
    """Put pictures side by side; small ones are enlarged without smoothing."""
    w, h = pictures[0].size
    scale = scale or max(1, 64 // h)
    sheet = Image.new("RGB", (len(pictures) * (w * scale + gap) - gap, h * scale), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(
            picture.convert("RGB").resize((w * scale, h * scale), Image.Resampling.NEAREST),
            (i * (w * scale + gap), 0),
        )
    return sheet
