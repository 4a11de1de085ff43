"""A stranger's picture file, down to what its pixels need, so that decoders see nothing else.

Metadata is where small files become large work: texts and profiles that unpack to gigabytes, EXIF
whose entries all point at the same bytes, millions of empty parts, hundreds of frames, JPEG whose
scans go over all pixels again and again. None of it reaches the decoder.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from braid.errors import BraidError

MOST_PARTS = 1 << 16
"""Most chunks or segments of a file; writers make a few thousand of the largest pictures."""

MOST_SCANS = 100
"""Most scans of a progressive JPEG; writers make about ten, and each goes over all pixels."""

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)
_STANDALONE = (0x01, 0xD8)  # they have no length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # they hold the picture's size
_TABLES = {0xC4, 0xCC, 0xDB, 0xDC, 0xDD}  # for entropy coding and quantisation; lines, restarts
_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}  # they tell which colours the components are
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Essentials:
    """What a file's pixels need.

    Attributes:
        form: "PNG", "JPEG" or "WEBP".
        size: width and height that the header gives.
        orientation: of EXIF, 1 to 8; 1 is upright.
        data: the file; of PNG and JPEG without all else.
    """

    form: str
    size: tuple[int, int]
    orientation: int
    data: bytes


def essentials(data: bytes) -> Essentials:
    """Return what a picture's pixels need; nothing is decoded.

    Raises:
        BraidError: it is no PNG, JPEG or WebP, has no size, or has too many parts.
    """
    if data.startswith(_PNG):
        return _png(data)
    if data.startswith(_JPEG):
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    raise BraidError("it is no PNG, JPEG or WebP picture; save it as one of these")


def _png(data: bytes) -> Essentials:
    """Keep the header, palette, transparency and pixels of the first frame."""
    if data[12:16] != b"IHDR" or len(data) < 24:
        raise _no_size()
    kept, seen, orientation, at = [_PNG], set[bytes](), 1, len(_PNG)
    for _ in range(MOST_PARTS):
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind == b"eXIf" and kind not in seen:
            orientation = _orientation(data[at + 8 : end - 4])
        if kind == b"IDAT" or (kind in (b"IHDR", b"PLTE", b"tRNS", b"IEND") and kind not in seen):
            kept.append(data[at:end])
        if kind == b"IEND":
            break
        seen.add(kind)
        at = end
    else:
        raise _too_many_parts()
    return Essentials("PNG", struct.unpack_from(">II", data, 16), orientation, b"".join(kept))


def _jpeg(data: bytes) -> Essentials:
    """Keep the frame, its tables and its scans."""
    kept, size, orientation = [data[:2]], None, 1
    at, scans, scanning, exif = 2, 0, False, False
    for _ in range(MOST_PARTS):
        marker = _MARKER.search(data, at)
        start, after = marker.span() if marker else (len(data), len(data))
        if scanning:
            kept.append(data[at:start])  # the entropy-coded pixels
        code = marker[1][0] if marker else _END
        if code == _END:
            kept.append(data[start:after])
            break
        if code in _STANDALONE:
            at, scanning = after, False
            continue
        if after + 2 > len(data):
            break
        at = after + struct.unpack_from(">H", data, after)[0]
        segment, content = data[start:at], data[after + 2 : at]
        scanning = code == _SCAN
        scans += scanning
        if code in _FRAMES and size is None and len(content) >= 5:
            height, width = struct.unpack_from(">HH", content, 1)
            size = width, height
        elif code == _EXIF and not exif and content.startswith(b"Exif\0"):
            orientation, exif = _orientation(content), True
        named = code in _COLOURS and content.startswith(_COLOURS[code])
        if scanning or code in _FRAMES or code in _TABLES or named:
            kept.append(segment)
    else:
        raise _too_many_parts()
    if size is None:
        raise _no_size()
    if scans > MOST_SCANS:
        raise BraidError(
            f"the JPEG has {scans} scans, more than {MOST_SCANS}; save it again as PNG or JPEG"
        )
    return Essentials("JPEG", size, orientation, b"".join(kept))


def _webp(data: bytes) -> Essentials:
    """Keep the file: its decoder opens the first frame alone, and copies other chunks as they are.

    The size is read here, as the decoder takes memory for the picture when it opens it.
    """
    orientation, exif, at = 1, False, 12
    for _ in range(MOST_PARTS):
        if at + 8 > len(data):
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"EXIF" and not exif:
            orientation, exif = _orientation(data[at + 8 : at + 8 + length]), True
        at += 8 + length + length % 2
    else:
        raise _too_many_parts()
    return Essentials("WEBP", _webp_size(data), orientation, data)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return width and height that the first chunk of a WebP gives."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L" and len(data) >= 25 and data[20] == 0x2F:
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and len(data) >= 30 and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise _no_size()


def _orientation(exif: bytes) -> int:
    """Return the orientation that EXIF gives, and 1 where it cannot be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, entry)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, entry + 8)
                return value if value in range(1, 9) else 1
    except struct.error:  # EXIF that cannot be parsed tells nothing
        pass
    return 1


def _no_size() -> BraidError:
    """Return the error for a file whose head is not there."""
    return BraidError("the picture's header is cut off or damaged; save it again as PNG or JPEG")


def _too_many_parts() -> BraidError:
    """Return the error for a file that is made of crumbs."""
    return BraidError(
        f"the picture's file has more than {MOST_PARTS} parts; save it again as PNG or JPEG"
    )
