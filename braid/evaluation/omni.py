"""The omni suite: scenes, handwritten digits and speech in one model, any to any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from braid.config import EvaluateConfig
from braid.data import Joined
from braid.data.rows import need_fields
from braid.data.sources import Source
from braid.data.sources import digits as real_digits
from braid.errors import BraidError
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.listener import Listener
from braid.evaluation.metrics import mean
from braid.evaluation.quality import Judge, accuracy
from braid.evaluation.scenes import scenes_suite
from braid.evaluation.speech import (
    NEEDED,
    judge_speech,
    need_extras,
    readable,
    train_listeners,
    word,
)
from braid.modalities import open_picture
from braid.parts import Hole, Part
from braid.pipeline import Pipeline


def omni_suite(
    pipe: Pipeline, held_out: Source, config: EvaluateConfig, seed: int = 0
) -> Evaluation:
    """Evaluate a model of scenes, digits and speech, each part by its own suite.

    Between pictures of digits and speech, judges trained on real data say whether the digit stayed
    the same.
    """
    if not isinstance(held_out, Joined) or not {"digits", "speech"} <= held_out.parts.keys():
        raise BraidError("the omni suite needs a data.mix with the parts scenes, digits and speech")
    need_extras()
    need_fields(held_out.parts["speech"], NEEDED, "omni")
    need_fields(held_out.parts["digits"], ("image", "caption", *NEEDED), "omni")
    listeners = train_listeners(pipe)
    out = scenes_suite(pipe, held_out, config, seed)
    spoken = judge_speech(pipe, held_out.parts["speech"], config, seed, listeners)
    out.numbers |= {f"speech_{k}": v for k, v in spoken.numbers.items()}
    out.sounds |= spoken.sounds
    _digits(pipe, held_out.parts["digits"], config, seed, listeners["digit"], out)
    return out


def _digits(
    pipe: Pipeline,
    held_out: Source,
    config: EvaluateConfig,
    seed: int,
    listener: Listener,
    out: Evaluation,
) -> None:
    rows, _ = readable(pipe, held_out, config.limit or config.drawings)
    names = [str(r["text"]) for r in rows]
    train = real_digits("train")
    seen = [train[i] for i in range(len(train))]
    judge = Judge.train([open_picture(r["image"]) for r in seen], [r["text"] for r in seen])

    def ask(documents: list[list[Any]], **options: Any) -> list[Any]:
        return [p[-1] for p in pipe.batch(documents, rows=64, **options)]

    real = [open_picture(r["image"]) for r in rows]
    coder = pipe.braid.strand("image").modality
    coded = [_small(coder.decode(*coder.tokenise(p))) for p in real]
    out.numbers |= {
        "digit_judge_accuracy": accuracy(judge(real), names),
        "digit_decoded_accuracy": accuracy(judge(coded), names),
    }

    def show(name: str, said: Sequence[str]) -> None:
        right = [float(a == b) for a, b in zip(said, names, strict=True)]
        out.numbers.update(mean(right).numbers(name))

    drawing = {"steps": config.steps, "guidance": config.guidance}
    seeds = range(seed, seed + len(rows))
    pictures = [Part("image", r["image"]) for r in rows]
    clips = [Part("audio", r["audio"]) for r in rows]
    captions = ask([[p, Hole("text")] for p in pictures], temperature=0.0, seeds=seeds)
    show("digit_caption_accuracy", [word(c, -1) for c in captions])
    drawn = ask([[r["caption"], Hole("image")] for r in rows], seeds=seeds, **drawing)
    show("digit_drawn_accuracy", judge([_small(p) for p in drawn]))
    heard = ask([[c, Hole("image")] for c in clips], seeds=seeds, **drawing)
    show("digit_drawn_from_speech", judge([_small(p) for p in heard]))
    said = ask([[p, Hole("audio")] for p in pictures], seeds=seeds, **drawing)
    show("digit_spoken_from_picture", listener(said))
    out.panels["Digits drawn from a text"] = [list(zip(names[:10], drawn[:10], strict=True))]
    out.panels["Digits drawn from speech"] = [list(zip(names[:10], heard[:10], strict=True))]
    out.sounds["Digits read aloud"] = list(zip(names[:8], said[:8], strict=True))


def _small(picture: Image.Image) -> Image.Image:
    """Return a drawn digit as the judge knows them: grey, 8x8."""
    return picture.convert("L").resize((8, 8), Image.Resampling.BOX)
