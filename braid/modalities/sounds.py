"""Reading sounds: files, arrays and table cells become one channel at one sample rate."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from braid.errors import BraidError
from braid.modalities.resampling import resample
from braid.modalities.sound_files import (
    MOST_CHANNELS,
    MOST_NUMBERS,
    MOST_SECONDS,
    Decoder,
    Note,
    by_library,
    bytes_of,
    check_length,
    check_rate,
    samples_of,
)

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")
"""Endings of the paths that are plainly sounds."""

SILENCE = 1e-4
"""A sound that never exceeds this is silent."""

WAV = ("", ".wav", ".wave")
"""Suffixes of the files that `Sound.save` writes."""


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
        check_rate(self.rate, "sound")
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
    check_rate(rate, name)
    note = note or _ignore
    numbers, source = _decode(raw, rate, name, note)  # [samples, channels]
    check_length(len(numbers), source, name, MOST_SECONDS)
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
    numbers, rate = samples_of(data, name, note, seconds, decoder or by_library)
    check_length(len(numbers), rate, name, seconds)
    return Sound(_one_channel(_in_range(numbers, name, note), note).numpy(), rate)


def _decode(raw: Any, rate: int, name: str, note: Note) -> tuple[np.ndarray, int]:
    """Return float32 samples [samples, channels] and their rate."""
    if isinstance(raw, Sound):
        return _of_array(raw.samples, name), raw.rate
    if isinstance(raw, dict) and raw.get("array") is not None:
        array = raw["array"]
        source = raw.get("sampling_rate")
        if source is None:
            raise BraidError(f"{name}: the array has no sampling_rate; give it in Hz")
        check_rate(source, name)
        return _of_array(np.asarray(array) if isinstance(array, list) else array, name), int(source)
    if isinstance(raw, dict):
        raw = raw.get("bytes") or raw.get("path") or b""
    if isinstance(raw, str | Path):
        raw = bytes_of(Path(raw), name)
    if isinstance(raw, bytes | bytearray):
        return samples_of(bytes(raw), name, note, MOST_SECONDS, by_library)
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
    if array.ndim == 2 and array.shape[1] > MOST_CHANNELS:
        raise BraidError(
            f"{name}: expected [samples, channels], got {array.shape}, more than {MOST_CHANNELS} "
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
