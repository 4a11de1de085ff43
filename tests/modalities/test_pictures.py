"""Every picture is read as documented, or refused with a reason that helps."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PIL

import braid.modalities
from braid.errors import BraidError
from braid.modalities import Image, Text, Vision, conversions, pictures
from braid.modalities.image import open_picture
from braid.modalities.pictures import convert, fit_to

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
COLOURS = np.stack([GREY, 255 - GREY, GREY.T], -1)  # [8, 8, 3]


def encoded(picture: PIL.Image | np.ndarray, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture = picture if isinstance(picture, PIL.Image) else PIL.fromarray(picture)
    picture.save(file, form, **options)
    return file.getvalue()


def converted(raw, channels: int = 1) -> tuple[np.ndarray, list[str]]:
    """Return the pixels of raw data, and what was noted."""
    notes: list[str] = []
    picture = convert(open_picture(raw), channels, note=notes.append)
    assert picture.mode == ("L" if channels == 1 else "RGB")
    return np.asarray(picture), notes


def header(width: int, height: int) -> bytes:
    """Return a PNG that promises a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def grey_16(levels: np.ndarray, mode: str) -> PIL.Image:
    """Return a picture of 16 bits in one of PIL's modes."""
    if mode == "I":
        return PIL.fromarray(levels.astype(np.int32))
    order = ">u2" if mode == "I;16B" else "<u2"
    return PIL.frombytes(mode, levels.shape[::-1], levels.astype(order).tobytes())


def test_open_picture_is_found_where_it_was():
    assert braid.modalities.open_picture is open_picture is pictures.open_picture


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bits_are_scaled_and_not_cut_off(mode):
    pixels, notes = converted(grey_16(GREY.astype(np.uint16) * 257, mode))
    assert (pixels == GREY).all() and notes == ["16 bits reduced to 8"]


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("brightest", [200, 60_000])
def test_files_of_16_bits_are_scaled(form, brightest):
    levels = np.linspace(0, brightest, 64).astype(np.uint16).reshape(8, 8)
    pixels, notes = converted(encoded(levels, form))
    assert (pixels == np.rint(levels / 257)).all() and notes == ["16 bits reduced to 8"]


def test_colour_of_16_bits_is_scaled():
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 65535, 257 * 100, 65535, 0, 257) for _ in "ab")
    size = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", size), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    assert converted(data, 3)[0].tolist() == [[[0, 255, 100], [255, 0, 1]]] * 2


def test_integers_up_to_255_are_8_bits():
    assert (converted(PIL.fromarray(GREY.astype(np.int32)))[0] == GREY).all()


@pytest.mark.parametrize("full", [1, 255, 65535])
def test_floating_point_greys_are_scaled(full):
    values = np.linspace(0, full, 64).reshape(8, 8).astype(np.float32)
    pixels, notes = converted(encoded(values, "TIFF"))
    assert np.abs(pixels - np.linspace(0, 255, 64).reshape(8, 8)).max() <= 0.51
    assert notes == ["floating point reduced to 8"]


def test_alpha_shows_white_paper():
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[:4] = 0
    shown = np.where(alpha == 0, 255, GREY)
    for raw in (
        PIL.fromarray(np.dstack([GREY, GREY, GREY, alpha])),
        encoded(PIL.merge("LA", [PIL.fromarray(GREY), PIL.fromarray(alpha)])),
    ):
        for channels in (1, 3):
            pixels, notes = converted(raw, channels)
            assert (pixels == (shown if channels == 1 else shown[..., None])).all()
            assert "alpha shown on white" in notes


def test_premultiplied_alpha_is_read():
    picture = PIL.new("RGBA", (8, 8), (100, 100, 100, 128)).convert("RGBa")
    assert converted(picture)[0].tolist() == [[177] * 8] * 8
    picture = PIL.new("LA", (8, 8), (100, 128)).convert("La")
    assert converted(picture)[0].tolist() == [[177] * 8] * 8


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_one_transparent_colour_shows_white_paper(mode):
    black = {"RGB": (0, 0, 0)}.get(mode, 0)
    data = encoded(PIL.new(mode, (8, 8), black), transparency=black)
    pixels, notes = converted(data, 3)
    assert (pixels == 255).all() and "alpha shown on white" in notes


def test_what_is_opaque_has_no_alpha_to_note():
    opaque = np.dstack([COLOURS, np.full((8, 8), 255, np.uint8)])
    pixels, notes = converted(opaque, 3)
    assert (pixels == COLOURS).all() and notes == []


@pytest.mark.parametrize(
    ("mode", "form", "words"),
    [
        ("CMYK", "JPEG", "CMYK"),
        ("CMYK", "TIFF", "CMYK"),
        ("YCbCr", "TIFF", "YCbCr"),
        ("LAB", "TIFF", "LAB"),
        ("HSV", None, "HSV"),
        ("P", "PNG", "palette"),
        ("P", "GIF", "palette"),
        ("1", "PNG", "1 bit"),
    ],
)
@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0)])
def test_other_modes_become_grey_and_rgb(mode, form, words, colour):
    if mode == "LAB":  # lightness, and two axes whose middle is grey
        picture = PIL.new("LAB", (8, 8), (colour[0], 128, 128))
    elif mode == "P":
        picture = PIL.new("P", (8, 8), 1)
        picture.putpalette([9, 9, 9, *colour])
    else:
        picture = PIL.new("RGB", (8, 8), colour).convert(mode)
    raw = encoded(picture, form) if form else picture
    for channels, target in ((1, "grey"), (3, "RGB")):
        pixels, notes = converted(raw, channels)
        assert np.abs(pixels.astype(int) - colour[0]).max() <= 2
        if open_picture(raw).mode == mode:
            assert notes == [f"{words} converted to {target}"]


def test_colours_survive_their_mode():
    for mode in ("HSV", "YCbCr", "CMYK"):
        picture = PIL.new("RGB", (8, 8), (200, 40, 90)).convert(mode)
        pixels, _ = converted(picture, 3)
        assert np.abs(pixels.astype(int) - (200, 40, 90)).max() <= 4, mode


def test_what_needs_no_conversion_is_not_touched():
    for array, channels in ((GREY, 1), (COLOURS, 3)):
        pixels, notes = converted(encoded(array), channels)
        assert (pixels == array).all() and notes == []


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation, form):
    stored = {  # how the pixels of an upright picture are stored
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: np.rot90(GREY),
        7: np.rot90(GREY, 2).T,
        8: np.rot90(GREY, -1),
    }[orientation][..., None].repeat(3, -1)
    exif = PIL.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    pixels, notes = converted(encoded(np.ascontiguousarray(stored), form, exif=exif, **options))
    assert (pixels == GREY).all()
    if form != "TIFF":  # PIL turns TIFF files while it decodes them
        assert ("turned upright by its EXIF orientation" in notes) == (orientation > 1)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_exif_that_cannot_be_parsed_is_ignored():
    assert (converted(encoded(GREY, exif=b"Exif\0\0MM\0*\0\0\0\xff\xff"))[0] == GREY).all()


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_read(form):
    frames = [PIL.new("RGB", (8, 8), (level,) * 3) for level in (40, 120, 200)]
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    pixels, notes = converted(data)
    assert (pixels == 40).all() and notes.count("first frame of an animation") == 1
    whole = converted(data[: int(len(data) * 0.9)])[0] if form == "GIF" else pixels
    assert (whole == 40).all()  # later frames are not decoded


def test_the_header_decides_and_not_the_name(tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(encoded(GREY))
    for raw in (file, str(file), {"path": str(file)}, {"bytes": encoded(GREY), "path": "gone.jpg"}):
        assert (converted(raw)[0] == GREY).all()


def damaged() -> bytes:
    data = bytearray(encoded(GREY))
    data[data.index(b"IDAT") + 6] ^= 255
    return bytes(data)


BAD = {
    "nothing": (b"", "the picture is empty"),
    "an empty cell": ({"bytes": None, "path": None}, "the picture is empty"),
    "no picture": (7, "expected a picture, its bytes or its path, got int"),
    "text": (b"<html>not found</html>", "not a readable picture; save it again"),
    "a signature": (b"\x89PNG\r\n\x1a\n", "not a readable picture; save it again"),
    "half a file": (encoded(COLOURS, "BMP")[:120], "truncated or damaged"),
    "cut PNG": (encoded(GREY)[:-30], "truncated or damaged"),
    "cut JPEG": (encoded(COLOURS.repeat(40, 0), "JPEG")[:-40], "truncated or damaged"),
    "flipped bits": (damaged(), "truncated or damaged"),
    "a giant header": (header(100_000, 100_000), "shrink the picture"),
    "a large header": (header(8001, 8001), "8001x8001 pixels are more than 64000000; shrink"),
    "a line": (header(64_000_001, 1), "more than 64000000"),
    "no width": (header(0, 5), "not a readable picture|at least one pixel"),
    "no pixels": (PIL.new("L", (0, 4)), "the picture is 0x4; it needs at least one pixel"),
    "an empty array": (np.zeros((0, 3), np.uint8), "at least one pixel"),
    "floats": (np.zeros((8, 8), np.float32), "expected a uint8 array"),
    "one axis": (np.zeros(8, np.uint8), "expected a uint8 array"),
    "five channels": (np.zeros((8, 8, 5), np.uint8), "expected a uint8 array"),
    "NaN": (PIL.fromarray(np.full((8, 8), np.nan, np.float32)), "grey values from nan"),
    "infinite": (PIL.fromarray(np.full((8, 8), np.inf, np.float32)), "scale them to 0 to 65535"),
    "negative": (PIL.fromarray(np.full((8, 8), -1, np.int32)), "grey values from -1 to -1"),
    "32 bits": (PIL.fromarray(np.full((8, 8), 70_000, np.int32)), "scale them to 0 to 65535"),
    "no file": (Path("gone.png"), "'gone.png' does not exist; give the path"),
    "a folder": (Path(), "does not exist; give the path"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_pictures_are_refused_with_a_reason(what):
    raw, reason = BAD[what]
    with pytest.raises(BraidError, match=f"^photo: .*({reason})"):
        convert(open_picture(raw, "photo"), 1, "photo")


def test_a_bomb_is_refused_where_warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BraidError, match="shrink the picture"):
            open_picture(header(10_000, 10_000))


def test_the_largest_picture_is_opened_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture(PIL.new("1", (8000, 8000))).size == (8000, 8000)
        with pytest.raises(BraidError, match="truncated"):  # its header passes, and it is empty
            open_picture(header(8000, 8000))


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "huge.png"
    with file.open("wb") as sparse:
        sparse.truncate(pictures.MOST_BYTES + 1)
    with pytest.raises(BraidError, match="bytes, more than"):
        open_picture(file)


def test_a_size_is_fitted_or_refused():
    picture = PIL.fromarray(GREY)
    assert fit_to(picture, (8, 8), False) is picture
    with pytest.raises(BraidError, match="image: the picture is 8x8, the model reads 4x2; resize"):
        fit_to(picture, (4, 2), False)
    assert fit_to(picture, (4, 2), True).size == (4, 2)
    assert fit_to(picture, (13, 31), True).size == (13, 31)
    with pytest.raises(BraidError, match="a picture of 1x60000 cannot be scaled to cover 64x64"):
        fit_to(PIL.new("L", (1, 60_000)), (64, 64), True)


def test_an_image_counts_its_conversions():
    image = Image(size=8, levels=256, patch=1)
    tokens = [image.encode(GREY), image.encode(grey_16(GREY.astype(np.uint16) * 257, "I;16"))]
    assert torch.equal(*tokens)
    image.encode(PIL.new("CMYK", (8, 8)))
    image.encode(PIL.new("CMYK", (8, 8)))
    assert image.converted == Counter({"CMYK converted to grey": 2, "16 bits reduced to 8": 1})


def test_vision_counts_its_conversions():
    vision = Vision(size=8)
    vision.encode(PIL.fromarray(COLOURS))
    assert vision.converted == Counter({"RGB converted to grey": 1})


def test_conversions_are_told_by_name_the_most_frequent_first():
    image, text = Image(size=8, resize=True), Text()
    for mode in ("RGB", "CMYK", "RGB", "L"):
        image.encode(PIL.new(mode, (8, 8)))
    assert conversions({m.name: m.converted for m in (text, image)}) == [
        "image: 2 x RGB converted to grey",
        "image: 1 x CMYK converted to grey",
    ]
    many = {f"kind {i}": 20 - i for i in range(12)}
    assert conversions({"a": many})[-2:] == [
        "a: 11 x kind 9",
        "a: 19 x converted in 2 other ways",
    ]
