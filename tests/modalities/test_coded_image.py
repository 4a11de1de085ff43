"""Pictures through a codec: tokens are its cells, in any shape, and only of the right codec."""

from __future__ import annotations

import functools
import itertools
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PIL

import braid
from braid import config, recipes
from braid.braid import Braid
from braid.data import Documents
from braid.data.dummy import dummy_batch
from braid.errors import BraidError
from braid.layout import pack
from braid.modalities import CodedImage, codecs
from braid.modalities.codecs import Codes, ImageCodec
from braid.modalities.patching import Ascent, Descent
from braid.parts import Hole
from braid.pipeline import Pipeline
from braid.spaces import Continuous, Discrete
from tests.laws import models

KINDS = ("vq:8x4", "levels:5x3", "vq:8x4x2", "kl:2")
"""A symbol, groups of symbols, residual groups, vectors."""


def made(folder: Path, quantiser: str, seed: int = 0, stride: int = 2) -> Path:
    """Write an untrained codec, whose residual blocks and latents are stirred."""
    torch.manual_seed(seed)
    codec = ImageCodec(quantiser, stride=stride, width=8, encoder=1, decoder=1, fine=8)
    with torch.no_grad():
        for p in codec.parameters():
            p.add_(0.2 * torch.randn_like(p))
    codec.eval().requires_grad_(False).standardise(torch.rand(4, 3, 8, 8) * 2 - 1)
    codecs.save(codec, folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Return quantiser -> folder of a codec."""
    root = tmp_path_factory.mktemp("codecs")
    return {q: str(made(root / f"codec-{i}", q)) for i, q in enumerate(KINDS)}


def picture(height: int = 8, width: int = 8, seed: int = 0) -> PIL.Image:
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3))
    return PIL.fromarray(pixels.astype(np.uint8))


def media(x: PIL.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(x)).permute(2, 0, 1)
    return pixels[None].float() / 127.5 - 1


def random_cells(image: CodedImage, rows: int, columns: int) -> torch.Tensor:
    space = image.codec.space
    if isinstance(space, Discrete):
        cells = torch.randint(space.size, space.shape(rows * columns))
    else:
        cells = torch.randn(space.shape(rows * columns))
    return cells.unflatten(0, (rows, columns))


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_holds_the_cells_of_its_patch(kind, patch, folders):
    image = CodedImage(codec=folders[kind], size=(8, 16), patch=patch)
    cells = random_cells(image, 4, 8)
    tokens = image.tokens(cells)
    image.space.check(tokens, "image")
    assert tokens.shape == image.space.shape(math.prod(image.shape))
    blocks = tokens.reshape(4 // patch, 8 // patch, patch, patch, -1)
    for row, column in itertools.product(range(4), range(8)):
        mine = blocks[row // patch, column // patch, row % patch, column % patch]
        assert torch.equal(mine, cells[row, column].reshape(-1))


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_comes_back_as_the_codec_gives_it(kind, patch, folders):
    image, shown = CodedImage(codec=folders[kind], size=(8, 16), patch=patch), picture(8, 16)
    codec = image.codec
    pixels = (codec.decode(codec.encode(media(shown)))[0] + 1) * 127.5
    expected = pixels.round().clamp(0, 255).permute(1, 2, 0).to(torch.uint8).numpy()
    back = image.decode(image.encode(shown))
    assert back.size == (16, 8)
    assert np.array_equal(np.asarray(back), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_codec_decides_what_a_token_is(kind, folders):
    one, four = (CodedImage(codec=folders[kind], size=8, patch=p) for p in (1, 2))
    if kind.startswith("kl"):
        assert (one.space, four.space) == (Continuous(2), Continuous(8))
    else:
        assert four.space == Discrete(one.space.size, 4 * one.space.groups)
    assert (one.shape, four.shape) == ((4, 4), (2, 2))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "kl:2"])
def test_symbols_have_a_table_and_alike_ones_begin_alike(kind, folders):
    image = CodedImage(codec=folders[kind], size=8)
    assert len(image.metric()["table"]) == image.space.size
    alike = image.alike()
    assert torch.equal(alike, alike.T) and torch.allclose(alike.diagonal(), torch.ones(1).double())


def test_latents_have_mean_0_and_deviation_1_after_they_were_measured(tmp_path):
    torch.manual_seed(0)
    codec = ImageCodec("kl:2", stride=2, width=8, encoder=1, decoder=1, fine=8).eval()
    shown = torch.rand(16, 3, 8, 8) * 2 - 1
    before = codec.decode(codec.encode(shown))
    codec.standardise(shown)
    codes = codec.encode(shown).flatten(0, 2)
    torch.testing.assert_close(codes.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(codec.decode(codec.encode(shown)), before)
    codec.standardise(shown)  # measuring again changes nothing
    torch.testing.assert_close(codec.encode(shown).flatten(0, 2), codes, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_survives_its_folder(kind, folders):
    codec = codecs.load(folders[kind])
    assert codec.fingerprint() == codecs.card_of(folders[kind])["fingerprint"]
    assert not any(p.requires_grad for p in codec.parameters())
    shown = media(picture(16, 8))
    codes = codec.encode(shown)
    assert codes.shape[:3] == (1, 8, 4)
    assert codec.decode(codes).shape == shown.shape


def test_weights_of_another_codec_are_refused(tmp_path):
    a, b = (made(tmp_path / str(seed), "vq:8x4", seed) for seed in (1, 2))
    shutil.copy(b / "codec.safetensors", a)
    with pytest.raises(BraidError, match="the two files belong to different codecs"):
        codecs.load(a)


def test_a_picture_that_is_no_multiple_of_the_stride_is_refused(folders):
    with pytest.raises(BraidError, match="2 pixels wide; 5x4 is no multiple"):
        codecs.load(folders["vq:8x4"]).encode(torch.zeros(1, 3, 4, 5))


REFUSED = {
    "size": ({"size": 10, "patch": 2}, r"size \(10, 10\) is not a multiple of the 4 pixels"),
    "patch": ({"size": 8, "patch": 0}, "is not a multiple of the 0 pixels"),
    "budget": ({"size": 8, "budget": 15}, "budget 15 is less than the 16 tokens of size"),
    "patching": ({"size": 8, "patching": "u-net"}, "unknown patching 'u-net'; did you mean 'unet'"),
    "unet": ({"size": 8, "patching": "unet"}, "'unet' needs continuous codes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_at_construction(name, folders):
    options, message = REFUSED[name]
    with pytest.raises(BraidError, match=message):
        CodedImage(codec=folders["vq:8x4"], **options)


def test_a_missing_codec_is_named(tmp_path):
    with pytest.raises(BraidError, match="does not exist; give the folder of a codec"):
        CodedImage(codec=str(tmp_path / "none"))


def test_a_picture_of_another_size_is_refused_or_resized(folders):
    with pytest.raises(BraidError, match="the picture is 6x8, the model reads 8x8; resize it"):
        CodedImage(codec=folders["kl:2"], size=8).encode(picture(8, 6))
    assert CodedImage(codec=folders["kl:2"], size=8, resize=True).encode(picture(8, 6)).shape[0]


def test_codes_are_taken_where_the_codec_made_them(folders):
    image = CodedImage(codec=folders["levels:5x3"], size=8, patch=2)
    cells = image.codec.encode(media(picture()))[0]
    codes = Codes(cells, image.codec.fingerprint())
    assert torch.equal(image.encode(codes), image.encode(picture()))
    with pytest.raises(BraidError) as error:
        image.encode(Codes(cells, "0123456789abcdef"))
    assert "0123456789abcdef" in str(error.value) and codes.fingerprint in str(error.value)


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (3, 4), (6, 6)])
def test_codes_of_another_size_are_refused(rows, columns, folders):
    image = CodedImage(codec=folders["vq:8x4"], size=8, patch=2)
    codes = Codes(random_cells(image, rows, columns), image.card["fingerprint"])
    with pytest.raises(BraidError, match=f"of a picture of {rows}x{columns} cells, .* reads 2x2"):
        image.encode(codes)
    image = CodedImage(codec=folders["vq:8x4"], size=4, patch=2, budget=1)
    with pytest.raises(BraidError, match="at most 1 tokens"):
        image.encode(codes)


def test_the_state_of_another_codec_is_refused(folders):
    a, b = (CodedImage(codec=folders[k], size=8) for k in ("vq:8x4", "levels:5x3"))
    a.load_state(a.state())
    with pytest.raises(BraidError) as error:
        a.load_state(b.state())
    for part in (b.card["fingerprint"], a.card["fingerprint"], "give the model's own codec"):
        assert part in str(error.value)


SHAPES = {
    (8, 8): (4, 4),
    (4, 16): (2, 8),
    (16, 4): (8, 2),
    (40, 40): (4, 4),
    (100, 25): (8, 2),
    (7, 30): (2, 8),
    (64, 63): (4, 4),
    (1, 3): (1, 2),
    (3, 200): (1, 16),
}
"""Height and width in pixels, and the shape in tokens of 2 pixels under a budget of 16."""


@pytest.mark.parametrize("kind", ["vq:8x4", "kl:2"])
@pytest.mark.parametrize("size", SHAPES)
def test_a_budget_keeps_the_aspect_ratio(size, kind, folders):
    image = CodedImage(codec=folders[kind], size=8, patch=1, budget=16)
    tokens, shape = image.tokenise(picture(*size))
    assert shape == SHAPES[size]
    image.space.check(tokens, "image")
    assert image.positions(shape).shape == (len(tokens), 3)
    assert image.decode(tokens, shape).size == (2 * shape[1], 2 * shape[0])


@pytest.mark.parametrize("patch", [1, 2])
def test_a_budget_is_never_exceeded(patch, folders):
    image = CodedImage(codec=folders["vq:8x4"], size=8, patch=patch, budget=21)
    rng = np.random.RandomState(0)
    for height, width in rng.randint(1, 90, (20, 2)).tolist():
        rows, columns = image.tokenise(picture(height, width)).shape
        assert rows * columns <= 21
        assert rows <= image.grid[0] and columns <= image.grid[1]


def test_a_small_picture_is_not_enlarged(folders):
    image = CodedImage(codec=folders["vq:8x4"], size=8, budget=16)
    assert image.tokenise(picture(4, 6)).shape == (2, 3)


def test_a_hole_of_any_shape_stays_in_the_budget(folders):
    image = CodedImage(codec=folders["vq:8x4"], size=8, budget=16)
    assert image.hole_shape(None, causal=False) == (4, 4)
    assert image.hole_shape((2, 8), causal=False) == (2, 8)
    with pytest.raises(BraidError, match="exceeds the budget of 16"):
        image.hole_shape((5, 4), causal=False)


def experiment(paradigm: str, codec: str, *settings: str, **options) -> config.Experiment:
    """Return the toy recipe with coded pictures of 8 pixels."""
    image = {"kind": "coded_image", "codec": codec, "size": 8, **options}
    return recipes.resolve(
        "toy",
        [f"paradigm={paradigm}", *models.SMALL, f"strands.image.modality={image}", *settings],
    )


CAPTIONS = ("row one", "column two", "row two", "column one")


def stirred(made: config.Experiment) -> Braid:
    """Make a model whose weights are random where training would begin at zero."""
    modalities = [config.make_modality(n, s) for n, s in made.strands.items()]
    for modality in modalities:
        modality.fit(CAPTIONS)
    torch.manual_seed(0)
    out = config.build(made, {m.name: m.state() for m in modalities})
    with torch.no_grad():
        for p in out.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return out


CODED = {
    "fudoki": "vq:8x4",
    "mmada": "levels:5x3",
    "chameleon": "vq:8x4",
    "showo": "vq:8x4x2",
    "transfusion": "kl:2",
    "dfm_fm": "kl:2",
}
"""Paradigm -> the codec of its pictures."""


@pytest.fixture(scope="module")
def any_shape(folders):
    """Return a function: paradigm -> pipeline that reads pictures of any shape."""

    @functools.cache
    def build(paradigm: str) -> Pipeline:
        made = experiment(paradigm, folders[CODED[paradigm]], budget=16)
        return Pipeline(stirred(made), made)

    return build


WIDE, TALL = picture(4, 16, 1), picture(12, 6, 2)


@pytest.mark.parametrize("paradigm", CODED)
def test_two_aspect_ratios_in_a_batch_are_what_each_is_alone(paradigm, any_shape):
    pipe = any_shape(paradigm)
    documents = [[WIDE, Hole("text")], [TALL, Hole("text")]]
    together = pipe.batch(documents, seeds=[3, 4], steps=4)
    alone = [pipe.batch([d], seeds=[s], steps=4)[0] for d, s in zip(documents, (3, 4), strict=True)]
    assert [p[-1] for p in together] == [p[-1] for p in alone]


@pytest.mark.parametrize("paradigm", CODED)
def test_documents_of_two_aspect_ratios_are_packed_with_their_places(paradigm, any_shape):
    pipe = any_shape(paradigm)
    modalities = {n: s.modality for n, s in pipe.braid.strands.items()}
    causal = {n: s.causal for n, s in pipe.braid.strands.items()}
    documents = Documents({"text_to_image": 1.0}, modalities, causal, drop=0.0)
    choice = documents.draw(torch.tensor([1]))[0]
    rows = [
        documents.make(choice, documents.encode({"image": x, "text": "row one"}))
        for x in (WIDE, TALL)
    ]
    assert [d[-1].shape for d in rows] == [(2, 8), (5, 3)]
    batch = pack([[d] for d in rows], pipe.braid.placements, twins=pipe.braid.rule.cacheable)
    slots = batch.layout.slots["image"]
    place = batch.layout.position.flatten(0, 1)[slots]
    row = slots // batch.layout.document.shape[1]
    assert place[row == 0, 1:].amax(0).tolist() == [1, 7]
    assert place[row == 1, 1:].amax(0).tolist() == [4, 2]
    assert pipe.braid.loss(batch, 0).total.isfinite()


@pytest.mark.parametrize("paradigm", CODED)
def test_a_picture_of_any_shape_is_embedded_and_scored(paradigm, any_shape):
    pipe = any_shape(paradigm)
    wide, tall = pipe.embed([WIDE]), pipe.embed([TALL])
    assert wide.isfinite().all() and not torch.allclose(wide, tall)
    for shown, n in ((WIDE, 16), (TALL, 15)):
        text, drawn = pipe.score(["row one", shown], times=2)
        for part in (text, drawn):
            assert part.value.isfinite().all() or part.kind == "none"
        numbers = math.prod(pipe.braid.strand("image").modality.space.shape(n))
        assert int(drawn.symbols) == numbers


@pytest.mark.parametrize("paradigm", ["fudoki", "chameleon", "transfusion"])
def test_a_picture_of_an_asked_shape_is_drawn(paradigm, any_shape):
    drawn = any_shape(paradigm)(["row one", Hole("image", shape=(2, 6))], steps=2)[-1]
    assert drawn.size == (12, 4)


def test_a_picture_is_edited_in_place(any_shape):
    pipe = any_shape("fudoki")
    keep = np.zeros((4, 16), dtype=bool)
    keep[:, :8] = True
    hole = Hole("image", shape=(2, 8), draft=WIDE, keep=keep)
    drawn = pipe(["row one", hole], steps=2, trajectory=True)
    held = pipe.braid.strand("image").modality.tokenise(WIDE).values.view(2, 8)[:, :4]
    assert torch.equal(drawn.trajectory[-1].belief[0].view(2, 8)[:, :4], held)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_u_net_sees_the_neighbours_of_a_cell(patch):
    torch.manual_seed(0)
    into, out = (kind(Continuous(2), (3, 4), patch, 16) for kind in (Descent, Ascent))
    x = torch.randn(2 * 12, 2 * patch**2, requires_grad=True)
    hidden = into(x)
    assert hidden.shape == (24, 16)
    assert torch.equal(into(x.view(2, 12, -1)), hidden.view(2, 12, -1))
    hidden[5].sum().backward()
    reached = x.grad.abs().sum(1) > 0
    assert reached[5] and reached[[4, 6, 1, 9]].all() and not reached[12:].any()
    assert not bool(out(hidden).any())
    assert out(hidden).shape == x.shape
    with pytest.raises(BraidError, match="whole pictures of 12 tokens"):
        into(torch.randn(13, 2 * patch**2))
    with pytest.raises(BraidError, match="whole pictures of 12 tokens"):
        into(torch.randn(3, 4, 2 * patch**2))  # thirds of one picture in three rows


def test_a_u_net_puts_each_cell_in_its_place(folders):
    image = CodedImage(codec=folders["kl:2"], size=(12, 16), patch=2, patching="unet")
    into, out = image.embedder(16), image.head(16)
    torch.nn.init.normal_(out.out.weight)
    seen, drawn = [], []
    into.into.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    out.out.register_forward_hook(lambda _, __, made: drawn.append(made))
    cells = random_cells(image, 6, 8)
    tokens = out(into(image.tokens(cells)))
    assert torch.equal(seen[0], cells.movedim(-1, 0)[None])
    assert torch.equal(image.tokens(drawn[0][0].movedim(0, -1)), tokens)
    assert image.hole_shape(None, False) == image.hole_shape(image.shape, False) == image.shape
    with pytest.raises(BraidError, match="draws whole pictures"):
        image.hole_shape((1, 2), False)


@pytest.mark.parametrize("paradigm", ["transfusion", "dfm_fm"])
def test_a_u_net_is_trained_and_draws(paradigm, folders):
    made = experiment(paradigm, folders["kl:2"], "train.batch=8", patch=2, patching="unet")
    model = stirred(made).train()
    batch = dummy_batch(model, made)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model.loss(batch, 0)
        loss.total.backward()
        if not losses:
            assert model.strand("image").embedder.into.weight.grad.abs().sum() > 0
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.per_strand["image"]))
    assert losses[-1] < losses[0]
    pipe = Pipeline(model, made)
    drawn = pipe(["row one", Hole("image")], steps=3, guidance=2.0)[-1]
    assert drawn.size == (8, 8)
    assert isinstance(pipe([drawn, Hole("text")], steps=3)[-1], str)


def test_a_saved_model_brings_its_codec(tmp_path):
    codec = made(tmp_path / "codec", "vq:8x4")
    run = experiment("fudoki", str(codec), budget=16)
    pipe = Pipeline(stirred(run), run)
    document = ["row one", Hole("image", shape=(2, 6))]
    expected = np.asarray(pipe(document, steps=3)[-1])
    pipe.save(tmp_path / "model")
    shutil.rmtree(codec)
    (tmp_path / "model").rename(tmp_path / "moved")
    again = braid.load(tmp_path / "moved", device="cpu")
    assert np.array_equal(np.asarray(again(document, steps=3)[-1]), expected)
    again.save(tmp_path / "moved")  # over itself
    again.save(tmp_path / "other")
    shutil.rmtree(tmp_path / "moved")
    last = braid.load(tmp_path / "other", device="cpu")
    assert np.array_equal(np.asarray(last(document, steps=3)[-1]), expected)


def test_a_saved_model_refuses_a_codec_that_was_exchanged(tmp_path):
    run = experiment("fudoki", str(made(tmp_path / "codec", "vq:8x4")))
    Pipeline(stirred(run), run).save(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "image-codec")
    made(tmp_path / "model" / "image-codec", "vq:8x4", seed=1)
    message = "is a codec that does not belong to the checkpoint: the model was trained with codec"
    with pytest.raises(BraidError, match=message):
        braid.load(tmp_path / "model", device="cpu")
