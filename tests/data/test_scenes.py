"""Scenes are functions of seed and number, are read back exactly, and are described truly."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import PIL.Image
import pytest

from braid.data import Data
from braid.data.scenes import (
    Scene,
    Scenes,
    Thing,
    arranged,
    caption,
    describes,
    draw,
    held_out,
    judge,
    look,
    parse,
    prompts,
    same,
    scenes,
)
from braid.data.scenes.world import COLORS, MIRRORED, SHAPES, SIZES, fits, place_of, related
from braid.errors import BraidError

SPLITS = ("train", "seen", "unseen")
ROWS = 500
RED = Thing("red", "circle", "small", 8, 16)
BLUE = Thing("blue", "square", "large", 23, 16)
NOUN = re.compile(
    rf"(?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLORS)}) )?({'|'.join(SHAPES)}|object)(?:e?s)?\b"
)
ALL = set(product(COLORS, SHAPES, SIZES))


def blurred(picture: np.ndarray) -> np.ndarray:
    """Return the mean of each 3 x 3 pixels."""
    wide = np.pad(picture.astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    shifted = [wide[y : y + 32, x : x + 32] for y in range(3) for x in range(3)]
    return np.mean(shifted, axis=0)


def noisy(picture: np.ndarray, seed: int, sigma: float = 8) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).round().astype(np.uint8)


def share_read(source: Scenes, spoil) -> float:
    """Return how many spoilt pictures are read without any mistake."""
    found = [look(spoil(draw(source.scene(i)), i)) == source.scene(i) for i in range(ROWS)]
    return sum(found) / ROWS


def texts_of(row: dict) -> list[str]:
    """Return every text of a row, those of its messages included."""
    parts = [part for message in row["messages"] for part in message["content"]]
    fields = [value for value in row.values() if isinstance(value, str)]
    return fields + [part["text"] for part in parts if part["type"] == "text"]


def meant(match: re.Match[str], scene: Scene) -> list[Thing]:
    """Return the things of a scene that a noun phrase means."""
    size, color, shape = match.groups()
    return [
        thing
        for thing in scene.objects
        if size in (None, thing.size)
        and color in (None, thing.color)
        and shape in ("object", thing.shape)
    ]


# -- the world


def test_held_out_combinations_leave_every_part_in_training():
    held = held_out()
    assert len(held) == 12
    whole = [kind for kind in held if {(*kind[:2], size) for size in SIZES} <= held]
    assert len(whole) >= 6
    left = Counter(part for kind in ALL - held for part in kind)
    assert all(left[part] >= 6 for part in (*COLORS, *SHAPES, *SIZES))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("objects", [None, 1, 2, 3, 4])
def test_things_never_touch_and_numbers_are_as_asked(split, objects):
    source = scenes(split=split, objects=objects)
    found = [source.scene(i) for i in range(50)]
    assert all(fits(scene) for scene in found)
    numbers = {len(scene.objects) for scene in found}
    assert numbers == ({1, 2, 3, 4} if objects is None else {objects})


def test_rows_are_functions_of_seed_split_and_number():
    first, again = scenes(seed=3), scenes(n=10, seed=3)
    some = [first[i] for i in (7, 2, 7)]
    for row, i in zip(some, (7, 2, 7), strict=True):
        assert texts_of(row) == texts_of(again[i])
        assert (row["image"] == again[i]["image"]).all()
        assert (row["edited"] == again[i]["edited"]).all()
    rows = [[source.scene(i) for i in range(20)] for source in (first, scenes(seed=4))]
    rows.append([scenes(seed=3, split="seen").scene(i) for i in range(20)])
    assert all(sum(map(Scene.__eq__, a, b)) < 3 for a, b in combinations(rows, 2))
    assert sum(map(Scene.__eq__, rows[0], rows[0][1:])) < 3


def test_a_row_has_every_field_and_pictures_are_what_the_scenes_say():
    source = scenes()
    for i in range(100):
        row = source[i]
        assert tuple(row) == source.fields
        assert row["image"].dtype == np.uint8 and row["image"].shape == (32, 32, 3)
        assert (row["image"] == draw(source.scene(i))).all()
        assert (row["edited"] == draw(source.edited_scene(i))).all()
        assert source.texts(i) == {key: row[key] for key in source.texts(i)}


# -- the reader


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "unseen"])
def test_a_value_is_that_of_its_row(split):
    source = scenes(20, 3, split)
    for i in range(20):
        row = source[i]
        for field in source.fields:
            np.testing.assert_equal(source.value(i, field), row[field])


def test_texts_are_read_without_drawing(monkeypatch):
    source = scenes(40)
    rows = [source[i] for i in range(40)]

    def refuse(scene: Scene) -> None:
        raise AssertionError("a text needs no picture")

    monkeypatch.setattr("braid.data.scenes.source.draw", refuse)
    for field in ("text", "prompt", "question", "answer", "instruction"):
        assert list(Data(source, source).column(field)) == [row[field] for row in rows]


@pytest.mark.slow
def test_the_reader_reads_every_drawing_exactly():
    assert share_read(scenes(), lambda picture, i: picture) == 1
    assert share_read(scenes(split="unseen"), lambda picture, i: picture) == 1


@pytest.mark.slow
def test_the_reader_stands_noise_and_blur():
    assert share_read(scenes(), noisy) >= 0.99
    assert share_read(scenes(), lambda picture, i: noisy(blurred(picture), i)) >= 0.99
    assert share_read(scenes(), lambda picture, i: noisy(picture * 0.8 + 30, i)) >= 0.99


def test_the_reader_sees_what_is_malformed():
    disc, square = draw(Scene((RED,))), draw(Scene((BLUE,)))
    bar = np.full((32, 32, 3), 245, np.uint8)
    bar[10:13, 4:28] = COLORS["red"]
    assert [thing.shape for thing in look(bar).objects] == ["unknown"]
    half = square.copy()
    half[:, :23][square[:, :23, 0] < 200] = COLORS["yellow"]
    assert [thing.color for thing in look(half).objects] == ["unknown"]
    pale = (0.25 * disc + 0.75 * 245).astype(np.uint8)
    assert [thing.color for thing in look(pale).objects] == ["unknown"]
    assert look(np.full((32, 32, 3), 245, np.uint8)).objects == ()
    speck = disc.copy()
    speck[2:4, 28:30] = 0
    assert look(speck) == Scene((RED,))


def test_the_reader_takes_pictures_and_refuses_other_sizes():
    picture = PIL.Image.fromarray(draw(Scene((RED, BLUE))))
    assert look(picture) == look(picture.convert("RGBA")) == Scene((RED, BLUE))
    with pytest.raises(BraidError, match="expected uint8"):
        look(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(BraidError, match="expected uint8"):
        look(np.zeros((32, 32, 3), np.float32))  # pyright: ignore[reportArgumentType]  the mistake


# -- the splits


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "seen"])
def test_no_held_out_combination_is_shown_or_named(split):
    source = scenes(split=split)
    trained = ALL - held_out()
    for i in range(ROWS):
        row = source[i]
        pictures = (row["image"], row["edited"])
        assert {thing.combination for p in pictures for thing in look(p).objects} <= trained
        parts = [part for message in row["messages"] for part in message["content"]]
        sent = [part["image"] for part in parts if part["type"] == "image"]
        assert all(any((p == picture).all() for picture in pictures) for p in sent)
        for match in (m for text in texts_of(row) for m in NOUN.finditer(text)):
            assert any(meant(match, Scene((Thing(*kind, 0, 0),))) for kind in trained), match[0]


@pytest.mark.slow
def test_unseen_scenes_have_only_held_out_things():
    source = scenes(split="unseen")
    shown = {t.combination for i in range(ROWS) for t in look(source[i]["image"]).objects}
    assert shown == held_out()


# -- the language


@pytest.mark.parametrize("split", SPLITS)
def test_captions_and_prompts_describe_their_scene_and_no_other(split):
    source = scenes(split=split)
    found = [source.scene(i) for i in range(60)]
    for i, scene in enumerate(found):
        row = source[i]
        assert row["text"] == caption(scene) and row["prompt"] in prompts(scene)
        assert all(describes(text, scene) for text in prompts(scene))
        assert caption(look(row["image"])) == row["text"]
    pairs = [(a, b) for a in found for b in found if caption(a) != caption(b)]
    assert len(pairs) > 3000 and not any(describes(caption(a), b) for a, b in pairs)


def relation_said(text: str) -> str | None:
    description = parse(text)
    assert description is not None
    return description.relation


def test_every_relation_comes_in_its_mirrored_form():
    source = scenes(objects=2)
    said = Counter(relation_said(source.texts(i)["prompt"]) for i in range(200))
    assert set(said) == set(MIRRORED) and min(said.values()) > 25
    canonical = {relation_said(source.texts(i)["text"]) for i in range(50)}
    assert canonical == {"left of", "above"}


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("a small red circle left of a large blue square", True),
        ("The small red circle is to the left of the large blue square.", True),
        ("one large blue square right of one small red circle", True),
        ("a large blue square left of a small red circle", False),
        ("a small red circle above a large blue square", False),
        ("a small red circle and a large blue square", False),
        ("a red circle left of a large blue square", False),
        ("a small red circle", False),
        ("a small red circle left of a small blue square", False),
        ("two small red circles", False),
        ("a small small red circle left of a large blue square", False),
        ("a lovely red circle left of a large blue square", False),
        ("", False),
    ],
)
def test_a_text_must_be_true_and_complete(text, truth):
    assert describes(text, Scene((RED, BLUE))) is truth


def test_places_and_numbers_are_read():
    corner = Scene((replace(RED, x=7, y=8),))
    assert describes("a small red circle at the top left", corner)
    assert describes("a small red circle in the top left", corner)
    assert not describes("a small red circle at the center", corner)
    assert describes("a small red circle in the centre", Scene((replace(RED, x=15, y=16),)))
    two = Scene((RED, replace(RED, x=22)))
    assert describes("two small red circles", two) and caption(two) == "two small red circles"
    assert not describes("three small red circles", two)
    for text in ("two small red circle", "a small red circles", "two a", "red", "a b left of c"):
        assert parse(text) is None


# -- questions, instructions and dialogues


def answered(question: str, scene: Scene) -> set[str | None]:
    """Return the answers that are right, worked out from the words and the scene alone."""
    found = [meant(match, scene) for match in NOUN.finditer(question)]
    for kind in ("color", "shape", "size"):
        if question.startswith(f"what {kind}"):
            return {getattr(thing, kind) for thing in found[0]}
    if question.startswith("how many"):
        return {("zero", "one", "two", "three", "four")[len(found[0])]}
    if question.startswith("where"):
        return {place_of(thing) for thing in found[0]}
    if question.startswith("is there"):
        return {"yes" if found[0] else "no"}
    (first,), (second,) = found
    relation = next(relation for relation in MIRRORED if f" {relation} " in question)
    return {"yes" if related(first, relation, second) else "no"}


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_is_right(split):
    source = scenes(split=split)
    asked = Counter()
    for i in range(ROWS):
        row = source[i]
        assert answered(row["question"], look(row["image"])) == {row["answer"]}, row["question"]
        assert len(row["answer"].split()) <= 2
        asked[" ".join(row["question"].split()[:2])] += 1
    assert len(asked) >= 7


def test_yes_and_no_are_balanced():
    source = scenes(split="seen", seed=1)
    texts = [source.texts(i) for i in range(2000)]
    for start in ("is there", "is the "):
        said = Counter(t["answer"] for t in texts if t["question"].startswith(start))
        assert set(said) == {"yes", "no"} and 0.4 < said["yes"] / said.total() < 0.6


def follow(instruction: str, scene: Scene) -> Scene:
    """Return the scene after an instruction, worked out from its words alone."""
    verb, *_ = instruction.split()
    words = instruction.split()
    nouns = list(NOUN.finditer(instruction))
    pointing = {"it", "them"} & set(words)
    old = list(scene.objects) if pointing else meant(nouns[0], scene)
    others = [thing for thing in scene.objects if thing not in old]
    if verb == "remove":
        assert len(old) == 1
        return arranged(others)
    value = nouns[-1][3] if verb == "change" else words[-1]
    kinds = {"color": COLORS, "shape": SHAPES, "size": SIZES}
    kind = next(kind for kind, values in kinds.items() if value in values)
    assert all(getattr(thing, kind) != value for thing in old)
    return arranged([*others, *(replace(thing, **{kind: value}) for thing in old)])


@pytest.mark.slow
@pytest.mark.parametrize("split", SPLITS)
def test_every_instruction_is_honoured_and_changes_nothing_else(split):
    source = scenes(split=split)
    for i in range(ROWS):
        row, before = source[i], source.scene(i)
        after = follow(row["instruction"], before)
        assert after == source.edited_scene(i) and fits(after)
        assert (row["edited"] == draw(after)).all() and after != before
        kept = Scene(tuple(thing for thing in before.objects if thing in after.objects))
        where = (draw(kept) != 245).any(-1)
        assert (row["edited"][where] == row["image"][where]).all()
        assert describes(caption(after), after)


def test_dialogues_follow_from_their_row():
    source = scenes()
    kinds = set()
    for row in (source[i] for i in range(60)):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * 2
        said = [[part.get("text") for part in message["content"]] for message in row["messages"]]
        pictures = [p["image"] for m in row["messages"] for p in m["content"] if "image" in p]
        assert (pictures[0] == row["image"]).all()
        kinds.add(" ".join("text" if text else "image" for texts in said for text in texts))
        if said[0] != [f"draw {row['prompt']}"]:
            assert said[:2] == [[None, row["question"]], [row["answer"]]]
        if said[2] == [row["instruction"]]:
            assert said[3] == [None] and (pictures[1] == row["edited"]).all()
        else:
            assert said[2:] == [[row["question"]], [row["answer"]]]
    assert len(kinds) == 3


@pytest.mark.slow
def test_texts_hold_the_whole_vocabulary():
    texts = {text for i in range(1500) for text in scenes().texts(i).values()}
    found = {word for text in texts for word in re.findall(r"\w+", text)}
    wanted = {*COLORS, *SHAPES, *SIZES, "circles", "crosses", "them", "object", "an", "no"}
    assert wanted <= found
    assert {"above", "below", "center", "bottom", "three", "where", "remove"} <= found


# -- judging

PROMPT = "a small red circle left of a large blue square"
WRONG = {
    "color": (replace(RED, color="green"), BLUE),
    "shape": (RED, replace(BLUE, shape="cross")),
    "size": (RED, replace(BLUE, size="small")),
    "relation": (replace(BLUE, x=9), replace(RED, x=24)),
}


def test_a_right_drawing_is_right_in_everything():
    verdict = judge(PROMPT, draw(Scene((RED, BLUE))))
    assert verdict == dict.fromkeys(("all", "count", "color", "shape", "size", "relation"), True)
    for i, split in product(range(50), SPLITS):
        row = scenes(split=split)[i]
        assert all(judge(row["prompt"], noisy(row["image"], i)).values())


@pytest.mark.parametrize("part", WRONG)
def test_the_judge_names_what_is_wrong(part):
    verdict = judge(PROMPT, draw(arranged(WRONG[part])))
    assert [name for name, right in verdict.items() if not right] == ["all", part]


def test_swapped_attributes_are_wrong():
    swapped = (replace(RED, color="blue"), replace(BLUE, color="red"))
    verdict = judge(PROMPT, draw(Scene(swapped)))
    assert not verdict["all"] and not verdict["color"] * verdict["shape"]


def test_the_judge_counts():
    three = [Thing("cyan", "cross", "small", x, 16) for x in (5, 16, 26)]
    prompt = "three small cyan crosses"
    assert all(judge(prompt, draw(Scene(tuple(three)))).values())
    assert judge(prompt, draw(Scene(tuple(three[:2]))))["count"] is False
    assert judge("two small cyan crosses", draw(Scene(tuple(three)))) == {
        "all": False,
        "count": False,
        "color": True,
        "shape": True,
        "size": True,
    }
    nothing = judge(prompt, draw(Scene(())))
    assert not any(nothing.values())


def test_the_judge_asks_only_for_what_is_said():
    picture = draw(Scene((replace(RED, x=7, y=8),)))
    assert judge("a red object", picture) == {"all": True, "count": True, "color": True}
    assert judge("a circle at the top left", picture)["place"] is True
    assert judge("a circle at the top right", picture)["place"] is False
    with pytest.raises(BraidError, match="grammar"):
        judge("something nice", picture)


def test_sameness_minds_things_and_places():
    scene = Scene((RED, BLUE))
    assert same(scene, arranged((replace(BLUE, y=18), replace(RED, x=6))))
    for other in ((RED,), (RED, replace(BLUE, y=19)), (replace(RED, color="cyan"), BLUE)):
        assert not same(scene, Scene(other)) and not same(Scene(other), scene)


def test_bad_options_are_refused():
    for wrong in (
        lambda: scenes(n=0),
        lambda: scenes(split="trian"),  # pyright: ignore[reportArgumentType]  the mistake
        lambda: scenes(objects=5),
        lambda: scenes(objects=0),
    ):
        with pytest.raises(BraidError):
            wrong()
    with pytest.raises(IndexError):
        scenes(n=3)[3]
    for thing in (replace(RED, color="pink"), replace(RED, x=2)):
        with pytest.raises(BraidError):
            draw(Scene((thing,)))
