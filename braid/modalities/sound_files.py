"""Sounds in files: bytes become samples, and what is too long or damaged is refused before."""

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from braid.errors import BraidError

MOST_SECONDS = 3600
"""Longest sound that is decoded; checked in the header, before any memory is taken."""

MOST_NUMBERS = MOST_SECONDS * 48_000 * 2
"""Most samples, of all channels together, that are decoded."""

MOST_BYTES = 2 << 30
"""Largest file that is read."""

LEAST_SECONDS = 0.01
"""Shortest sound that is taken."""

Note = Callable[[str], None]
"""Is told, in a few words, of everything that reading changed."""

Decoder = Callable[[bytes, str, int], tuple[np.ndarray, int, int]]
"""Takes a compressed file, a name for messages and the most seconds; returns float32 samples
[samples, channels], their rate, and how many the header promises. It calls `check_header` first."""

MOST_CHANNELS = 32
"""Most channels of a sound."""

_RATES = (1000, 384_000)
_UNKNOWN = 0x7FFF_0000  # a stream's header gives at least this size: its writer could not know it
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


def bytes_of(path: Path, name: str) -> bytes:
    """Return the bytes of a file that is not too large."""
    if not path.is_file():
        raise BraidError(f"{name}: {str(path)!r} does not exist; give the path of a sound")
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise BraidError(
                f"{name}: {str(path)!r} has {size} bytes, more than {MOST_BYTES}; cut the sound"
            )
        return path.read_bytes()
    except OSError as e:
        raise BraidError(f"{name}: cannot read {str(path)!r} ({e.strerror})") from e


def samples_of(
    data: bytes, name: str, note: Note, seconds: int, decoder: Decoder
) -> tuple[np.ndarray, int]:
    """Return float32 samples [samples, channels] of a file and their rate."""
    if not data:
        raise BraidError(f"{name}: the sound is empty (0 bytes)")
    if data[:4] == b"RIFF" and (len(data) < 12 or data[8:12] == b"WAVE"):
        decoded = _wav(data, name, note, seconds)
        if decoded is not None:
            return decoded
        return _compressed(data, name, note, seconds, decoder)
    frame = len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0  # MP3 without a title
    if data[:4] in (b"fLaC", b"OggS", b"FORM") or data[:3] == b"ID3" or frame:
        return _compressed(data, name, note, seconds, decoder)
    raise BraidError(f"{name}: not a readable sound; save it again as WAV of 16 bits")


@dataclass(frozen=True)
class _Format:
    """How samples lie in a WAV file."""

    code: int
    channels: int
    rate: int
    block: int

    @property
    def width(self) -> int:
        """Bytes of a sample."""
        return self.block // self.channels


def _wav(data: bytes, name: str, note: Note, seconds: int) -> tuple[np.ndarray, int] | None:
    """Return the samples [samples, channels] and rate of a WAV file; None if it is compressed."""
    form: _Format | None = None
    for kind, begin, size in _chunks(data):
        if kind == b"fmt ":
            form = _format(data[begin : begin + size], name)
        elif kind == b"data":
            break
    else:
        raise BraidError(f"{name}: the header of the WAV file is cut off; save the sound again")
    if form is None:
        raise BraidError(f"{name}: the WAV file does not say its format; save the sound again")
    there = len(data) - begin
    if size >= _UNKNOWN:
        size = there
    frames = min(size, there) // form.block
    _check_complete(frames, size // form.block, name, note)
    widths = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}
    if form.width not in widths.get(form.code, ()):
        return None
    _check_amount(frames, form.channels, form.rate, name, seconds)
    numbers = _numbers(data, begin, frames * form.channels, form)
    return numbers.reshape(frames, form.channels), form.rate


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, begin and size of every chunk of a RIFF file, as far as there are any."""
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        yield kind, at + 8, size
        at += 8 + size + size % 2


def _format(chunk: bytes, name: str) -> _Format:
    """Return what a "fmt " chunk says."""
    if len(chunk) < 16:
        raise BraidError(f"{name}: the header of the WAV file is cut off; save the sound again")
    code, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", chunk)
    if code == _EXTENSIBLE and len(chunk) >= 26:
        code = struct.unpack_from("<H", chunk, 24)[0]
    check_rate(rate, name)
    if not 1 <= channels <= MOST_CHANNELS or block < 1:
        raise BraidError(
            f"{name}: the WAV file has {channels} channels in blocks of {block} bytes; expected 1 "
            f"to {MOST_CHANNELS} channels; save the sound again"
        )
    if code in (_PCM, _FLOAT) and block != channels * -(-bits // 8):
        raise BraidError(
            f"{name}: the WAV file has blocks of {block} bytes for {channels} channels of {bits} "
            "bits; save the sound again"
        )
    return _Format(code, channels, rate, block)


def _numbers(data: bytes, begin: int, count: int, form: _Format) -> np.ndarray:
    """Return `count` samples as float32 [count], where full scale is 1."""
    if form.code == _FLOAT:
        floats = np.frombuffer(data, f"<f{form.width}", count, begin)
        with np.errstate(over="ignore"):
            return floats.astype(np.float32)
    if form.width == 1:  # the only width without a sign
        return (np.frombuffer(data, np.uint8, count, begin).astype(np.float32) - 128) / 128
    if form.width == 3:
        parts = np.frombuffer(data, np.uint8, 3 * count, begin).reshape(count, 3)
        wide = np.zeros((count, 4), np.uint8)
        wide[:, 1:] = parts
        return wide.view("<i4")[:, 0].astype(np.float32) / 2**31
    integers = np.frombuffer(data, f"<i{form.width}", count, begin)
    return integers.astype(np.float32) / 2 ** (8 * form.width - 1)


def _compressed(
    data: bytes, name: str, note: Note, seconds: int, decoder: Decoder
) -> tuple[np.ndarray, int]:
    """Return samples [samples, channels] and rate of a compressed file."""
    numbers, rate, promised = decoder(data, name, seconds)
    _check_complete(len(numbers), promised, name, note)
    return numbers, rate


def by_library(data: bytes, name: str, seconds: int) -> tuple[np.ndarray, int, int]:
    """Decode a compressed file through `soundfile`; see `Decoder`."""
    soundfile = import_soundfile(name)
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except (RuntimeError, OSError, ValueError, TypeError) as e:
        raise BraidError(f"{name}: not a readable sound; save it again as WAV of 16 bits") from e
    with file:
        frames = file.frames
        check_header(frames, file.channels, file.samplerate, name, seconds)
        try:
            numbers = file.read(frames, dtype="float32", always_2d=True)
        except (RuntimeError, OSError, ValueError) as e:
            raise BraidError(
                f"{name}: the sound is truncated or damaged ({e}); save it again"
            ) from e
    return numbers, file.samplerate, frames


def import_soundfile(name: str) -> ModuleType:
    """Import `soundfile`, which decodes and encodes compressed sounds.

    Raises:
        BraidError: it is not installed.
    """
    try:
        return importlib.import_module("soundfile")
    except (ImportError, OSError) as e:  # OSError: it is there without its shared library
        raise BraidError(
            f"{name}: compressed sounds need soundfile; save the sound as WAV, or run: "
            'pip install "braid-models[audio]"'
        ) from e


def check_header(frames: int, channels: int, rate: int, name: str, seconds: int) -> None:
    """Refuse what a header promises before any of it is decoded.

    Args:
        frames: samples of each channel.
        channels: number of them.
        rate: samples a second.
        name: name for messages.
        seconds: most that are decoded.

    Raises:
        BraidError: the rate or the channels are not those of a sound, or there is too much of it.
    """
    check_rate(rate, name)
    if not 1 <= channels <= MOST_CHANNELS:
        raise BraidError(
            f"{name}: {channels} channels; expected 1 to {MOST_CHANNELS}; mix the sound"
        )
    _check_amount(frames, channels, rate, name, seconds)


def check_rate(rate: object, name: str) -> None:
    """Refuse rates at which nothing is recorded."""
    whole = isinstance(rate, int | np.integer) and not isinstance(rate, bool)
    low, high = _RATES
    if not whole or not low <= int(rate) <= high:  # pyright: ignore[reportArgumentType]
        raise BraidError(
            f"{name}: the sample rate is {rate!r}; use a whole number of Hz from {low} to {high}"
        )


def _check_amount(frames: int, channels: int, rate: int, name: str, seconds: int) -> None:
    """Refuse sounds that are too long, before they are decoded."""
    has = f"{name}: the sound has {frames} samples of {channels} channels, {frames / rate:.0f} s"
    if frames > seconds * rate:
        raise BraidError(f"{has}; the most are {seconds} s; cut it")
    most = seconds * (MOST_NUMBERS // MOST_SECONDS)
    if frames * channels > most:
        raise BraidError(
            f"{has}; the most are {most} samples of all channels together; mix it to one "
            "channel, or cut it"
        )


def check_length(frames: int, rate: int, name: str, seconds: int) -> None:
    """Refuse sounds that are too short or too long."""
    _check_amount(frames, 1, rate, name, seconds)
    if frames < LEAST_SECONDS * rate:
        raise BraidError(
            f"{name}: the sound has {frames} samples, {1000 * frames / rate:.1f} ms; it needs at "
            f"least {1000 * LEAST_SECONDS:.0f} ms"
        )


def _check_complete(there: int, promised: int, name: str, note: Note) -> None:
    """Refuse a file that lacks more than half of its samples; note one that lacks fewer."""
    if 2 * there < promised:
        raise BraidError(
            f"{name}: the sound is truncated, {there} of {promised} samples are there; save it "
            "again"
        )
    if there < promised:
        note("truncated")
