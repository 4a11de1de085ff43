"""Reading pictures: what is opened, how any of them becomes grey or RGB, and to which size."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PIL
from PIL import ImageOps

from braid.errors import BraidError

MOST_PIXELS = 64_000_000
"""Largest picture that is decoded; checked in the header, before any memory is taken."""

MOST_BYTES = 1 << 30
"""Largest file that is read."""

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""What is decoded; some other formats would start programs."""

Note = Callable[[str], None]
"""Is told, in a few words, of everything that a conversion changed."""

DAMAGE = (
    *(OSError, ValueError, SyntaxError, RuntimeError, EOFError, LookupError, TypeError),
    *(AttributeError, ArithmeticError, AssertionError, struct.error, zlib.error),
)
"""What decoders raise on damaged files."""

_MODES = {
    "1": "1 bit",
    "L": "grey",
    "LA": "grey",
    "La": "grey",
    "P": "palette",
    "PA": "palette",
    "RGB": "RGB",
    "RGBA": "RGB",
    "RGBa": "RGB",
    "RGBX": "RGB",
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "LAB",
    "HSV": "HSV",
}
"""Modes that are converted, with the words for them; deeper ones become L first."""


FITS = ("crop", "pad", "stretch")
"""How a picture becomes a square, see `squared`."""

RESAMPLES = {
    "nearest": PIL.Resampling.NEAREST,
    "lanczos": PIL.Resampling.LANCZOS,
    "bilinear": PIL.Resampling.BILINEAR,
    "bicubic": PIL.Resampling.BICUBIC,
}
"""How the pixels of a scaled picture are computed."""


def open_picture(raw: Any, name: str = "image") -> PIL.Image:
    """Open and decode a picture: its first frame, in the mode of the file.

    Takes PIL, uint8 arrays, bytes of a file, a path, or a {"bytes": ..., "path": ...} cell. The
    header decides what a file is, not its name.

    Raises:
        BraidError: names what is wrong with the picture.
    """
    if isinstance(raw, dict):
        raw = raw.get("bytes") or raw.get("path") or b""
    if isinstance(raw, np.ndarray):
        return _of_array(raw, name)
    if isinstance(raw, str | Path):
        raw = _file(Path(raw), name)
    if isinstance(raw, bytes | bytearray):
        raw = _of_bytes(raw, name)
    if not isinstance(raw, PIL.Image):
        raise BraidError(
            f"{name}: expected a picture, its bytes or its path, got {type(raw).__name__}"
        )
    _check_size(raw.size, name)
    try:
        raw.load()
    except DAMAGE as e:
        raise BraidError(f"{name}: the picture is truncated or damaged ({e}); save it again") from e
    return raw


def convert(
    picture: PIL.Image, channels: int, name: str = "image", note: Note | None = None
) -> PIL.Image:
    """Return a picture upright, in mode L (1 channel) or RGB (3 channels).

    - Of an animation, the frame that is open is taken: the first, unless the caller chose another.
    - EXIF orientation is applied.
    - Grey of 16 bits is divided by 257. In files that do not tell how deep they are (TIFF of 32
      bits), values up to 255 are 8 bits and values up to 65535 are 16. Floating-point values up to
      1 are multiplied by 255, and taken as integers beyond.
    - What is transparent shows white paper.
    - CMYK, YCbCr, LAB, HSV, palettes and single bits become RGB or grey; colour profiles are
      ignored.

    Args:
        picture: what `open_picture` returned.
        channels: 1 for grey, 3 for RGB.
        name: name for messages.
        note: is called with a few words for each of these that was done.

    Raises:
        BraidError: the values have no meaning as a picture.
    """
    note = note or _silent
    if _animated(picture):
        note("first frame of an animation")
    picture = _eight_bits(_upright(picture, note), name, note)
    if picture.mode not in _MODES:
        raise BraidError(
            f"{name}: mode {picture.mode} is not supported; convert the picture to RGB or L"
        )
    kind = _MODES[picture.mode]
    try:
        picture = _opaque(picture, note)
        if picture.mode in ("LAB", "HSV", "YCbCr", "CMYK"):  # not all of them convert to L at once
            picture = picture.convert("RGB")
        picture = picture if picture.mode == _mode(channels) else picture.convert(_mode(channels))
    except (*DAMAGE, ImportError) as e:
        raise BraidError(f"{name}: cannot convert mode {picture.mode} ({e}); save it as RGB") from e
    target = "grey" if channels == 1 else "RGB"
    if kind != target:
        note(f"{kind} converted to {target}")
    return picture


def fit_to(
    picture: PIL.Image, size: tuple[int, int], resize: bool, name: str = "image"
) -> PIL.Image:
    """Return a picture of that (width, height): scaled to cover it, and cropped to its middle.

    Raises:
        BraidError: the size differs and `resize` is not set, or the shape is too extreme to scale.
    """
    width, height = size
    if picture.size == size:
        return picture
    w, h = picture.size
    if not resize:
        raise BraidError(
            f"{name}: the picture is {w}x{h}, the model reads {width}x{height}; resize it, or set "
            "the modality's `resize: true`"
        )
    scale = max(width / w, height / h)
    scaled = max(width, round(w * scale)), max(height, round(h * scale))
    if scaled[0] * scaled[1] > MOST_PIXELS:  # a line of pixels would become a giant
        raise BraidError(
            f"{name}: a picture of {w}x{h} cannot be scaled to cover {width}x{height}; crop it"
        )
    picture = picture.resize(scaled, PIL.Resampling.LANCZOS)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return picture.crop((left, top, left + width, top + height))


def squared(
    picture: PIL.Image, side: int, fit: str, resample: str, name: str = "image"
) -> PIL.Image:
    """Return a picture of `side` times `side` pixels, scaled as the processors of encoders do it.

    Args:
        picture: of any shape.
        side: in pixels.
        fit: "crop" scales it to cover the square and takes its middle; "pad" scales it into the
            square, with grey of value 127 beside or above and below; "stretch" scales each side by
            itself.
        resample: one of `RESAMPLES`.
        name: of the modality, for errors.

    Raises:
        BraidError: the shape is too extreme to scale.
    """
    w, h = picture.size
    if w == h or fit == "stretch":
        scaled = side, side
    elif fit == "crop":  # rounded down: a pixel more would move the middle
        scaled = int(side * w / min(w, h)), int(side * h / min(w, h))
    else:
        scaled = max(1, round(side * w / max(w, h))), max(1, round(side * h / max(w, h)))
    if scaled[0] * scaled[1] > MOST_PIXELS:  # a line of pixels would become a giant
        raise BraidError(
            f"{name}: a picture of {w}x{h} cannot be scaled to cover {side}x{side}; crop it"
        )
    if picture.size != scaled:
        picture = picture.resize(scaled, RESAMPLES[resample])
    if fit == "pad":
        square = PIL.new(picture.mode, (side, side), (127,) * len(picture.getbands()))
        square.paste(picture, ((side - scaled[0]) // 2, (side - scaled[1]) // 2))
        return square
    left, top = (scaled[0] - side) // 2, (scaled[1] - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _of_array(array: np.ndarray, name: str) -> PIL.Image:
    """Return the picture of a uint8 array [height, width] or [height, width, channels]."""
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 2, 3, 4):
        raise BraidError(
            f"{name}: expected a uint8 array [height, width] or [height, width, channels], "
            f"got {array.dtype} {array.shape}"
        )
    _check_size((array.shape[1], array.shape[0]), name)
    return PIL.fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)


def _file(path: Path, name: str) -> bytes:
    """Return the bytes of a file that is not too large."""
    if not path.is_file():
        raise BraidError(f"{name}: {str(path)!r} does not exist; give the path of a picture")
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise BraidError(
                f"{name}: {str(path)!r} has {size} bytes, more than {MOST_BYTES}; shrink the "
                "picture"
            )
        return path.read_bytes()
    except OSError as e:
        raise BraidError(f"{name}: cannot read {str(path)!r} ({e.strerror})") from e


def _of_bytes(data: bytes | bytearray, name: str) -> PIL.Image:
    """Return the picture of an encoded file, its header read and its pixels not yet."""
    if not data:
        raise BraidError(f"{name}: the picture is empty (0 bytes)")
    try:
        return PIL.open(io.BytesIO(data), formats=FORMATS)
    except (PIL.DecompressionBombError, PIL.DecompressionBombWarning) as e:
        raise BraidError(
            f"{name}: it has more than {MOST_PIXELS} pixels; shrink the picture"
        ) from e
    except DAMAGE as e:
        raise BraidError(f"{name}: not a readable picture; save it again as PNG or JPEG") from e


def _check_size(size: tuple[int, int], name: str) -> None:
    """Refuse pictures without pixels, and those of too many."""
    width, height = size
    if width < 1 or height < 1:
        raise BraidError(f"{name}: the picture is {width}x{height}; it needs at least one pixel")
    if width * height > MOST_PIXELS:
        raise BraidError(
            f"{name}: {width}x{height} pixels are more than {MOST_PIXELS}; shrink the picture"
        )


def _silent(words: str) -> None:
    """Tell nobody."""


def _mode(channels: int) -> str:
    """Return the mode that has so many channels."""
    return "L" if channels == 1 else "RGB"


def _animated(picture: PIL.Image) -> bool:
    """Return whether a picture is the first of several frames."""
    try:
        return bool(getattr(picture, "is_animated", False)) and picture.tell() == 0
    except DAMAGE:  # it looks for the second frame, which may be damaged; the first is read
        return False


def _upright(picture: PIL.Image, note: Note) -> PIL.Image:
    """Apply the EXIF orientation, which cameras write instead of turning the pixels."""
    try:
        if picture.getexif().get(0x0112, 1) not in range(2, 9):
            return picture
        turned = ImageOps.exif_transpose(picture)
    except DAMAGE:  # EXIF that cannot be parsed tells nothing
        return picture
    note("turned upright by its EXIF orientation")
    return turned


def _eight_bits(picture: PIL.Image, name: str, note: Note) -> PIL.Image:
    """Return grey of more than 8 bits as L."""
    mode = picture.mode
    if mode not in ("I", "F") and not mode.startswith("I;16"):
        return picture
    values = np.asarray(picture).astype(np.float32)  # [height, width]
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535):  # also where they are NaN
        raise BraidError(
            f"{name}: grey values from {low:g} to {high:g} (mode {mode}); scale them to 0 to 65535"
        )
    if mode == "F" and high <= 1:
        values *= 255
    elif high > 255 or mode.startswith("I;16") or picture.format in ("PNG", "PPM"):
        values /= 257
    note(f"{'floating point' if mode == 'F' else '16 bits'} reduced to 8")
    return PIL.fromarray(np.floor(values + 0.5).astype(np.uint8))


def _opaque(picture: PIL.Image, note: Note) -> PIL.Image:
    """Show what is transparent on white paper."""
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode not in ("P", "RGBA") and not picture.has_transparency_data:
        return picture
    if picture.mode != "RGBA":
        picture = picture.convert("RGBA")
    if picture.getchannel("A").getextrema() == (255, 255):
        return picture
    note("alpha shown on white")
    return PIL.alpha_composite(PIL.new("RGBA", picture.size, "white"), picture)
