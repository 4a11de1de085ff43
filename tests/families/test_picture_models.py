"""Converted models that see and draw give the logits, symbols and pictures of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import braid
from braid import Hole, Part, convert_commands
from braid.errors import BraidError
from braid.families import seen
from braid.families.checkpoint import Checkpoint
from braid.generation import Known, Opening, generate
from braid.layout import Span, pack
from braid.modalities import Vision
from braid.pipeline import Pipeline
from braid.samplers import NextToken
from tests.families.made import edited, tensors_of, tokenizer
from tests.families.made_pictures import (
    BEGIN,
    EYES,
    chameleon,
    fudoki,
    janus,
    llava,
    picture,
    shaken,
    vocabulary_map,
)

transformers = pytest.importorskip("transformers")

MADE: dict[str, Callable[[Path], tuple[Path, Any]]] = {
    "janus": janus,
    "llava": llava,
    "llava-siglip": partial(llava, eyes="siglip_vision_model"),
    "chameleon": chameleon,
    "chameleon-swin": partial(chameleon, swin=True),
    "fudoki": fudoki,
}
SEEING = ["janus", "llava", "llava-siglip"]
GREEDY = NextToken(temperature=0.0)


def symbols(n: int, seed: int = 0, size: int = 300, first: int = 4) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(first, size, (n,), generator=rng)


def predictions(pipe: Pipeline, *documents: list[Span]) -> dict[str, Tensor]:
    """Predictions of every token, all documents packed into one row."""
    batch = pack([list(documents)], pipe.braid.placements, twins=False)
    clean = {n: torch.ones(len(x)) for n, x in batch.tokens.items()}
    with torch.no_grad():
        return pipe.braid(batch.tokens, clean, batch.layout)


def pixels(raw: np.ndarray, mean: Any = 0.5, deviation: Any = 0.5) -> Tensor:
    """Pixels [1, 3, height, width] as an encoder of transformers takes them."""
    scaled = (raw / 255 - np.array(mean)) / np.array(deviation)
    return torch.from_numpy(scaled).float().permute(2, 0, 1)[None]


def look(pipe: Pipeline, raw: np.ndarray) -> Span:
    tokens, shape = pipe.braid.strand("vision").modality.tokenise(raw)
    return Span("vision", tokens, target=False, shape=shape)


def greedy(model: Any, ids: list[int], n: int, **given: Any) -> list[int]:
    """Symbols that transformers generates after these, all of which count."""
    whole = torch.tensor([ids])
    made = model.generate(
        whole,
        attention_mask=torch.ones_like(whole),
        max_new_tokens=n,
        do_sample=False,
        **given,
    )
    return made[0, len(ids) :].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MADE if name != "fudoki"])
def test_export_after_convert_is_equal_to_the_bit(tmp_path, name):
    source, model = MADE[name](tmp_path / "float")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half", max_shard_size="60KB")
    for file in source.glob("*.json"):
        if not (tmp_path / "half" / file.name).exists():
            (tmp_path / "half" / file.name).write_text(file.read_text())
    for kind in ("float", "half"):
        list(convert_commands.convert(str(tmp_path / kind), tmp_path / f"{kind}-braid"))
        convert_commands.export(str(tmp_path / f"{kind}-braid"), tmp_path / f"{kind}-back")
        before, after = tensors_of(tmp_path / kind), tensors_of(tmp_path / f"{kind}-back")
        assert before.keys() == after.keys() and len(before) > 40
        for key, tensor in before.items():
            assert after[key].dtype == tensor.dtype and torch.equal(after[key], tensor), key
        files = sorted(p.name for p in (tmp_path / kind).iterdir())
        assert files == sorted(p.name for p in (tmp_path / f"{kind}-back").iterdir())
    assert len(list((tmp_path / "half").glob("*.safetensors"))) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_a_saved_model_needs_the_release_no_longer(tmp_path, name):
    source, _ = MADE[name](tmp_path / "released")
    list(convert_commands.convert(str(source), tmp_path / "one"))
    list(convert_commands.convert(str(source), tmp_path / "one"))  # nothing there is in the way
    pipe = braid.load(source, "cpu")
    pipe.save(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "moved")
    again = braid.load(tmp_path / "moved", "cpu")
    raw, said = picture(), []
    for p in (pipe, again):
        looks = Part("vision" if "vision" in p.braid.strands else "image", raw)
        said.append(p([looks, "what is it", Hole("text", 8)], temperature=0)[2])
    assert said[0] == said[1]
    first, second = pipe.braid.state_dict(), again.braid.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first | second)


@pytest.mark.parametrize("name", MADE)
def test_faults_of_frozen_networks_are_refused_by_name(tmp_path, name):
    source, _ = MADE[name](tmp_path / "released")
    file = source / "model.safetensors"
    tensors = load_file(file)
    key = next(k for k in sorted(tensors) if "post_layernorm.w" in k or "quant_conv.w" in k)
    save_file({k: v for k, v in tensors.items() if k != key}, file)
    with pytest.raises(BraidError, match=f"lacks 1 tensors.*{key}"):
        braid.load(source, "cpu")
    save_file(tensors | {key: tensors[key][:1].clone()}, file)
    with pytest.raises(BraidError, match=f"{key}' of .* has shape"):
        braid.load(source, "cpu")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BraidError, match="model.safetensors' is truncated or damaged"):
        braid.load(source, "cpu")
    file.rename(source / "pytorch_model.bin")
    with pytest.raises(BraidError, match="pytorch_model.bin"):
        braid.load(source, "cpu")


def eyes(name: str) -> dict[str, Any]:
    """Pixels that an encoder expects."""
    return (
        {"mean": seen.CLIP["image_mean"], "deviation": seen.CLIP["image_std"]}
        if (name == "llava")
        else {}
    )


@pytest.mark.parametrize("name", SEEING)
def test_what_is_read_of_a_picture_is_that_of_transformers(tmp_path, name):
    folder, model = MADE[name](tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    one, two, raw = symbols(5), symbols(7, 1), picture()
    with torch.no_grad():
        whole = torch.cat([one, torch.full((16,), 2), two])[None]
        theirs = model(input_ids=whole, pixel_values=pixels(raw, **eyes(name))).logits[0]
        alone = model(input_ids=two[None]).logits[0]
    document = [Span("text", one), look(pipe, raw), Span("text", two)]
    ours = predictions(pipe, document, [Span("text", two)])["text"]
    assert theirs.std() > 0.5
    assert (ours[1:5] - theirs[:4]).abs().max() <= 1e-4
    assert (ours[5:12] - theirs[20:27]).abs().max() <= 1e-4
    assert (ours[13:] - alone[:6]).abs().max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEING)
def test_answers_in_a_batch_are_those_of_transformers_alone(tmp_path, name):
    folder, model = MADE[name](tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    before = [symbols(n, n) for n in (3, 9, 5)]
    after = [symbols(n, n + 20) for n in (4, 1, 12)]
    raws = [picture(seed=i) for i in range(3)]
    looked = [pipe.braid.strand("vision").modality.encode(raw) for raw in raws]
    parts = [Known("text", before), Known("vision", looked), Known("text", after)]
    done = generate(pipe.braid, [*parts, Opening("text", (32,))], torch.arange(3), {3: GREEDY})
    for row, (one, raw, two) in enumerate(zip(before, raws, after, strict=True)):
        ids = [*one.tolist(), *[2] * 16, *two.tolist()]
        theirs = greedy(model, ids, 32, pixel_values=pixels(raw, **eyes(name)))
        ours = done.tokens[3][row][done.used[3][row]].tolist()
        assert len({*theirs}) > 5 and ours == theirs


def test_what_janus_draws_is_that_of_transformers(tmp_path):
    folder, model = janus(tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    text, codes = symbols(5), symbols(16, size=64, first=0)
    ours = predictions(pipe, [Span("text", text), Span("image", codes, shape=(4, 4))])["image"]
    with torch.no_grad():
        tables = model.get_input_embeddings(), model.prepare_embeddings_for_image_generation
        embedded = torch.cat([tables[0](text), tables[1](codes)])[None]
        hidden = model.model.language_model(inputs_embeds=embedded).last_hidden_state
        theirs = model.model.generation_head(hidden)[0]
        drawn = model.decode_image_tokens(codes[None])[0]
    assert theirs.std() > 0.5 and (ours - theirs[4:20]).abs().max() <= 1e-4
    wanted = ((drawn.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
    made = np.array(pipe.braid.strand("image").modality.decode(codes, (4, 4)))
    assert made.std() > 10 and np.abs(made.astype(int) - wanted).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("weight", [3.0, 1.5])
def test_guidance_draws_the_symbols_that_janus_draws(tmp_path, weight):
    folder, model = janus(tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    prompts = [torch.cat([symbols(n, n), torch.tensor([BEGIN])]) for n in (6, 2, 11)]
    start = [Known("text", [torch.tensor([0])] * 3), Known("text", prompts)]
    hole = Opening("image", (4, 4))
    done = generate(pipe.braid, [*start, hole], torch.arange(3), {2: GREEDY}, guidance=weight)
    for row, prompt in enumerate(prompts):
        whole = torch.cat([torch.tensor([0]), prompt])[None]
        theirs = model.generate(
            whole,
            attention_mask=torch.ones_like(whole),
            generation_mode="image",
            guidance_scale=weight,
            do_sample=False,
            max_length=64,
        )
        assert len(theirs[0].unique()) > 3 and done.tokens[2][row].tolist() == theirs[0].tolist()


@pytest.mark.slow
def test_a_text_is_drawn_and_a_picture_is_described(tmp_path):
    folder, model = janus(tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    made = pipe(["the cat", Hole("image")], guidance=2.0, sampler=GREEDY)[1]
    ids = [0, *tokenizer().encode("the cat", add_special_tokens=False).ids, BEGIN]
    codes = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        generation_mode="image",
        guidance_scale=2.0,
        do_sample=False,
        max_length=64,
    )
    wanted = pipe.braid.strand("image").modality.decode(codes[0], (4, 4))
    assert made.size == (8, 8) and np.array_equal(np.array(made), np.array(wanted))
    ids = [*ids[:-1], BEGIN, *[2] * 16]  # the text before a picture closes with its frame symbol
    raw = picture()
    text = pipe(["the cat", Part("vision", raw), Hole("text", 12)], temperature=0)[2]
    theirs = greedy(model, ids, 12, pixel_values=pixels(raw))
    assert text == tokenizer().decode(theirs, skip_special_tokens=True)


def test_pictures_become_squares_as_janus_pads_them(tmp_path):
    folder, _ = janus(tmp_path / "released")
    vision = braid.load(folder, "cpu").braid.strand("vision").modality
    raw = Image.fromarray(picture(16)[:8])  # twice as wide as high, of the encoder's width
    square = np.full((16, 16, 3), 127, dtype=np.uint8)
    square[4:12] = np.array(raw)
    assert torch.equal(vision.encode(raw), vision.encode(square))


def test_symbols_of_a_picture_are_the_rows_nearest_in_direction(tmp_path):
    folder, model = janus(tmp_path / "released")
    image = braid.load(folder, "cpu").braid.strand("image").modality
    raw = picture(8)
    with torch.no_grad():
        network = model.model.vqmodel
        latents = network.quant_conv(network.encoder(pixels(raw)))[0].flatten(1).T
        rows = network.quantize.embedding.weight
        wanted = torch.cosine_similarity(latents[:, None], rows[None], -1).argmax(-1)
    assert image.encode(raw).tolist() == wanted.tolist()


NUMBERS = [
    v
    for k, v in sorted(
        ((int(k[6:-1].translate(str.maketrans("ABCDEFGHIJ", "0123456789"))), v))
        for k, v in vocabulary_map().items()
        if k.startswith("IMG")
    )
]
"""Symbol of each code of the small Chameleon."""
ORDERS = ["chameleon", "chameleon-swin"]


@pytest.mark.parametrize("name", ORDERS)
def test_what_chameleon_predicts_is_that_of_transformers(tmp_path, name):
    folder, model = MADE[name](tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    one, codes, two = symbols(5, size=280), symbols(16, size=16, first=0), symbols(7, 1, size=280)
    numbers = torch.tensor(NUMBERS)
    with torch.no_grad():
        whole = torch.cat([one, numbers[codes], two])[None]
        theirs = model(input_ids=whole).logits[0]
        drawn = model.lm_head(model.model(input_ids=whole).last_hidden_state)[0][:, numbers]
    document = [Span("text", one), Span("image", codes, shape=(4, 4)), Span("text", two)]
    ours = predictions(pipe, document, [Span("text", two)])
    assert theirs[:, 4:280].std() > 0.5 and drawn.std() > 0.5
    assert (ours["text"][1:5] - theirs[:4]).abs().max() <= 1e-4
    assert (ours["text"][5:12] - theirs[20:27]).abs().max() <= 1e-4
    assert (ours["image"] - drawn[4:20]).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ORDERS)
def test_chameleon_answers_in_a_batch_as_transformers_does_alone(tmp_path, name):
    folder, model = MADE[name](tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    image = pipe.braid.strand("image").modality
    before = [symbols(n, n, size=280) for n in (3, 9, 5)]
    after = [symbols(n, n + 20, size=280) for n in (4, 1, 12)]
    raws = [picture(8, seed=i) for i in range(3)]
    parts = [Known("text", before), Known("image", [image.encode(r) for r in raws])]
    parts += [Known("text", after), Opening("text", (32,))]
    done = generate(pipe.braid, parts, torch.arange(3), {3: GREEDY})
    for row, (one, raw, two) in enumerate(zip(before, raws, after, strict=True)):
        ids = [*one.tolist(), *[2] * 16, *two.tolist()]
        theirs = greedy(model, ids, 32, pixel_values=pixels(raw))
        if BEGIN in theirs:  # a picture opens, and the hole of text ends
            theirs = theirs[: theirs.index(BEGIN) + 1]
        ours = done.tokens[3][row][done.used[3][row]].tolist()
        assert len(theirs) > 20 and ours == theirs


def test_chameleon_draws_symbols_of_pictures_alone(tmp_path):
    folder, model = chameleon(tmp_path / "released")
    pipe = braid.load(folder, "cpu")
    prompts = [symbols(n, n, size=280) for n in (6, 2)]
    parts = [Known("text", prompts), Opening("image", (4, 4))]
    done = generate(pipe.braid, parts, torch.arange(2), {1: GREEDY})
    numbers = torch.tensor(NUMBERS)
    for row, prompt in enumerate(prompts):
        ids = prompt
        for _ in range(16):
            with torch.no_grad():
                hidden = model.model(input_ids=ids[None]).last_hidden_state[0, -1]
            ids = torch.cat([ids, numbers[model.lm_head(hidden)[numbers].argmax()][None]])
        drawn = numbers[done.tokens[1][row]].tolist()
        assert len({*drawn}) > 2 and drawn == ids[len(prompt) :].tolist()


def test_a_picture_that_chameleon_draws_has_no_decoder(tmp_path):
    folder, _ = chameleon(tmp_path / "released")
    with pytest.raises(BraidError, match="has no decoder"):
        braid.load(folder, "cpu")(["the cat", Hole("image")])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"vocabulary_map": {"<image>": 2, "IMGIMGAZ": 280}}, "names 1 symbols of pictures"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
    ],
)
def test_what_chameleon_cannot_be_is_refused(tmp_path, change, told):
    folder, _ = chameleon(tmp_path / "released")
    with pytest.raises(BraidError, match=told):
        braid.load(edited(folder, **change), "cpu")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"vision_feature_layer": [-2, -1]}, "only a single one is supported"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act"),
    ],
)
def test_what_llava_cannot_be_is_refused(tmp_path, change, told):
    folder, _ = llava(tmp_path / "released")
    with pytest.raises(BraidError, match=told):
        braid.load(edited(folder, **change), "cpu")


def test_another_language_model_in_janus_is_refused(tmp_path):
    folder, _ = janus(tmp_path / "released")
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edited(folder, text_config={**text, "model_type": "qwen2"})
    with pytest.raises(BraidError, match="in text_config 'qwen2'.*valid: llama"):
        braid.load(folder, "cpu")


@pytest.mark.parametrize("name", ["janus", "llava", "chameleon"])
def test_a_language_model_that_sees_what_comes_after_is_refused(tmp_path, name):
    folder, _ = MADE[name](tmp_path / "released")
    config = json.loads((folder / "config.json").read_text())
    inner = {**config.get("text_config", {}), "is_causal": False}
    edited(folder, **(inner if name == "chameleon" else {"text_config": inner}))
    with pytest.raises(BraidError, match="is_causal to False; only True"):
        braid.load(folder, "cpu")


def test_older_names_of_a_vision_tower_are_read_and_written_back(tmp_path):
    folder, _ = llava(tmp_path / "released")
    file = folder / "model.safetensors"
    older = {
        k.replace("vision_tower.", "vision_tower.vision_model."): v
        for k, v in load_file(file).items()
    }
    save_file(older, file, {"format": "pt"})
    list(convert_commands.convert(str(folder), tmp_path / "braid"))
    convert_commands.export(str(tmp_path / "braid"), tmp_path / "back")
    after = tensors_of(tmp_path / "back")
    assert after.keys() == older.keys() and all(torch.equal(older[k], after[k]) for k in older)


def written(folder: Path, name: str, **settings: Any) -> Path:
    """Write what a release says of its pictures into one of the files that may say it."""
    tree = settings if name.startswith("pre") else {"image_processor": settings}
    (folder / name).write_text(json.dumps(tree))
    return folder


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_pixels_are_those_that_the_release_tells(tmp_path, file):
    folder, _ = llava(tmp_path / "released")
    told = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    vision = braid.load(written(folder, file, **told), "cpu").braid.strand("vision").modality
    assert [list(vision.mean), list(vision.deviation)] == [*told.values()]


def test_newer_settings_of_pictures_stand_above_older_ones(tmp_path):
    folder, _ = llava(tmp_path / "released")
    for file, mean in (("preprocessor_config.json", 0.1), ("processor_config.json", 0.2)):
        written(folder, file, image_mean=[mean] * 3)
    vision = braid.load(folder, "cpu").braid.strand("vision").modality
    assert list(vision.mean) == [0.2] * 3


SQUARE = {"height": 16, "width": 16}
PROCESSORS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "clip": ("llava", "CLIP", {"size": {"shortest_edge": 16}, "crop_size": SQUARE}),
    "clip, number": ("llava", "CLIP", {"size": 16, "crop_size": 16}),
    "clip, bilinear": ("llava", "CLIP", {"size": 16, "crop_size": 16, "resample": 2}),
    "clip, not normalised": ("llava", "CLIP", {"size": 16, "crop_size": 16, "do_normalize": False}),
    "siglip": ("llava-siglip", "Siglip", {"size": SQUARE}),
    "siglip, lanczos": ("llava-siglip", "Siglip", {"size": SQUARE, "resample": 1}),
    "siglip, nearest": ("llava-siglip", "Siglip", {"size": SQUARE, "resample": 0}),
    "siglip, clip's processor": ("llava-siglip", "CLIP", {"size": 16, "crop_size": 16}),
    "clip, siglip's processor": ("llava", "Siglip", {"size": SQUARE}),
    "janus": ("janus", "Janus", {"size": SQUARE, "image_mean": [0.5] * 3, "min_size": 1}),
}
"""Family, class of transformers, and its settings."""


def seen_pixels(vision: Any, raw: Any) -> Tensor:
    """Pixels that the encoder is given."""

    def encoder(pixel_values: Tensor, output_hidden_states: bool) -> Any:
        return SimpleNamespace(last_hidden_state=pixel_values, hidden_states=[pixel_values] * 4)

    vision._model = encoder
    return vision.encode(raw)


@pytest.mark.parametrize("shape", [(31, 47), (53, 29)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processors_of_transformers(tmp_path, name, shape):
    family, kind, settings = PROCESSORS[name]
    folder, _ = MADE[family](tmp_path / "released")
    processor = getattr(transformers, f"{kind}ImageProcessor")(**settings)
    processor.save_pretrained(folder)
    vision = braid.load(folder, "cpu").braid.strand("vision").modality
    raw = Image.fromarray(picture(64)).resize(shape)
    theirs = processor(raw, return_tensors="pt")["pixel_values"][0]
    level = 1 / 255 / min(vision.deviation)
    assert theirs.std() > 0.05
    assert (seen_pixels(vision, raw) - theirs).abs().max() <= 1.1 * level


@pytest.mark.parametrize("name", ["llava", "llava-siglip"])
def test_pixels_of_a_release_without_settings_are_those_of_its_encoder(tmp_path, name):
    folder, _ = MADE[name](tmp_path / "released")
    vision = braid.load(folder, "cpu").braid.strand("vision").modality
    assert vision.squaring == {"llava": "crop", "llava-siglip": "stretch"}[name]
    assert vision.resample == "bicubic"


UNSEEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "levels": ("llava", {"do_rescale": False}, "do_rescale to False; only True"),
    "factor": ("llava", {"rescale_factor": 1.0}, "rescale_factor to 1.0; only 1/255"),
    "sizes": ("llava", {"do_resize": False}, "do_resize to False; only True"),
    "grey": ("llava", {"do_pad": True}, "do_pad to True; only False"),
    "no grey": ("janus", {"do_pad": False}, "do_pad to False; only True"),
    "no crop": (
        "llava",
        {"do_center_crop": False, "size": {"shortest_edge": 16}},
        "do_center_crop to False .*'shortest_edge'",
    ),
    "no crop, number": ("llava", {"do_center_crop": False, "size": 16}, "do_center_crop to False"),
    "crop": ("llava", {"size": 16, "crop_size": {"height": 8, "width": 8}}, "crop_size .* only 16"),
    "side": ("llava", {"size": {"shortest_edge": 24}, "crop_size": 24}, "size to .*24.* only 16"),
    "oblong": ("llava-siglip", {"size": {"height": 16, "width": 8}}, "size to .* only 16"),
    "longest": ("janus", {"size": {"longest_edge": 16}}, "size to .*longest_edge.* only 16"),
    "word": ("llava", {"size": "large"}, "size to 'large', expected a number"),
    "box": ("llava", {"resample": 4}, r"resample to 4; only 0 \(nearest\)"),
    "mean": ("llava", {"image_mean": 0.5}, "image_mean to 0.5; expected 3 finite"),
    "channels": ("janus", {"image_mean": [0.5]}, "image_mean .*; expected 3 finite"),
    "nan": ("llava", {"image_std": [0.5, 0.5, float("nan")]}, "image_std .*; expected 3 finite"),
    "zero": ("llava", {"image_std": [0.5, 0.0, 0.5]}, "image_std .*; expected numbers above 0"),
}


@pytest.mark.parametrize("case", UNSEEN)
def test_settings_that_are_not_followed_are_refused_before_weights_are_read(
    tmp_path, monkeypatch, case
):
    name, settings, told = UNSEEN[case]
    folder, _ = MADE[name](tmp_path / "released")
    written(folder, "preprocessor_config.json", **settings)
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("weights are read"))
    with pytest.raises(BraidError, match=f"^preprocessor_config.json sets {told}"):
        braid.load(folder, "cpu")


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize(("held", "told"), [("{", "is damaged"), ("[]", "expected a mapping")])
def test_damaged_settings_of_pictures_are_refused_by_name(tmp_path, file, held, told):
    folder, _ = llava(tmp_path / "released")
    (folder / file).write_text(held)
    with pytest.raises(BraidError, match=f"{file} of the release .*{told}"):
        braid.load(folder, "cpu")


@pytest.mark.parametrize("kind", ["Siglip", "CLIP"])
def test_an_encoder_alone_gives_the_features_of_transformers(tmp_path, kind):
    config = getattr(transformers, f"{kind}VisionConfig")(**EYES, intermediate_size=48)
    encoder = shaken(getattr(transformers, f"{kind}VisionModel")(config))
    encoder.save_pretrained(tmp_path / "encoder")
    raw = picture()
    for layer in (None, -2):
        vision = Vision(encoder=str(tmp_path / "encoder"), channels=3, layer=layer)
        with torch.no_grad():
            out = encoder(pixels(raw), output_hidden_states=True)
        wanted = out.last_hidden_state if layer is None else out.hidden_states[layer]
        ours = vision.encode(raw)
        assert ours.shape == (16, 24) and (ours - wanted[0, -16:]).abs().max() <= 1e-4


def test_an_encoder_that_was_moved_is_missed_by_name(tmp_path):
    encoder = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(**EYES, intermediate_size=48)
    )
    encoder.save_pretrained(tmp_path / "encoder")
    vision = Vision(encoder=str(tmp_path / "encoder"), channels=3)
    (tmp_path / "encoder").rename(tmp_path / "moved")
    with pytest.raises(BraidError, match="encoder' is there no longer; put it back"):
        vision.encode(picture())
