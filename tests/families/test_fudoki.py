"""FUDOKI predicts, guides and walks as its paper and layout say; batches change nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import braid
from braid import Hole, Part, convert_commands
from braid.errors import BraidError
from braid.layout import Span, pack
from braid.modalities import Symbol
from braid.pipeline import Pipeline
from tests.families.made import edited, tensors_of
from tests.families.made_pictures import first_names, fudoki, picture

transformers = pytest.importorskip("transformers")

CLOSE = Part("text", [Symbol("<end_of_image>")])


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Pipeline]:
    """A release that no test changes, its weights in transformers' classes, and it as read."""
    folder, model = fudoki(tmp_path_factory.mktemp("fudoki") / "released")
    return folder, model, braid.load(folder, "cpu")


def number(pipe: Pipeline, name: str) -> int:
    """Number of a special symbol."""
    return pipe.braid.strand("text").modality.tokenizer.token_to_id(name)


def asked(pipe: Pipeline, prompt: str) -> list[int]:
    """Symbols before a picture that is to be drawn."""
    return [
        0,
        *pipe.braid.strand("text").modality.symbols(prompt),
        number(pipe, "<begin_of_image>"),
    ]


def hidden(model: Any, embedded: Tensor) -> Tensor:
    """Hidden vectors [L, D] where every token sees every other."""
    n = embedded.shape[0]
    with torch.no_grad():
        return model.model.language_model(
            inputs_embeds=embedded[None],
            attention_mask=torch.zeros(1, 1, n, n),
            position_ids=torch.arange(n)[None],
        ).last_hidden_state[0]


def drawn(model: Any, before: list[int], codes: Tensor, after: list[int]) -> Tensor:
    """Logits [n, codes] of a picture between texts: those of i are read at i - 1."""
    table, aligned = model.get_input_embeddings(), model.prepare_embeddings_for_image_generation
    with torch.no_grad():
        parts = [table(torch.tensor(before)), aligned(codes), table(torch.tensor(after))]
        vectors = hidden(model, torch.cat(parts))
        return model.model.generation_head(vectors[len(before) - 1 :][: len(codes)])


def answered(
    model: Any, before: list[int], raw: np.ndarray, after: list[int], text: Tensor
) -> Tensor:
    """Logits [n, symbols] of an answer after a picture and a question."""
    table = model.get_input_embeddings()
    pixels = torch.from_numpy(raw).float().permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        looked = model.model.aligner(model.model.vision_model(pixels).last_hidden_state)[0]
        rest = table(torch.cat([torch.tensor(after), text]))
        vectors = hidden(model, torch.cat([table(torch.tensor(before)), looked, rest]))
        return model.lm_head(vectors[-len(text) - 1 : -1])


def distances(table: Tensor, to: Tensor) -> Tensor:
    """d(x, x1) = ||x / |x| - x1 / |x1| ||^4 of all x to each x1, [n, V]."""
    rows = table.double() / table.double().norm(dim=-1, keepdim=True)
    return (rows[None] - rows[to][:, None]).square().sum(-1).square()


@pytest.mark.parametrize("weight", [1.0, 6.0])
def test_a_picture_is_drawn_from_guided_predictions(made_once, weight):
    folder, model, pipe = made_once
    parts = ["the cat sat", Hole("image"), CLOSE]
    made = pipe(parts, guidance=weight, temperature=0, steps=5, trajectory=True, seed=3)
    before, close = asked(pipe, "the cat sat"), [number(pipe, "<end_of_image>")]
    blank = [before[0], *[number(pipe, "<pad>")] * (len(before) - 2), before[-1]]
    table = load_file(folder / "image_embedding.safetensors")["weight"]
    assert len(made.trajectory) == 5
    for frame, following in zip(made.trajectory, [*made.trajectory[1:], None], strict=True):
        state, belief = frame.state[0], frame.belief[0]
        told, alone = (drawn(model, text, state, close) for text in (before, blank))
        # FUDOKI writes (1 + w) cond - w uncond, with w = weight - 1
        guided = weight * told - (weight - 1) * alone
        assert torch.equal(belief, guided.argmax(-1))
        if following is not None:  # symbols move only nearer to what is believed
            d = distances(table, belief)
            near, far = (d.gather(1, x[:, None]) for x in (following.state[0], state))
            moved = following.state[0] != state
            assert (near <= far).all() and (near < far)[moved].all()
    codes = made.trajectory[-1].belief[0]
    assert made.trajectory[0].state[0].unique().numel() > 20 and codes.unique().numel() > 3
    wanted = pipe.braid.strand("image").modality.decode(codes, (8, 8))
    assert np.array_equal(np.array(made[1]), np.array(wanted))


def test_an_answer_is_the_surest_one_at_every_step(made_once):
    _, model, pipe = made_once
    raw, ends = picture(), Symbol("<end_of_image>")
    parts = ["the dog", Part("vision", raw), Part("text", [ends, "the mat"]), Hole("text", 12)]
    made = pipe(parts, steps=4, trajectory=True)
    text = pipe.braid.strand("text").modality
    before, after = asked(pipe, "the dog"), text.symbols([ends, "the mat"])
    assert len(made.trajectory) == 4
    for frame in made.trajectory:
        theirs = answered(model, before, raw, after, frame.state[0])
        assert theirs.std() > 0.5 and torch.equal(frame.belief[0], theirs.argmax(-1))
    assert made[3] == text.decode(made.trajectory[-1].belief[0])


@pytest.mark.parametrize("name", ["text", "image"])
def test_logits_are_read_one_token_before_and_all_see_all(made_once, name):
    _, model, pipe = made_once
    raw, rng = picture(), torch.Generator().manual_seed(1)
    before, after = asked(pipe, "the dog"), [number(pipe, "<end_of_image>")]
    first, last = (Span("text", torch.tensor(ids)) for ids in (before, after))
    if name == "image":
        x = torch.randint(64, (64,), generator=rng)
        theirs = drawn(model, before, x, after)
        document = [first, Span("image", x, shape=(8, 8)), last]
    else:
        x = torch.randint(280, (9,), generator=rng)
        theirs = answered(model, before, raw, after, x)
        vision = pipe.braid.strand("vision").modality
        looked = Span("vision", vision.encode(raw), target=False, shape=vision.shape)
        document = [first, looked, last, Span("text", x)]
    batch = pack([[document]], pipe.braid.placements, twins=False)
    clean = {n: torch.ones(len(t)) for n, t in batch.tokens.items()}
    with torch.no_grad():
        ours = pipe.braid(batch.tokens, clean, batch.layout)[name][-len(x) :]
    assert theirs.std() > 0.5 and (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize("name", ["text", "image"])
def test_the_paths_are_those_of_the_paper(made_once, name):
    folder, _, pipe = made_once
    path: Any = pipe.braid.strand(name).process.path
    table = load_file(folder / f"{name}_embedding.safetensors")["weight"]
    size = len(table)
    clean, noisy = torch.tensor([0, 7, 31, 40]), torch.tensor([5, 7, 2, 63])
    for t in (0.1, 0.5, 0.8):
        beta, rate = 3 * (t / (1 - t)) ** 0.9, 2.7 * t**-0.1 * (1 - t) ** -1.9
        d = distances(table, clean)
        p = (-beta * d).softmax(-1)
        u = p * rate * (d.gather(1, noisy[:, None]) - d).clamp(min=0)
        u[range(4), noisy] = -(u.sum(-1) - u[range(4), noisy])
        time = torch.full((4,), t, dtype=torch.float64)
        assert (path.probabilities(clean, time, size) - p).abs().max() < 1e-6
        ours = path.velocity(noisy, clean, time, size)
        assert ((ours - u).abs() / (1 + u.abs())).max() < 1e-5


def test_a_batch_of_unlike_samples_gives_what_each_gives_alone(made_once):
    _, _, pipe = made_once
    ends = Symbol("<end_of_image>")
    documents = [
        ["the cat", Hole("image"), CLOSE],
        ["a model reads and writes text", Hole("image"), CLOSE],
        ["the", Part("vision", picture()), Part("text", [ends, "what"]), Hole("text", 10)],
        ["a dog sat", Part("vision", picture(seed=5)), Part("text", [ends, "x"]), Hole("text", 10)],
    ]
    options: dict[str, Any] = {"steps": 4, "guidance": 2.0}
    together = pipe.batch(documents, seeds=[4, 5, 6, 7], **options)
    for document, made, seed in zip(documents, together, (4, 5, 6, 7), strict=True):
        alone = pipe(document, seed=seed, **options)
        hole = next(i for i, part in enumerate(document) if isinstance(part, Hole))
        assert np.array_equal(np.array(made[hole]), np.array(alone[hole]))
    assert not np.array_equal(np.array(together[0][1]), np.array(together[1][1]))
    assert together[2][3] != together[3][3]


@pytest.mark.slow
def test_export_after_convert_gives_the_files_back(tmp_path):
    folder, model = fudoki(tmp_path / "released")
    list(convert_commands.convert(str(folder), tmp_path / "braid"))
    convert_commands.export(str(tmp_path / "braid"), tmp_path / "back")
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        p.name for p in (tmp_path / "back").iterdir()
    )
    before, after = tensors_of(folder), tensors_of(tmp_path / "back")
    assert before.keys() == after.keys() and first_names(model.state_dict()).keys() < after.keys()
    for file in folder.glob("*.safetensors"):
        one, two = load_file(file), load_file(tmp_path / "back" / file.name)
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def pickled(folder: Path) -> Path:
    """Write the tables of a release as it comes: whole modules, pickled."""
    for name in ("text", "image"):
        file = folder / f"{name}_embedding.safetensors"
        table = load_file(file)["weight"]
        module = nn.Embedding.from_pretrained(table)
        torch.save(module, file.with_suffix(".pt"))  # noqa: TID251 - as it is released
        file.unlink()
    return folder


def test_pickled_tables_are_read_only_where_a_user_says_so(tmp_path):
    folder, _ = fudoki(tmp_path / "released")
    table = load_file(folder / "text_embedding.safetensors")["weight"]
    pickled(folder)
    with pytest.raises(BraidError, match="text_embedding.pt' is a pickle.*--pickled-tables"):
        braid.load(folder, "cpu")
    list(convert_commands.convert(str(folder), tmp_path / "braid", pickled_tables=True))
    process = braid.load(tmp_path / "braid", "cpu").braid.strand("text").process
    assert torch.equal(process.path.table, table)  # type: ignore[union-attr]


class Harmful:
    """What would make a folder where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path):
    folder = pickled(fudoki(tmp_path / "released")[0])
    harmful = Harmful(tmp_path / "harmed")
    torch.save(harmful, folder / "text_embedding.pt")  # noqa: TID251 - what is refused
    with pytest.raises(BraidError, match="text_embedding.pt' names 'posix mkdir'"):
        list(convert_commands.convert(str(folder), tmp_path / "braid", pickled_tables=True))
    (folder / "text_embedding.pt").write_bytes(b"no pickle at all")
    with pytest.raises(BraidError, match="text_embedding.pt' is damaged, or not"):
        list(convert_commands.convert(str(folder), tmp_path / "braid", pickled_tables=True))
    (folder / "text_embedding.pt").unlink()
    with pytest.raises(BraidError, match="has no text_embedding.safetensors"):
        braid.load(folder, "cpu")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gen_vision_config": {"cls": "VQ-8"}}, "unknown network in gen_vision_config 'VQ-8'"),
        ({"vision_config": {"params": {"model_name": "other"}}}, "in vision_config 'other'"),
        ({"aligner_config": {"params": {"depth": 3}}}, "depth"),
        ({"language_config": None}, "lacks 'language_config'"),
        ({"language_config": [1]}, r"language_config to \[1\], expected a mapping"),
        ({"gen_head_config": {"cls": "vision_head"}}, "lacks 'params'"),
        ({"gen_vision_config": {"params": 3}}, "params to 3, expected a mapping"),
        ({"language_config": {"model_type": "qwen2"}}, "in language_config 'qwen2'"),
    ],
)
def test_what_is_not_known_is_refused(tmp_path, change, told):
    folder, _ = fudoki(tmp_path / "released")
    with pytest.raises(BraidError, match=told):
        braid.load(edited(folder, **change), "cpu")
