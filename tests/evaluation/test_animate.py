"""Laws of moving pictures: one frame a network call, whatever the process, with changes marked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from braid import config, recipes
from braid.data.synthetic import CAPTIONS
from braid.errors import BraidError
from braid.evaluation.animate import CHANGED, MASKED, STRIPE, Writer, animate, draw, frames, gif
from braid.generation import Frame
from braid.modalities import Image as ImageModality
from braid.paradigms import PARADIGMS
from braid.parts import Hole, Part, Parts
from braid.pipeline import Pipeline

DRAWING = [n for n, make in PARADIGMS.items() if make().processes.get("image") is not None]
PICTURE = np.zeros((4, 4), dtype=np.uint8)


def tiny(paradigm: str) -> Pipeline:
    torch.manual_seed(0)
    experiment = recipes.resolve("toy", [f"paradigm={paradigm}", "transformer.width=32"])
    states = {}
    for name, strand in experiment.strands.items():
        modality = config.make_modality(name, strand)
        modality.fit(CAPTIONS)
        states[name] = modality.state()
    return Pipeline(config.build(experiment, states), experiment)


def film(pipe: Pipeline, hole: str, **options) -> tuple[Parts, int]:
    picture = Part("image" if "image" in pipe.braid.strands else "vision", PICTURE)
    given = "row one" if hole == "image" else picture
    return pipe([given, Hole(hole)], trajectory=True, **options), 1


def coloured(picture: Image.Image, *colours: str) -> int:
    pixels = np.asarray(picture.convert("RGB"))
    return sum(int((pixels == ImageColor.getrgb(c)).all(-1).sum()) for c in colours)


def marks(picture: Image.Image) -> int:
    """Count marked pixels between the titles and the captions."""
    return coloured(picture.crop((0, 28, picture.width, picture.height - 44)), CHANGED)


def by_hand(*beliefs: list[int], first: int = 0, size: int = 2) -> Parts:
    """Return 4x4 pixels in 4 patches that were believed to be all dark (0) or all bright (1)."""
    tokens = [torch.tensor(b)[:, None].expand(-1, 4)[None] for b in beliefs]
    frames = [Frame(0, first, i / len(tokens), t, t) for i, t in enumerate(tokens)]
    image = ImageModality(size=4, levels=size)
    return Parts([image.decode(tokens[-1][0])], len(frames), trajectory=frames)


WRITERS = {"image": Writer(ImageModality(size=4, levels=2))}


@pytest.mark.parametrize("paradigm", DRAWING)
def test_a_drawing_has_a_frame_a_network_call_and_its_result(paradigm):
    pipe = tiny(paradigm)
    parts, hole = film(pipe, "image", steps=3)
    made = frames(pipe, parts, hole)
    assert len(made) == parts.calls + 1
    assert len({f.size for f in made}) == 1


@pytest.mark.parametrize("paradigm", PARADIGMS)
def test_a_text_has_a_frame_a_network_call_and_its_result(paradigm):
    pipe = tiny(paradigm)
    parts, hole = film(pipe, "text", steps=3, temperature=0.0)
    made = frames(pipe, parts, hole)
    assert len(made) == parts.calls + 1
    assert len({f.size for f in made}) == 1


@pytest.mark.parametrize("paradigm", DRAWING)
def test_the_last_frame_shows_the_result(paradigm):
    pipe = tiny(paradigm)
    parts, hole = film(pipe, "image", steps=3)
    shown = frames(pipe, parts, hole, scale=40)[-1].crop((16, 28, 176, 188))
    assert (
        shown.resize((4, 4), Image.Resampling.NEAREST).tobytes()
        == parts[1].convert("RGB").tobytes()
    )


def test_a_picture_written_token_by_token_fills_up():
    pipe = tiny("chameleon")
    parts, hole = film(pipe, "image")
    left = [
        coloured(f.crop((0, 0, f.width // 2, f.height)), MASKED) for f in frames(pipe, parts, hole)
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[1] > 0 == left[-1]


def test_masks_are_hatched_symbol_by_symbol():
    parts = by_hand([0, 0, 0, 0], [0, 0, 0, 0])
    masked = torch.tensor([[[2, 0, 0, 0]] + [[0] * 4] * 3])
    parts.trajectory[0] = replace(parts.trajectory[0], state=masked)
    hit, none, _ = draw(WRITERS, parts, 0, scale=20)
    inside = hit.crop((16, 28, 36, 48))
    assert coloured(inside, MASKED, STRIPE) == 400
    assert coloured(hit, MASKED, STRIPE) == 400
    assert coloured(none, MASKED, STRIPE) == 0


def test_a_revised_patch_is_outlined_and_no_other():
    parts = by_hand([0, 0, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1])
    first, revised, same, result = draw(WRITERS, parts, 0, scale=20)
    x, y = 2 * 16 + 80 + 40, 28 + 40  # the last patch of the right picture
    assert coloured(revised.crop((x, y, x + 40, y + 40)), CHANGED) == marks(revised) > 0
    assert marks(first) == marks(same) == marks(result) == 0


def test_small_moves_of_numbers_are_no_revision():
    image = ImageModality(size=4, levels=2, continuous=True)
    beliefs = [torch.full((1, 4, 4), v) for v in (-1.0, -0.9, 1.0)]
    film = [Frame(0, 0, 0.0, b, b) for b in beliefs]
    parts = Parts([image.decode(beliefs[-1][0])], 3, trajectory=film)
    pictures = draw({"image": Writer(image)}, parts, 0)
    assert [marks(p) > 0 for p in pictures] == [False, False, True, False]


def test_a_revised_word_is_outlined():
    pipe = tiny("mmada")
    text = pipe.braid.strand("text").modality
    said = [text.encode(t)[None] for t in ("a", "a", "b")]
    parts = Parts(["b"], 3, trajectory=[Frame(0, 0, 0.0, s, s) for s in said])
    assert [marks(f) > 0 for f in frames(pipe, parts, 0)] == [False, False, True, False]


def test_a_row_that_ended_early_in_its_batch_is_not_shown_on():
    pipe = tiny("transfusion")
    text = pipe.braid.strand("text").modality
    ids = [*text.encode("ab").tolist(), 7, 7]
    calls = [
        Frame(0, i, 1.0, torch.zeros(1, 1).long(), torch.tensor([[x]])) for i, x in enumerate(ids)
    ]
    parts = Parts(["ab"], len(calls), trajectory=calls)
    assert len(frames(pipe, parts, 0)) == len(text.encode("ab")) + 1


def test_a_result_whose_tokens_are_not_known_is_shown_as_a_whole():
    pipe = tiny("transfusion")
    calls = [Frame(0, i, 1.0, torch.zeros(1, 1).long(), torch.tensor([[i]])) for i in range(3)]
    drawn = [Parts([text], 3, trajectory=calls) for text in ("\ufffd row", "\ufffd column")]
    one, other = (frames(pipe, parts, 0) for parts in drawn)
    assert [a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True)] == [True] * 3 + [
        False
    ]


@pytest.mark.parametrize("text", ["", "\U0001f600", "e\u0301 \u4f60\n<b>"])
def test_any_text_can_be_shown(text):
    pipe = tiny("mmada")
    modality = pipe.braid.strand("text").modality
    ids = modality.encode(text)[None] if text else torch.tensor([[modality.end] * 4])
    parts = Parts([text], 1, trajectory=[Frame(0, 0, 0.0, ids, ids)])
    assert len(frames(pipe, parts, 0)) == 2


def test_long_films_are_thinned_to_their_ends():
    parts = by_hand(*[[0, 0, 0, i % 2] for i in range(40)])
    assert len(draw(WRITERS, parts, 0, most=5)) == 6


@pytest.mark.parametrize("paradigm", DRAWING)
def test_a_gif_is_written_and_rests_on_its_last_frame(paradigm, tmp_path):
    pipe = tiny(paradigm)
    parts, hole = film(pipe, "image", steps=3)
    animate(pipe, parts, hole, tmp_path / "steps.gif")
    with Image.open(tmp_path / "steps.gif") as made:
        times = [made.seek(i) or made.info["duration"] for i in range(made.n_frames)]
    assert len(times) == parts.calls + 1
    assert times[-1] > 4 * max(times[:-1])


def test_the_colours_of_marks_survive_in_a_gif(tmp_path):
    parts = by_hand([0, 0, 1, 0], [0, 0, 1, 1])
    (tmp_path / "steps.gif").write_bytes(gif(draw(WRITERS, parts, 0)))
    with Image.open(tmp_path / "steps.gif") as made:
        made.seek(1)
        assert coloured(made, CHANGED) > 100


def test_a_missing_trajectory_is_refused_with_the_remedy():
    pipe = tiny("fudoki")
    parts = pipe(["row one", Hole("image")], steps=2)
    with pytest.raises(BraidError, match="trajectory=True"):
        frames(pipe, parts, 1)


def test_a_part_that_was_not_generated_is_refused():
    pipe = tiny("fudoki")
    parts, _ = film(pipe, "image", steps=2)
    with pytest.raises(BraidError, match="part 0 was not generated; the trajectory holds part 1"):
        frames(pipe, parts, 0)


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    pipe = tiny("fudoki")
    parts, hole = film(pipe, "image", steps=2)
    with pytest.raises(BraidError, match="cannot write"):
        animate(pipe, parts, hole, tmp_path / "nowhere" / "steps.gif")


def test_a_scale_of_nothing_is_refused():
    with pytest.raises(BraidError, match="scale 0"):
        draw(WRITERS, by_hand([0, 0, 0, 0]), 0, scale=0)
