"""Reading sounds: files, arrays and table cells become one channel at one sample rate."""

from __future__ import annotations

import importlib
import io
import math
import struct
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from braid.errors import BraidError

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
"""Endings of the paths that are plainly sounds."""

MOST_SECONDS = 3600
"""Longest sound that is decoded; checked in the header, before any memory is taken."""

MOST_NUMBERS = MOST_SECONDS * 48_000 * 2
"""Most samples, of all channels together, that are decoded."""

MOST_BYTES = 2 << 30
"""Largest file that is read."""

LEAST_SECONDS = 0.01
"""Shortest sound that is taken."""

SILENCE = 1e-4
"""A sound that never exceeds this is silent."""

Note = Callable[[str], None]
"""Is told, in a few words, of everything that reading changed."""

_MOST_CHANNELS = 32
_RATES = (1000, 384_000)
_UNKNOWN = 0x7FFF_0000  # a stream's header gives at least this size: its writer could not know it
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


WAV = ("", ".wav", ".wave")
"""Suffixes of the files that `Sound.save` writes."""


Decoder = Callable[[bytes, str, int], tuple[np.ndarray, int, int]]
"""Takes a compressed file, a name for messages and the most seconds; returns float32 samples
[samples, channels], their rate, and how many the header promises. It calls `check_header` first."""


@dataclass(frozen=True, eq=False, repr=False)
class Sound:
    """One channel of sound.

    Attributes:
        samples: float32 [n] in [-1, 1].
        rate: samples a second.
    """

    samples: np.ndarray
    rate: int

    def __post_init__(self) -> None:
        _check_rate(self.rate, "sound")
        samples = np.asarray(self.samples)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise BraidError(
                f"a sound holds floating-point samples [n] in [-1, 1], not {samples.dtype} "
                f"{samples.shape}; `open_sound` reads other arrays"
            )
        object.__setattr__(self, "samples", samples.astype(np.float32))

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples) / self.rate

    def save(self, path: str | Path | IO[bytes]) -> None:
        """Write WAV of 16 bits to a path or an open file; samples beyond [-1, 1] are cut off.

        Raises:
            BraidError: the path has another form's suffix, or a sample is not finite.
        """
        if isinstance(path, str | Path) and Path(path).suffix.lower() not in WAV:
            raise BraidError(
                f"{str(path)!r}: sound is written as WAV; use a name that ends in .wav"
            )
        levels = self.levels()
        with wave.open(str(path) if isinstance(path, Path) else path, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(levels.astype("<i2").tobytes())

    def levels(self) -> np.ndarray:
        """Return the samples in 16 bits, int16 [n]; those beyond [-1, 1] are cut off.

        Raises:
            BraidError: a sample is not finite.
        """
        if not np.isfinite(self.samples).all():
            raise BraidError(f"{self!r} holds NaN or infinite samples and cannot be saved")
        levels = np.rint(self.samples.astype(np.float64) * 32768).clip(-32768, 32767)
        return levels.astype(np.int16)

    def __repr__(self) -> str:
        return f"Sound({self.seconds:.2f} s, {self.rate} Hz)"


def open_sound(
    raw: Any,
    rate: int,
    name: str = "audio",
    note: Note | None = None,
    silent_ok: bool = False,
) -> Tensor:
    """Return a sound as one channel at a rate: float32 [samples] in [-1, 1].

    Channels are averaged, other rates are resampled, samples beyond full scale are cut off, and a
    file that lacks less than half of its data is read as far as it goes.

    Args:
        raw: a `Sound`; a path or bytes of a file: WAV, or FLAC, OGG and MP3 through `soundfile`; a
            {"bytes": ..., "path": ...} or {"array": ..., "sampling_rate": ...} cell; an array or
            tensor at `rate`, [samples] or [samples, channels], of floats, int16 or int32.
        rate: samples a second of what is returned.
        name: name for messages.
        note: is called with a few words for each thing that was changed.
        silent_ok: take sounds of which nothing can be heard.

    Raises:
        BraidError: names what is wrong with the sound.
    """
    _check_rate(rate, name)
    note = note or _ignore
    numbers, source = _decode(raw, rate, name, note)  # [samples, channels]
    _check_length(len(numbers), source, name, MOST_SECONDS)
    sound = _one_channel(_in_range(numbers, name, note), note)  # [samples]
    loudest = float(sound.abs().max())
    if loudest < SILENCE and not silent_ok:
        raise BraidError(
            f"{name}: the sound is silent, its largest sample is {loudest:.2g}; leave it out, or "
            "make it louder"
        )
    if source != rate:
        note(f"resampled from {source} Hz to {rate} Hz")
        sound = resample(sound, source, rate).clamp(-1, 1)
    return sound


def decode(
    data: bytes,
    name: str = "audio",
    note: Note | None = None,
    seconds: int = MOST_SECONDS,
    decoder: Decoder | None = None,
) -> Sound:
    """Return the sound of a file as one channel, at the file's own rate; it may be silent.

    Args:
        data: a file as `open_sound` takes them.
        name: name for messages.
        note: is called with a few words for each thing that was changed.
        seconds: most that are decoded; the samples of all channels are bounded with it.
        decoder: for compressed sounds; by default `soundfile`.

    Raises:
        BraidError: names what is wrong with the sound.
    """
    note = note or _ignore
    numbers, rate = _of_bytes(data, name, note, seconds, decoder or _by_library)
    _check_length(len(numbers), rate, name, seconds)
    return Sound(_one_channel(_in_range(numbers, name, note), note).numpy(), rate)


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
    _check_rate(rate, name)
    if not 1 <= channels <= _MOST_CHANNELS:
        raise BraidError(
            f"{name}: {channels} channels; expected 1 to {_MOST_CHANNELS}; mix the sound"
        )
    _check_amount(frames, channels, rate, name, seconds)


def resample(sound: Tensor, source: int, rate: int) -> Tensor:
    """Return [n] samples at `source` Hz as [ceil(n * rate / source)] samples at `rate` Hz.

    A low-pass of windowed sincs, the same on every machine: flat up to 0.84 of the narrower
    bandwidth, and below -70 dB outside it. The sound is silent outside its ends.
    """
    if source == rate:
        return sound
    divisor = math.gcd(source, rate)
    up, down = rate // divisor, source // divisor
    n = -(-len(sound) * up // down)
    phases = torch.arange(min(up, n)) * down % up
    bank, half = _filters(phases, up, down)  # [phases, taps]
    padded = torch.nn.functional.pad(sound.float(), (half - 1, half + 1))
    windows = padded.unfold(0, bank.shape[1], 1)  # [samples + 1, taps]
    out = torch.empty(n)
    at_once = max(1, (1 << 22) // bank.shape[1])  # outputs whose windows take 16 MiB
    for begin in range(0, n, at_once):
        index = torch.arange(begin, min(n, begin + at_once))
        chosen, taps = windows[index * down // up], bank[index % len(bank)]
        out[begin : begin + at_once] = torch.einsum("nk,nk->n", chosen, taps)
    return out


def _filters(phases: Tensor, up: int, down: int) -> tuple[Tensor, int]:
    """Return low-pass filters [phases, 2 * half] for points phase / up after a sample; and half.

    Tap k weighs the sample k - half + 1 after that one. A Kaiser window of beta 9 and 32 zero
    crossings a side; each filter sums to 1, so that a constant stays what it is.
    """
    cutoff = 0.92 * min(1.0, up / down)  # of the source's bandwidth; half the transition is above
    width = 32 / cutoff
    half = math.ceil(width)
    taps = torch.arange(1 - half, half + 1)
    distance = phases[:, None].double() / up - taps  # [phases, taps]
    window = torch.special.i0(9.0 * (1 - (distance / width) ** 2).clamp(min=0).sqrt())
    bank = torch.where(distance.abs() <= width, torch.sinc(cutoff * distance) * window, 0)
    return (bank / bank.sum(1, keepdim=True)).float(), half


def _decode(raw: Any, rate: int, name: str, note: Note) -> tuple[np.ndarray, int]:
    """Return float32 samples [samples, channels] and their rate."""
    if isinstance(raw, Sound):
        return _of_array(raw.samples, name), raw.rate
    if isinstance(raw, dict) and raw.get("array") is not None:
        array = raw["array"]
        source = raw.get("sampling_rate")
        if source is None:
            raise BraidError(f"{name}: the array has no sampling_rate; give it in Hz")
        _check_rate(source, name)
        return _of_array(np.asarray(array) if isinstance(array, list) else array, name), int(source)
    if isinstance(raw, dict):
        raw = raw.get("bytes") or raw.get("path") or b""
    if isinstance(raw, str | Path):
        raw = _file(Path(raw), name)
    if isinstance(raw, bytes | bytearray):
        return _of_bytes(bytes(raw), name, note, MOST_SECONDS, _by_library)
    if isinstance(raw, np.ndarray | Tensor):
        return _of_array(raw, name), rate
    raise BraidError(
        f"{name}: expected a sound, its bytes, its path or an array, got {type(raw).__name__}"
    )


def _of_array(array: np.ndarray | Tensor, name: str) -> np.ndarray:
    """Return an array as float32 [samples, channels]; integers are divided by full scale."""
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    if not isinstance(array, np.ndarray) or array.ndim not in (1, 2):
        what = getattr(array, "shape", type(array).__name__)
        raise BraidError(f"{name}: expected [samples] or [samples, channels], got {what}")
    if array.ndim == 2 and array.shape[1] > _MOST_CHANNELS:
        raise BraidError(
            f"{name}: expected [samples, channels], got {array.shape}, more than {_MOST_CHANNELS} "
            "channels; transpose it"
        )
    if array.size > MOST_NUMBERS:
        raise BraidError(f"{name}: {array.size} samples are more than {MOST_NUMBERS}; cut it")
    array = array if array.ndim == 2 else array[:, None]
    if array.dtype in (np.int16, np.int32):
        return array.astype(np.float32) / -float(np.iinfo(array.dtype).min)
    if array.dtype.kind != "f":
        raise BraidError(
            f"{name}: samples are {array.dtype}; expected floats in [-1, 1], int16 or int32"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        return array.astype(np.float32)


def _file(path: Path, name: str) -> bytes:
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


def _of_bytes(
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
    _check_rate(rate, name)
    if not 1 <= channels <= _MOST_CHANNELS or block < 1:
        raise BraidError(
            f"{name}: the WAV file has {channels} channels in blocks of {block} bytes; expected 1 "
            f"to {_MOST_CHANNELS} channels; save the sound again"
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


def _by_library(data: bytes, name: str, seconds: int) -> tuple[np.ndarray, int, int]:
    """Decode a compressed file through `soundfile`; see `Decoder`."""
    soundfile = library(name)
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


def library(name: str) -> ModuleType:
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


def _check_rate(rate: object, name: str) -> None:
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


def _check_length(frames: int, rate: int, name: str, seconds: int) -> None:
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


def _in_range(numbers: np.ndarray, name: str, note: Note) -> Tensor:
    """Return [samples, channels] within [-1, 1]."""
    sound = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.float32))
    if not bool(sound.isfinite().all()):
        raise BraidError(f"{name}: the sound holds NaN or infinite samples; leave it out")
    loudest = float(sound.abs().max())
    if loudest > 8:  # no mix is that loud: these are integers that were never scaled
        raise BraidError(
            f"{name}: the largest sample is {loudest:g}; expected floats in [-1, 1]; divide them "
            "by full scale"
        )
    if float((sound.abs() >= 0.999).float().mean()) > 0.01:
        note("clipped")
    if loudest > 1:
        note("samples beyond full scale cut off")
    return sound.clamp(-1, 1)


def _one_channel(sound: Tensor, note: Note) -> Tensor:
    """Return the mean [samples] of [samples, channels]."""
    channels = sound.shape[1]
    if channels > 1:
        note(f"{'stereo' if channels == 2 else f'{channels} channels'} mixed to mono")
    return sound.mean(1)


def _ignore(words: str) -> None:
    """Tell nobody."""
