"""What strangers send becomes a picture or a sound, or is refused with a reason; never more."""

from __future__ import annotations

import io
import random
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import soundfile
from PIL import Image as PIL

from braid.modalities import pictures, sounds
from braid.modalities.sounds import Sound
from braid.serving import media
from braid.serving.essentials import MOST_PARTS, MOST_SCANS
from braid.serving.limits import Limits
from braid.serving.refusals import Refusal

LIMITS = Limits(picture_pixels=1_000_000, audio_seconds=2)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (24, 16, 3), dtype=np.uint8)
TONE = Sound(0.5 * np.sin(np.arange(4000) * 0.3).astype(np.float32), 8000)
LEAK = re.compile(r"0x[0-9a-f]|Traceback|object at|\.py|BytesIO|/tmp|/home|/usr|[\w.]+/[\w.]+/")


def saved(picture: PIL.Image | np.ndarray, form: str, **options) -> bytes:
    file = io.BytesIO()
    picture = picture if isinstance(picture, PIL.Image) else PIL.fromarray(picture)
    picture.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, raw: bytes, before: bytes = b"", **form) -> bytes:
    """Return a PNG; options: `depth`, `colour`, `interlaced`."""
    options = form.get("depth", 8), form.get("colour", 0), 0, 0, form.get("interlaced", 0)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *options))
    pixels = chunk(b"IDAT", zlib.compress(raw))
    return b"\x89PNG\r\n\x1a\n" + head + before + pixels + chunk(b"IEND", b"")


def riff(body: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(body)) + body


def wav(data: bytes, *, code=1, channels=1, rate=8000, bits=16, block=None, size=None) -> bytes:
    block = channels * bits // 8 if block is None else block
    form = struct.pack("<HHIIHH", code, channels, rate, rate * block & 0xFFFFFFFF, block, bits)
    size = len(data) if size is None else size
    head = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size)
    return riff(head + data)


def ended_jpeg(extra: bytes, at: int = 2) -> bytes:
    """Return a JPEG with bytes put into it."""
    data = saved(PIXELS, "JPEG")
    return data[:at] + extra + data[at:]


def exif(orientation: int, order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


def exif_bomb() -> bytes:
    """Return EXIF whose entries all hold the whole of it."""
    entries = b"".join(struct.pack("<HHII", 0x9000 + i, 7, 60_000, 0) for i in range(4000))
    return b"II*\0" + struct.pack("<IH", 8, 4000) + entries + bytes(12_000)


def animated(form: str) -> bytes:
    frames = [PIL.new("RGB", (8, 8), (i, 0, 0)) for i in range(9, 200, 9)]
    return saved(frames[0], form, save_all=True, append_images=frames[1:])


def code_books(bits: int) -> bytes:
    """Return an Ogg Vorbis of a few hundred bytes whose code book has 2**bits entries."""
    fields = [(0, 8), (0x564342, 24), (1, 16), (1 << bits, 24), (1, 1), (bits - 1, 5)]
    fields += [(1 << bits, bits + 1), (0, 4), (0, 6), (0, 16), (0, 6), (1, 16), (0, 5), (4 << 2, 6)]
    fields += [(0, 22), (0, 72), (0, 6), (0, 8), (0, 4), (0, 6), (0, 18), (0, 2), (0, 24), (0, 6)]
    fields += [(0, 41), (1, 1)]
    value, at = 0, 0
    for field, width in fields:
        value, at = value | field << at, at + width
    first = b"\x01vorbis" + struct.pack("<IBIiiiBB", 0, 1, 8000, 0, 64000, 0, 0xB8, 1)
    second = b"\x03vorbis" + bytes(8) + b"\1"
    third = b"\x05vorbis" + value.to_bytes(at // 8 + 1, "little")
    return page([first], 0, 2) + page([second, third], 1, 0) + page([bytes(4)], 2, 4)


def page(packets: list[bytes], number: int, flags: int) -> bytes:
    """Return a page of Ogg with its checksum."""
    head = b"OggS\0" + bytes([flags]) + struct.pack("<qIII", 0, 1, number, 0)
    data = head + bytes([len(packets), *map(len, packets)]) + b"".join(packets)
    checksum = 0
    for byte in data:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1) ^ (0x104C11DB7 if checksum >> 31 else 0)
    return data[:22] + struct.pack("<I", checksum) + data[26:]


def compressed(form: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, TONE.samples, TONE.rate, format=form)
    return file.getvalue()


def cut_and_flipped(name: str, data: bytes, cuts: int, flips: int) -> dict[str, bytes]:
    """Return a file cut off at many places, and with bits flipped."""
    made = {f"{name} cut {i}": data[: i * len(data) // cuts] for i in range(1, cuts)}
    for seed in range(flips):
        rng, flipped = random.Random(seed), bytearray(data)
        for _ in range(1 + seed % 4):  # half of them in the header
            end = len(data) if seed % 2 else min(len(data), 64)
            flipped[rng.randrange(end)] ^= 1 << rng.randrange(8)
        made[f"{name} flip {seed}"] = bytes(flipped)
    return made


def hostile_pictures() -> dict[str, bytes]:
    palette = PIL.fromarray(PIXELS).quantize(16)
    valid = {
        "png": saved(PIXELS, "PNG"),
        "jpeg": saved(PIXELS, "JPEG"),
        "progressive": saved(PIXELS, "JPEG", progressive=True),
        "webp": saved(PIXELS, "WEBP"),
        "lossless": saved(PIXELS, "WEBP", lossless=True),
        "webp exif": saved(PIXELS, "WEBP", exif=b"Exif\0\0" + exif(6)),
        "palette": saved(palette, "PNG", transparency=3),
    }
    files = dict(valid)
    for name, data in valid.items():
        files |= cut_and_flipped(name, data, 10, 12)
    others = ("GIF", "BMP", "TIFF", "ICO", "PPM", "EPS", "PDF", "TGA", "PCX", "SGI", "DDS", "ICNS")
    files |= {form: saved(PIXELS, form) for form in others}
    files |= {
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(300),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "empty": b"",
        "a byte": b"\x89",
        "signature alone": b"\x89PNG\r\n\x1a\n",
        "zero": png(0, 8, b""),
        "one": png(1, 1, b"\0\7"),
        "line": png(65535, 1, bytes(65536)),
        "column": png(1, 65535, bytes(131_070)),
        "giant header": png(60_000, 60_000, b""),
        "largest header": png(2**31 - 1, 2**31 - 1, b""),
        "negative header": png(2**32 - 1, 2, b""),
        "no pixels": png(8, 8, b""),
        "too many pixels": png(8, 8, bytes(1 << 20)),
        "16 bits": png(8, 8, bytes(8 * 17), depth=16),
        "16 bits of colour": png(8, 8, bytes(8 * 65), depth=16, colour=6),
        "interlaced": png(8, 8, bytes(200), interlaced=1),
        "depth 3": png(8, 8, bytes(72), depth=3),
        "filter 99": png(8, 8, b"\x63" * 72),
        "no palette": png(8, 8, bytes(72), colour=3),
        "two headers": png(8, 8, bytes(72), png(60_000, 60_000, b"")[8:33]),
        "long text": png(8, 8, bytes(72), chunk(b"tEXt", b"k\0" + b"x" * 2_000_000)),
        "profiles": png(8, 8, bytes(72), 40 * chunk(b"iCCP", zip_bomb())),
        "texts": png(8, 8, bytes(72), 80 * chunk(b"zTXt", zip_bomb())),
        "exif bomb in PNG": png(8, 8, bytes(72), chunk(b"eXIf", exif_bomb())),
        "lying chunk": png(8, 8, bytes(72), b"\xff\xff\xff\xfftEXt"),
        "html after": valid["png"] + b"<script>alert(1)</script>" * 99,
        "zip after": valid["jpeg"] + b"PK\3\4" + bytes(200),
        "PNG in JPEG": valid["jpeg"] + valid["png"],
        "JPEG in PNG": valid["png"] + valid["jpeg"],
        "EPS in JPEG": b"\xff\xd8\xff%!PS-Adobe" + valid["jpeg"],
        "animated PNG": animated("PNG"),
        "animated WebP": animated("WEBP"),
        "animated GIF": animated("GIF"),
        "many pictures": saved(
            PIXELS, "MPO", save_all=True, append_images=[PIL.new("RGB", (9, 9))]
        ),
        "CMYK": saved(PIL.fromarray(PIXELS).convert("CMYK"), "JPEG"),
        "grey": saved(PIXELS[..., 0], "JPEG"),
        "orientation 99": saved(PIXELS, "JPEG", exif=b"Exif\0\0" + exif(99)),
        "exif loop": saved(PIXELS, "JPEG", exif=b"Exif\0\0II*\0" + struct.pack("<I", 2**32 - 1)),
        "exif bomb": ended_jpeg(
            b"\xff\xe1" + struct.pack(">H", 60_026) + b"Exif\0\0" + exif_bomb()
        ),
        "second frame": ended_jpeg(b"\xff\xc0\0\x0b\x08\xff\xdc\xff\xdc\1\1\x11\0", -2),
        "frames": ended_jpeg(b"\xff\xc0\0\x0b\x08\0\x18\0\x10\1\1\x11\0"),
        "other frame": with_second_frame(),
        "segment of no length": ended_jpeg(b"\xff\xe2\0\0"),
        "segment beyond": ended_jpeg(b"\xff\xe2\xff\xff"),
        "no frame": b"\xff\xd8\xff\xda\0\2\xff\xd9",
        "fill": ended_jpeg(b"\xff" * 100_000),
        "webp canvas": riff(b"WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff" * 6),
        "webp nothing": riff(b"WEBP"),
        "webp kind": riff(b"WEBPVP9 \x0a\0\0\0" + bytes(10)),
        "webp frames": riff(b"WEBPVP8X\x0a\0\0\0\2" + bytes(9) + b"ANMF\x10\0\0\0" + bytes(16)),
    }
    return files


def zip_bomb() -> bytes:
    """Return a text of PNG that unpacks to a megabyte."""
    return b"k\0\0" + zlib.compress(bytes(1 << 20))


def with_second_frame() -> bytes:
    """Return a JPEG with a second, giant frame before its pixels: some readers take it."""
    data = saved(PIXELS, "JPEG")
    return ended_jpeg(b"\xff\xc0\0\x0b\x08\xff\xdc\xff\xdc\1\1\x11\0", data.index(b"\xff\xda"))


def hostile_sounds() -> dict[str, bytes]:
    plain = media.wav(TONE)
    samples = plain[44:]
    files = {"wav": plain} | cut_and_flipped("wav", plain, 10, 30)
    floats = TONE.samples.astype("<f4")
    nan, infinite = floats.copy(), floats.copy()
    nan[9], infinite[9] = np.nan, np.inf
    return files | {
        "empty": b"",
        "two bytes": b"RI",
        "picture": saved(PIXELS, "PNG"),
        "webp": saved(PIXELS, "WEBP"),
        "text": b"#!/bin/sh\ncat /etc/passwd\n",
        "au": b".snd" + struct.pack(">IIIII", 24, 99, 3, 8000, 1) + bytes(99),
        "no channels": wav(samples, channels=0, block=2),
        "all channels": wav(samples, channels=65535, bits=8),
        "33 channels": wav(samples * 4, channels=33),
        "rate 0": wav(samples, rate=0),
        "1e9 Hz": wav(samples, rate=10**9),
        "odd rate": wav(samples, rate=383_999),
        "block 0": wav(samples, block=0),
        "wrong block": wav(samples, block=3),
        "7 bits": wav(samples, bits=7, block=1),
        "no bits": wav(samples, bits=0),
        "128 bits": wav(samples, bits=128),
        "odd size": wav(samples[:-1]),
        "size of more": wav(samples, size=len(samples) * 9),
        "size unknown": wav(samples, size=0xFFFFFFFF),
        "size less": wav(samples, size=5),
        "size 0": wav(samples, size=0),
        "no data": plain[:36],
        "data first": plain[:12] + plain[36:],
        "no format": riff(b"WAVEdata" + struct.pack("<I", 4) + bytes(4)),
        "chunks": riff(b"WAVE" + b"junk\0\0\0\0" * 1000),
        "giant chunk": riff(b"WAVEjunk\xff\xff\xff\xff" + plain[12:]),
        "floats": wav(floats.tobytes(), code=3, bits=32),
        "NaN": wav(nan.tobytes(), code=3, bits=32),
        "infinite": wav(infinite.tobytes(), code=3, bits=32),
        "loud": wav((floats * 1e30).tobytes(), code=3, bits=32),
        "doubles": wav((floats.astype("<f8") * 1e300).tobytes(), code=3, bits=64),
        "long": wav(bytes(2 * 8000 * 3)),
        "silent": wav(bytes(4000)),
        "short": wav(bytes(8)),
    }


PICTURES, SOUNDS = hostile_pictures(), hostile_sounds()


def outcome(read: Callable, data: bytes) -> object:
    """Return what was read, or its refusal, which tells nothing about the server."""
    try:
        return read(data, "image[0]", LIMITS)
    except Refusal as e:
        assert e.status == 400 and e.param == "image[0]"
        assert e.message.startswith("image[0]") and len(e.message) < 300
        assert not LEAK.search(e.message), e.message
        return e


def refused(read: Callable, data: bytes, words: str) -> None:
    made = outcome(read, data)
    assert isinstance(made, Refusal) and re.search(words, made.message), made


def test_the_corpus_is_large():
    assert len(PICTURES) + len(SOUNDS) >= 200


@pytest.mark.parametrize("name", PICTURES)
def test_a_hostile_picture_is_a_picture_or_refused(name, capfd, recwarn):
    began = time.process_time()
    made = outcome(media.picture, PICTURES[name])
    if isinstance(made, PIL.Image):
        assert 1 <= made.width * made.height <= LIMITS.picture_pixels
        assert set(made.info) <= {"transparency"} and not made.getexif()
        assert pictures.convert(made, 3).mode == "RGB"
    assert time.process_time() - began < 1
    assert capfd.readouterr().err == "" and not list(recwarn)


@pytest.mark.parametrize("name", SOUNDS)
def test_a_hostile_sound_is_a_sound_or_refused(name, recwarn):
    made = outcome(media.sound, SOUNDS[name])
    if isinstance(made, Sound):
        assert 0 < made.seconds <= LIMITS.audio_seconds and np.isfinite(made.samples).all()
    assert not list(recwarn)


def test_the_valid_files_of_the_corpus_are_taken():
    """A reader that refuses everything would pass the tests above."""
    taken = {
        n for n, data in PICTURES.items() if isinstance(outcome(media.picture, data), PIL.Image)
    }
    assert {"png", "jpeg", "progressive", "webp", "lossless", "palette", "one", "line"} <= taken
    assert {"16 bits", "animated PNG", "animated WebP", "CMYK", "many pictures"} <= taken
    assert {"long text", "profiles", "texts", "exif bomb", "exif bomb in PNG"} <= taken
    heard = {n for n, data in SOUNDS.items() if isinstance(outcome(media.sound, data), Sound)}
    assert {"wav", "floats", "silent", "size unknown", "odd size"} <= heard


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "ICO", "PPM", "EPS", "PDF", "psd", "svg"])
def test_other_pictures_are_not_parsed(form):
    refused(media.picture, PICTURES[form], "no PNG, JPEG or WebP")


@pytest.mark.parametrize("name", ["giant header", "largest header", "webp canvas"])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(name):
    refused(media.picture, PICTURES[name], "are more than 1000000; shrink")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_the_limit_of_pixels_is_exact(form):
    data = saved(PIXELS, form)  # 384 pixels
    assert media.picture(data, "image", Limits(picture_pixels=384)).size == (16, 24)
    with pytest.raises(Refusal, match="16 by 24 pixels are more than 383"):
        media.picture(data, "image", Limits(picture_pixels=383))


@pytest.mark.parametrize("name", ["png cut 7", "webp cut 7", "no pixels", "other frame"])
def test_a_damaged_picture_is_refused(name):
    refused(media.picture, PICTURES[name], "truncated or damaged; save it again|more than 1000000")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_orientation_turns_as_in_training(form, orientation, order):
    content = (b"" if form == "PNG" else b"Exif\0\0") + exif(orientation, order)
    data = saved(PIXELS, form, exif=content)
    expected = pictures.convert(pictures.open_picture(data), 3)
    picture = media.picture(data, "image", LIMITS)
    assert picture.size == ((16, 24) if orientation < 5 else (24, 16))
    assert (np.asarray(picture) == np.asarray(expected)).all()


def test_pixels_are_those_that_training_reads():
    for name in (
        "png",
        "jpeg",
        "progressive",
        "webp",
        "palette",
        "CMYK",
        "16 bits",
        "animated PNG",
    ):
        expected = pictures.convert(pictures.open_picture(PICTURES[name]), 3)
        made = pictures.convert(media.picture(PICTURES[name], "image", LIMITS), 3)
        assert (np.asarray(made) == np.asarray(expected)).all(), name


def test_crumbs_are_refused():
    words = f"more than {MOST_PARTS} parts"
    refused(media.picture, png(8, 8, bytes(72), chunk(b"prVt", b"") * MOST_PARTS), words)
    refused(media.picture, ended_jpeg(b"\xff\xfe\0\2" * MOST_PARTS), words)
    refused(media.picture, riff(saved(PIXELS, "WEBP")[8:] + b"XMP \0\0\0\0" * MOST_PARTS), words)


def test_a_jpeg_of_many_scans_is_refused():
    data = saved(PIXELS, "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    refused(media.picture, data[:-2] + scan * MOST_SCANS + data[-2:], f"more than {MOST_SCANS}")


def test_a_picture_that_memory_cannot_hold_is_refused(monkeypatch):
    def full(self: PIL.Image) -> PIL.Image:
        raise MemoryError

    monkeypatch.setattr(PIL.Image, "copy", full)
    refused(media.picture, PICTURES["png"], "truncated or damaged")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("long", "3 s; the most are 2 s; cut it"),
        ("1e9 Hz", "sample rate is 1000000000; use"),
        ("odd rate", "sample rate is 383999 Hz; save the sound again"),
        ("no channels", "0 channels"),
        ("NaN", "NaN or infinite"),
        ("no data", "cut off"),
        ("au", "not a readable sound; save it again as WAV"),
    ],
)
def test_a_bad_sound_is_refused_with_its_reason(name, words):
    refused(media.sound, SOUNDS[name], words)


@pytest.mark.parametrize("form", sounds.SUFFIXES[1:])
def test_compressed_sounds_are_read(form):
    made = media.sound(compressed(form[1:].upper()), "audio", LIMITS)
    assert made.rate == 8000 and abs(made.seconds - 0.5) < 0.2
    assert np.abs(made.samples[500:3500]).max() > 0.3


def test_a_sound_that_crashes_its_decoder_ends_no_server():
    refused(media.sound, code_books(22), "not a readable sound")


def test_damaged_compressed_sounds_are_refused():
    flac = compressed("FLAC")
    refused(media.sound, flac[: len(flac) // 5], "truncated|readable")
    refused(media.sound, b"OggS" * 99, "not a readable sound")
    refused(media.sound, b"ID3\4\0\0\0\0\0\0" + compressed("AIFF"), "not a readable sound")


def test_a_compressed_sound_of_minutes_is_refused_by_its_header():
    flac = bytearray(compressed("FLAC"))
    flac[18:26] = (int.from_bytes(flac[18:26], "big") & ~0xFFFFFFFFF | 8000 * 60).to_bytes(8, "big")
    refused(media.sound, bytes(flac), "60 s; the most are 2 s")


def url(data: bytes) -> str:
    return media.data_url(data, "image/png")


def test_a_payload_is_its_bytes():
    for data in (b"a", b"ab", b"abc", bytes(range(256))):
        assert media.payload(url(data), "image", 256) == data
        assert media.payload(url(data)[22:], "image", 256) == data
    assert media.payload("DATA:;BASE64,YQ==", "image", 1) == b"a"
    assert media.payload("data:audio/wav;charset=x;base64,YQ==", "image", 1) == b"a"


@pytest.mark.parametrize(
    "address",
    ["http://a.b/c.png", "HTTPS://a", "file:///etc/passwd", "ftp://a", "javascript:1", "C:\\a.png"],
)
def test_no_address_is_fetched(address):
    with pytest.raises(Refusal, match="this server fetches nothing; send the content") as e:
        media.payload(address, "image", 99)
    assert e.value.param == "image" and address not in e.value.message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "empty"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png,abc", "without base64"),
        ("data:", "without base64"),
        ("YQ=", "no base64"),
        ("YQ", "no base64"),
        ("YQ==YQ==", "no base64"),
        ("Y Q==", "no base64"),
        ("YQ==\n", "no base64"),
        ("YW_-", "no base64"),
        ("====", "no base64"),
        ("é" * 4, "no base64"),
        ("\ud800" * 4, "no base64"),
        ("../../etc", "no base64"),
        (" data:image/png;base64,YQ==", "no base64"),
    ],
)
def test_a_bad_payload_is_refused(value, words):
    with pytest.raises(Refusal, match=words) as e:
        media.payload(value, "image", 99)
    assert e.value.status == 400 and e.value.param == "image"


def test_the_limit_of_a_payload_is_exact_and_comes_before_decoding():
    assert media.payload(url(bytes(100)), "image", 100) == bytes(100)
    with pytest.raises(Refusal, match="holds 101 bytes, more than 100; send a smaller"):
        media.payload(url(bytes(101)), "image", 100)
    with pytest.raises(Refusal, match="more than 100"):
        media.payload("!" * 4000, "image", 100)


@pytest.mark.parametrize("form", media.FORMS)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "LA", "1"])
def test_a_picture_is_encoded_in_any_form(form, mode):
    picture = PIL.new("L", (16, 24), 255).convert("RGB").convert(mode)
    read = media.picture(media.encoded(picture, form), "image", LIMITS)
    assert read.size == (16, 24) and read.mode == ("L" if mode == "L" and form != "webp" else "RGB")
    expected = np.asarray(pictures.convert(picture, 3)).astype(int)
    assert np.abs(np.asarray(read.convert("RGB")) - expected).max() <= (0 if form == "png" else 4)


def test_png_loses_nothing():
    assert (
        np.asarray(PIL.open(io.BytesIO(media.encoded(PIL.fromarray(PIXELS), "png")))) == PIXELS
    ).all()


def test_an_unknown_form_is_refused():
    with pytest.raises(Refusal, match="'gif' is not known; use one of png, jpeg, webp") as e:
        media.encoded(PIL.new("L", (1, 1)), "gif")
    assert e.value.param == "output_format"


def test_a_sound_goes_out_and_comes_back():
    levels = np.rint(TONE.samples * 32768).astype("<i2")
    assert media.pcm(TONE) == levels.tobytes() == media.wav(TONE)[44:]
    for data in (media.wav(TONE), media.flac(TONE)):
        assert (media.sound(data, "audio", LIMITS).levels() == levels).all()


def test_flac_without_its_library_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(Refusal, match="'flac' is not written by this server; use 'wav' or 'pcm'"):
        media.flac(TONE)


def test_a_data_url_is_read_back():
    assert url(b"abc") == "data:image/png;base64,YWJj"
