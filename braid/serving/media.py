"""Pictures and sounds that come from strangers, and those that go out to them.

Nothing here opens an address or a path, or passes on what a library said: a message may hold the
memory it read from.
"""

from __future__ import annotations

import base64
import io
import re

from PIL import Image as PIL

from braid.errors import BraidError
from braid.modalities import pictures, sound_files, sounds
from braid.modalities.sounds import Sound
from braid.serving import compressed, refusals
from braid.serving.essentials import Essentials, essentials
from braid.serving.limits import Limits

FORMS = ("png", "jpeg", "webp")
"""What pictures are written as."""

RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000)
"""Samples a second that sounds may have; filters for odd rates grow to gigabytes."""

_QUALITY = 90
_DAMAGE = (
    *(*pictures.DAMAGE, MemoryError),
    *(PIL.DecompressionBombError, PIL.DecompressionBombWarning),
)
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]{0,15}):", re.IGNORECASE)
_DATA = re.compile(r"data:[^,]{0,256};base64,", re.IGNORECASE)
_TURNS = {
    2: PIL.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Transpose.ROTATE_180,
    4: PIL.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Transpose.TRANSPOSE,
    6: PIL.Transpose.ROTATE_270,
    7: PIL.Transpose.TRANSVERSE,
    8: PIL.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""


def payload(value: str, param: str, most: int) -> bytes:
    """Return the bytes of a `data:` URL in base64, or of base64 alone.

    Args:
        value: of the request.
        param: field that held it.
        most: bytes that are taken; counted before anything is decoded.

    Raises:
        Refusal: it is another address, no base64, empty or too large.
    """
    start = _DATA.match(value)
    scheme = _SCHEME.match(value)
    if start is None and scheme is not None and scheme[1].lower() != "data":
        raise refusals.invalid(
            f"{param} is an address that begins with {scheme[0]!r}; this server fetches nothing; "
            "send the content itself as a data: URL",
            param,
        )
    if start is None and scheme is not None:
        raise refusals.invalid(
            f"{param} is a data: URL without base64; write data:TYPE;base64,CONTENT", param
        )
    text = value[start.end() :] if start else value
    size = len(text) // 4 * 3 - text[-2:].count("=")
    if not text:
        raise refusals.invalid(f"{param} is empty; send the content in base64", param)
    if size > most:
        raise refusals.invalid(
            f"{param} holds {size} bytes, more than {most}; send a smaller file", param
        )
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as e:
        raise refusals.invalid(
            f"{param} is no base64; use the alphabet A-Z a-z 0-9 + / with padding and without line "
            "breaks",
            param,
        ) from e


def picture(data: bytes, param: str, limits: Limits) -> PIL.Image:
    """Return a picture from a PNG, JPEG or WebP file: its first frame, upright, in the file's mode.

    Nothing but pixels, palette and transparency is taken from the file.

    Args:
        data: the file.
        param: field of the request that held it.
        limits: `picture_pixels` is checked in the header, before the decoder sees the file.

    Raises:
        Refusal: it is another kind of file, too large or damaged.
    """
    try:
        file = essentials(data)
    except BraidError as e:
        raise _unreadable(f"{param}: {e}", param) from e
    _check_size(file.size, param, limits)
    try:
        return _upright(_decoded(file, param, limits), file.orientation)
    except _DAMAGE as e:
        raise _unreadable(
            f"{param}: the {file.form} picture is truncated or damaged; save it again as PNG or "
            "JPEG",
            param,
        ) from e


def sound(data: bytes, param: str, limits: Limits) -> Sound:
    """Return the sound of a file as one channel at its own rate; it may be silent.

    Args:
        data: WAV of plain samples; FLAC, OGG and MP3 where `soundfile` is installed.
        param: field of the request that held it.
        limits: `audio_seconds` is checked in the header, before anything is decoded, and after.

    Raises:
        Refusal: it is another kind of file, too long or damaged.
    """
    try:
        heard = sounds.decode(data, param, seconds=limits.audio_seconds, decoder=compressed.decode)
    except BraidError as e:
        raise _unreadable(str(e), param) from e
    except MemoryError as e:
        raise _unreadable(f"{param}: the sound is too large; cut it", param) from e
    if heard.rate not in RATES:
        raise _unreadable(
            f"{param}: the sample rate is {heard.rate} Hz; save the sound again at one of "
            f"{', '.join(map(str, RATES))}",
            param,
        )
    return heard


def encoded(picture: PIL.Image, form: str, param: str = "output_format") -> bytes:
    """Return a picture as a file of grey or RGB, without metadata.

    Args:
        picture: of any mode; what is transparent shows white paper.
        form: one of `FORMS`.
        param: field of the request that chose the form.

    Raises:
        Refusal: there is no such form.
    """
    if form not in FORMS:
        raise refusals.invalid(
            f"{param} {form[:32]!r} is not known; use one of {', '.join(FORMS)}", param
        )
    file = io.BytesIO()
    plain = pictures.convert(picture, 1 if picture.mode == "L" else 3)
    plain.save(file, form, **({} if form == "png" else {"quality": _QUALITY}))
    return file.getvalue()


def wav(sound: Sound) -> bytes:
    """Return a sound as a WAV file of 16 bits."""
    file = io.BytesIO()
    sound.save(file)
    return file.getvalue()


def pcm(sound: Sound) -> bytes:
    """Return a sound's samples of 16 bits, little-endian, without a header."""
    return sound.levels().astype("<i2").tobytes()


def flac(sound: Sound, param: str = "response_format") -> bytes:
    """Return a sound as a FLAC file of 16 bits.

    Args:
        sound: to encode.
        param: field of the request that chose FLAC.

    Raises:
        Refusal: `soundfile` is not installed.
    """
    try:
        soundfile = sound_files.import_soundfile(param)
    except BraidError as e:
        raise refusals.invalid(
            f"{param} 'flac' is not written by this server; use 'wav' or 'pcm'", param
        ) from e
    file = io.BytesIO()
    soundfile.write(file, sound.levels(), sound.rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def data_url(data: bytes, media_type: str) -> str:
    """Return a file as a `data:` URL, as "data:image/png;base64,..."."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _unreadable(message: str, param: str) -> refusals.Refusal:
    """Return the refusal of a file; all of them are counted under one name."""
    return refusals.invalid(message, param, "unreadable_media")


def _check_size(size: tuple[int, int], param: str, limits: Limits) -> None:
    """Refuse pictures without pixels, and those of too many."""
    width, height = size
    if width < 1 or height < 1:
        raise _unreadable(
            f"{param}: the picture is {width} by {height}; it needs at least one pixel", param
        )
    most = min(limits.picture_pixels, pictures.MOST_PIXELS)
    if width * height > most:
        raise _unreadable(
            f"{param}: {width} by {height} pixels are more than {most}; shrink the picture", param
        )


def _decoded(file: Essentials, param: str, limits: Limits) -> PIL.Image:
    """Return the first frame of a file in memory of its own, without metadata."""
    opened = PIL.open(io.BytesIO(file.data), formats=(file.form,))
    _check_size(opened.size, param, limits)  # the decoder's own reading decides
    plain = pictures.open_picture(opened, param).copy()
    plain.info = {k: v for k, v in opened.info.items() if k == "transparency"}
    plain.format = opened.format  # tells how deep grey of 16 bits is
    return plain


def _upright(picture: PIL.Image, orientation: int) -> PIL.Image:
    """Turn a picture as its EXIF orientation says."""
    if orientation not in _TURNS:
        return picture
    turned = picture.transpose(_TURNS[orientation])
    turned.format = picture.format
    return turned
