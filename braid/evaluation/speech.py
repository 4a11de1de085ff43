"""The speech suite: spoken digits understood, and spoken so that a listener understands them."""

from __future__ import annotations

from collections.abc import Sequence

from braid.config import EvaluateConfig
from braid.data import open_data
from braid.data.rows import need_fields, require
from braid.data.sources import Source
from braid.errors import BraidError
from braid.evaluation.captions import exact_match, word_error_rate
from braid.evaluation.evaluation import Evaluation
from braid.evaluation.listener import Listener
from braid.evaluation.metrics import mean
from braid.evaluation.quality import shuffled
from braid.modalities.audio import Audio
from braid.modalities.sounds import open_sound
from braid.parts import Hole, Part
from braid.pipeline import Pipeline

PLACES = {"digit": -1, "speaker": 0}
"""What a listener hears, and which word of a caption says it."""

NEEDED = ("audio", "text")
"""Fields of the data."""

Listeners = dict[str, Listener]
"""A listener for each of PLACES."""


def speech_suite(
    pipe: Pipeline, held_out: Source, config: EvaluateConfig, seed: int = 0
) -> Evaluation:
    """Evaluate a model on captions such as "theo says seven": first the speaker, last the digit.

    Listeners trained on real clips judge what the model says; their own accuracy on held-out clips
    stands beside.
    """
    need_extras()
    need_fields(held_out, NEEDED, "speech")
    return judge_speech(pipe, held_out, config, seed, train_listeners(pipe))


def need_extras() -> None:
    """Refuse to begin where a library is missing that is used after minutes of work."""
    for module in ("jiwer", "sklearn.svm"):
        require(module, "eval")


def train_listeners(pipe: Pipeline) -> Listeners:
    """Return listeners that learned from the training clips of a model's experiment.

    Rows that cannot be read are left out, as they were in training.
    """
    modality, written = _modality(pipe), pipe.braid.strand("text").modality
    data = open_data(pipe.experiment.data, pipe.experiment.seed)
    train = data.parts["speech"].train if "speech" in data.parts else data.train
    clips, texts = [], []
    for i in range(len(train)):
        try:
            row = train[i]
            written.encode(row["text"])
            clip = open_sound(row["audio"], modality.rate).numpy()
        except (BraidError, OSError):
            continue
        clips.append(clip)
        texts.append(row["text"])
    if not clips:
        raise _unreadable(train)
    return {
        name: Listener.train(clips, [word(t, place) for t in texts], modality.rate)
        for name, place in PLACES.items()
    }


def judge_speech(
    pipe: Pipeline, held_out: Source, config: EvaluateConfig, seed: int, listeners: Listeners
) -> Evaluation:
    """Evaluate a model on held-out clips with captions; listeners judge what it says."""
    rows, left_out = readable(pipe, held_out, config.limit or len(held_out))
    texts = [r["text"] for r in rows]
    out = Evaluation(numbers={"held_out": len(rows), "left_out": left_out})
    done = pipe.batch(
        [[Part("audio", r["audio"]), Hole("text")] for r in rows],
        temperature=0,
        seeds=range(seed, seed + len(rows)),
    )
    said = [p[-1] for p in done]
    out.numbers |= exact_match(said, texts).numbers("transcript_accuracy")
    out.numbers |= word_error_rate(said, texts).numbers("word_error_rate")
    for name, place in PLACES.items():
        heard = [float(word(a, place) == word(b, place)) for a, b in zip(said, texts, strict=True)]
        out.numbers |= mean(heard).numbers(f"{name}_understood")
    _speak(pipe, rows, config, seed, listeners, out)
    return out


def _modality(pipe: Pipeline) -> Audio:
    """Return the modality of sound."""
    modality = pipe.braid.strand("audio").modality
    if not isinstance(modality, Audio):
        raise BraidError("the speech suite needs an audio strand of kind 'audio'")
    return modality


def _speak(
    pipe: Pipeline,
    rows: Sequence[dict],
    config: EvaluateConfig,
    seed: int,
    listeners: Listeners,
    out: Evaluation,
) -> None:
    """Say captions, and compare what is heard of them with what is heard of real clips."""
    modality, texts = _modality(pipe), [r["text"] for r in rows]
    asked = [texts[i % len(texts)] for i in range(config.drawings)]
    done = pipe.batch(
        [[t, Hole("audio")] for t in asked],
        steps=config.steps,
        guidance=config.guidance,
        seeds=range(seed, seed + len(asked)),
        rows=64,
    )
    spoken = [p[-1] for p in done]
    own = [open_sound(r["audio"], modality.rate).numpy() for r in rows]
    coded = [modality.decode(modality.encode(r["audio"])) for r in rows]
    for name, listener in listeners.items():
        true, wanted = ([word(t, PLACES[name]) for t in said] for said in (texts, asked))
        for what, clips, labels in (
            ("listener", own, true),
            ("decoded", coded, true),
            ("spoken", spoken, wanted),
        ):
            right = [float(a == b) for a, b in zip(listener(clips), labels, strict=True)]
            out.numbers |= mean(right).numbers(f"{what}_{name}_accuracy")
    out.sounds["Spoken"] = list(zip(asked, spoken, strict=True))[:12]


def readable(pipe: Pipeline, held_out: Source, limit: int) -> tuple[list[dict], int]:
    """Return rows that the model can read, and how many were left out."""
    rows, left_out = [], 0
    for i in shuffled(len(held_out)):
        if len(rows) == limit:
            break
        try:
            row = held_out[i]
            pipe.braid.strand("audio").modality.encode(row["audio"])
            pipe.braid.strand("text").modality.encode(row["text"])
        except (BraidError, OSError):
            left_out += 1
            continue
        rows.append(row)
    if not rows:
        raise _unreadable(held_out)
    return rows, left_out


def _unreadable(source: Source) -> BraidError:
    """Return the error of a source without a row that can be used."""
    return BraidError(f"no row of {source.name} can be read as sound with a text; see data.columns")


def word(text: str, place: int) -> str:
    """Return the first or last word of a text; nothing of an empty one."""
    words = text.split()
    return words[place] if words else ""
