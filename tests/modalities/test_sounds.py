"""Every sound is read as documented, or refused with a reason that helps."""

from __future__ import annotations

import io
import struct
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from braid.errors import BraidError
from braid.modalities import sound_files
from braid.modalities.resampling import resample
from braid.modalities.sounds import Sound, open_sound

RATE = 8000
TONE = (0.5 * np.sin(np.arange(800) * 0.3)).astype(np.float32)
STEREO = np.stack([TONE, 0.5 * TONE], -1)  # [800, 2]
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


def levels(samples: np.ndarray, bits: int) -> bytes:
    """Return samples in [-1, 1) as little-endian PCM."""
    whole = np.rint(samples.astype(np.float64) * 2 ** (bits - 1)).astype(np.int64)
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    return whole.astype("<i8").reshape(-1, 1).view(np.uint8)[:, : bits // 8].tobytes()


def wav(
    data: bytes, bits: int = 16, channels: int = 1, rate: int = RATE, code: int = PCM, **options
) -> bytes:
    """Return a WAV file; options: `size` that its header gives, `block`, chunks `before` data."""
    block = options.get("block", channels * bits // 8)
    form = struct.pack("<HHIIHH", code, channels, rate, rate * block, block, bits)
    if code == EXTENSIBLE:
        form += struct.pack("<HHIH", 22, bits, 0, PCM) + bytes(14)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + options.get("before", b"")
    body += b"data" + struct.pack("<I", options.get("size", len(data))) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def noted(raw, rate: int = RATE) -> tuple[np.ndarray, list[str]]:
    """Return the samples of raw data, and what was noted."""
    notes: list[str] = []
    sound = open_sound(raw, rate, note=notes.append)
    assert sound.dtype == torch.float32 and sound.ndim == 1 and sound.abs().max() <= 1
    return sound.numpy(), notes


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("code", [PCM, EXTENSIBLE])
def test_wav_of_integers_is_read(bits, code):
    samples, notes = noted(wav(levels(TONE, bits), bits, code=code))
    assert np.abs(samples - TONE).max() <= 2.0**-bits + 1e-7 and notes == []


@pytest.mark.parametrize("bits", [32, 64])
def test_wav_of_floats_is_read(bits):
    samples, notes = noted(wav(TONE.astype(f"<f{bits // 8}").tobytes(), bits, code=FLOAT))
    assert (samples == TONE).all() and notes == []


def test_full_scale_is_one():
    ends = np.tile(np.array([-32768, 0, 16384], np.int16), 100)
    samples, _ = noted(wav(ends.tobytes()))
    assert samples[:3].tolist() == [-1, 0, 0.5]


def test_other_chunks_are_passed_over():
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # an odd size is padded
    assert (noted(wav(levels(TONE, 16), before=odd))[0] == noted(wav(levels(TONE, 16)))[0]).all()


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_F000])
def test_a_stream_that_does_not_know_its_size_is_read_to_its_end(size):
    samples, notes = noted(wav(levels(TONE, 16), size=size))
    assert len(samples) == 800 and notes == []


def test_channels_are_averaged():
    for raw in (wav(levels(STEREO.ravel(), 16), channels=2), STEREO, torch.from_numpy(STEREO)):
        samples, notes = noted(raw)
        assert np.abs(samples - 0.75 * TONE).max() < 1e-4 and notes == ["stereo mixed to mono"]
    assert noted(np.repeat(TONE[:, None], 6, 1))[1] == ["6 channels mixed to mono"]


def test_every_form_of_the_same_sound_is_the_same(tmp_path):
    data = wav(levels(TONE, 16))
    file = tmp_path / "tone.wav"
    file.write_bytes(data)
    expected = np.rint(TONE * 32768) / 32768
    whole = np.rint(TONE * 32768).astype(np.int16)
    for raw in (
        data,
        bytearray(data),
        file,
        str(file),
        {"bytes": data, "path": "gone.wav"},
        {"bytes": None, "path": str(file)},
        {"array": expected, "sampling_rate": RATE, "path": None},
        {"array": expected.tolist(), "sampling_rate": RATE},
        Sound(expected, RATE),
        whole,
        whole[:, None],
        torch.from_numpy(whole),
        whole.astype(np.int32) << 16,
        expected,
        torch.from_numpy(expected).requires_grad_(),
    ):
        samples, notes = noted(raw)
        assert np.abs(samples - expected).max() < 1e-7 and notes == []


def test_what_is_returned_is_not_the_users_memory():
    mine = TONE.copy()
    open_sound(mine, RATE).zero_()
    assert (mine == TONE).all()


def test_a_sound_is_saved_and_read_back(tmp_path):
    sound = Sound(TONE, RATE)
    sound.save(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getparams()[:4] == (1, 2, RATE, 800)
    again = open_sound(tmp_path / "a.wav", RATE).numpy()
    assert np.abs(again - TONE).max() <= 0.5 / 32768
    Sound(again, RATE).save(tmp_path / "b.wav")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert sound.seconds == 0.1 and repr(sound) == "Sound(0.10 s, 8000 Hz)"


def test_saving_cuts_off_and_refuses_nan(tmp_path):
    Sound(4 * TONE, RATE).save(tmp_path / "a.wav")
    assert (
        np.abs(open_sound(tmp_path / "a.wav", RATE).numpy() - (4 * TONE).clip(-1, 1)).max() < 1e-4
    )
    with pytest.raises(BraidError, match="NaN or infinite"):
        Sound(TONE * np.nan, RATE).save(tmp_path / "b.wav")
    assert not (tmp_path / "b.wav").exists()


@pytest.mark.parametrize(
    ("samples", "rate", "reason"),
    [
        (STEREO, RATE, r"samples \[n\]"),
        (TONE.astype(int), RATE, "floating-point"),
        (TONE, 0, "the sample rate is 0; use a whole number of Hz"),
        (TONE, 8000.5, "the sample rate is 8000.5"),
    ],
)
def test_a_sound_of_other_arrays_is_refused(samples, rate, reason):
    with pytest.raises(BraidError, match=reason):
        Sound(samples, rate)


PAIRS = [(16000, 8000), (8000, 16000), (44100, 16000), (22050, 24000), (44100, 8000)]


@pytest.mark.parametrize(("source", "rate"), PAIRS)
def test_a_resampled_tone_is_the_tone(source, rate):
    narrower = min(source, rate) / 2
    inside = slice(rate // 20, -rate // 20)
    for share in (0.03, 0.4, 0.8):
        seconds = np.arange(source // 3) / source
        got = resample(
            torch.from_numpy(np.sin(2 * np.pi * share * narrower * seconds)), source, rate
        )
        ideal = np.sin(2 * np.pi * share * narrower * np.arange(len(got)) / rate)
        assert np.abs(got.numpy() - ideal)[inside].max() < 1e-4


@pytest.mark.parametrize(("source", "rate"), [p for p in PAIRS if p[1] < p[0]])
def test_what_a_rate_cannot_hold_is_removed(source, rate):
    for share in (1.03, 1.5):
        seconds = np.arange(source // 3) / source
        tone = np.sin(np.pi * share * rate * seconds)
        got = resample(torch.from_numpy(tone), source, rate)
        assert got[rate // 20 : -rate // 20].abs().max() < 3e-4


@pytest.mark.parametrize(("source", "rate"), PAIRS)
def test_resampling_agrees_with_scipy(source, rate):
    signal = pytest.importorskip("scipy.signal")
    rng = np.random.default_rng(0)
    smooth = signal.firwin(201, 0.5 * min(1, rate / source))  # the band that both leave alone
    noise = np.convolve(rng.normal(size=source // 4), smooth, "same")
    divisor = np.gcd(source, rate)
    up, down = rate // divisor, source // divisor
    window = signal.firwin(2 * 60 * max(up, down) + 1, 0.95 / max(up, down), window=("kaiser", 9.0))
    expected = signal.resample_poly(noise, up, down, window=window)
    got = resample(torch.from_numpy(noise), source, rate).numpy()
    assert got.shape == expected.shape
    inside = slice(rate // 20, -rate // 20)
    assert np.abs(got - expected)[inside].max() < 2e-3 * np.abs(expected).max()


def test_a_constant_stays_what_it_is():
    got = resample(torch.full((4410,), 0.5), 44100, 16000)
    assert len(got) == 1600 and torch.allclose(got[100:-100], torch.tensor(0.5), atol=1e-6)


def test_resampling_in_parts_changes_nothing():
    long = torch.randn(60_000, generator=torch.Generator().manual_seed(0))
    whole = resample(long, 48_000, 44_100)  # beyond one block of outputs
    part = resample(long[:30_000], 48_000, 44_100)
    assert torch.allclose(whole[:27_000], part[:27_000], atol=1e-6)
    assert torch.equal(resample(long, 8000, 8000), long)


def test_conversions_are_noted_in_order():
    data = wav(levels(STEREO.ravel(), 16), channels=2, rate=16000)
    samples, notes = noted(data)
    assert len(samples) == 400
    assert notes == ["stereo mixed to mono", "resampled from 16000 Hz to 8000 Hz"]
    assert noted(Sound(TONE, 16000))[1] == ["resampled from 16000 Hz to 8000 Hz"]
    assert noted({"array": TONE, "sampling_rate": 4000})[1] == ["resampled from 4000 Hz to 8000 Hz"]


def test_clipping_is_noted_and_not_refused():
    samples, notes = noted((4 * TONE).clip(-1, 1))
    assert notes == ["clipped"]
    samples, notes = noted(4 * TONE)
    assert notes == ["clipped", "samples beyond full scale cut off"]
    assert (samples == (4 * TONE).clip(-1, 1)).all()
    peak = TONE.copy()
    peak[7] = 1.0
    assert noted(peak)[1] == []


@pytest.mark.parametrize("share", [0.51, 0.9, 0.999])
def test_a_file_that_lacks_its_end_is_read_and_noted(share):
    data = wav(levels(TONE, 16))
    samples, notes = noted(data[: 44 + int(share * 1600)])
    assert len(samples) == int(share * 1600) // 2 and notes == ["truncated"]


def test_silence_is_taken_if_asked():
    assert open_sound(np.zeros(800, np.float32), RATE, silent_ok=True).shape == (800,)


NAN = TONE.copy()
NAN[5] = np.nan
INFINITE = TONE.copy()
INFINITE[5] = np.inf
WHOLE = wav(levels(TONE, 16))

BAD = {
    "nothing": (b"", r"the sound is empty \(0 bytes\)"),
    "an empty cell": ({"bytes": None, "path": None}, "the sound is empty"),
    "no sound": (7, "expected a sound, its bytes, its path or an array, got int"),
    "none": (None, "got NoneType"),
    "text named .wav": ({"bytes": b"<html>not found</html>", "path": "a.wav"}, "not a readable"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a readable sound; save it again as WAV"),
    "four bytes": (WHOLE[:4], "the header of the WAV file is cut off"),
    "half a header": (WHOLE[:30], "the header of the WAV file is cut off"),
    "header without data": (WHOLE[:36], "the header of the WAV file is cut off"),
    "header alone": (WHOLE[:44], "truncated, 0 of 800 samples are there; save it again"),
    "a third of the data": (WHOLE[:500], "truncated, 228 of 800 samples are there"),
    "no format": (WHOLE[:12] + WHOLE[36:], "does not say its format"),
    "a short format": (
        WHOLE[:12] + b"fmt " + struct.pack("<I", 4) + bytes(4) + WHOLE[36:],
        "the header of the WAV file is cut off",
    ),
    "no samples": (wav(b""), "has 0 samples, 0.0 ms; it needs at least 10 ms"),
    "no channels": (wav(levels(TONE, 16), channels=0, block=2), "has 0 channels"),
    "65535 channels": (wav(levels(TONE, 16), channels=65535, block=2), "has 65535 channels"),
    "odd blocks": (wav(levels(TONE, 16), block=3), "blocks of 3 bytes for 1 channels of 16 bits"),
    "rate 0": (wav(levels(TONE, 16), rate=0), "the sample rate is 0; use a whole number of Hz"),
    "rate 2e9": (wav(levels(TONE, 16), rate=2_000_000_000), "the sample rate is 2000000000"),
    "NaN": (NAN, "holds NaN or infinite samples"),
    "infinite": (INFINITE, "holds NaN or infinite samples"),
    "beyond float32": (TONE.astype(np.float64) * 1e300, "holds NaN or infinite samples"),
    "NaN in a file": (wav(NAN.tobytes(), 32, code=FLOAT), "holds NaN or infinite samples"),
    "silence": (np.zeros(800, np.float32), "the sound is silent, its largest sample is 0"),
    "a whisper": (TONE * 1e-4, "the sound is silent, its largest sample is 5e-05"),
    "opposite channels": (np.stack([TONE, -TONE], -1), "the sound is silent"),
    "a click": (TONE[:79], "has 79 samples, 9.9 ms; it needs at least 10 ms"),
    "an empty array": (TONE[:0], "has 0 samples"),
    "floats of 16 bits": (TONE * 32768, "divide them by full scale"),
    "int64": (np.arange(800), "samples are int64; expected floats in .*, int16 or int32"),
    "uint8": (np.arange(800).astype(np.uint8), "samples are uint8"),
    "bool": (torch.ones(800, dtype=torch.bool), "samples are bool"),
    "complex": (TONE.astype(np.complex64), "samples are complex64"),
    "words": ({"array": ["a"] * 800, "sampling_rate": RATE}, "samples are <U1"),
    "no axis": (np.zeros(()), r"samples, channels\], got \(\)"),
    "three axes": (TONE.reshape(2, 20, 20), r"\[samples, channels\], got \(2, 20, 20\)"),
    "channels first": (STEREO.T, r"got \(2, 800\), more than 32 channels; transpose it"),
    "no rate": ({"array": TONE}, "the array has no sampling_rate; give it in Hz"),
    "a wrong rate": ({"array": TONE, "sampling_rate": -1}, "the sample rate is -1"),
    "no file": (Path("gone.wav"), "'gone.wav' does not exist; give the path"),
    "a folder": (Path(), "does not exist; give the path"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_sounds_are_refused_with_a_reason(what):
    raw, reason = BAD[what]
    with pytest.raises(BraidError, match=f"^speech: .*({reason})"):
        open_sound(raw, RATE, "speech")


@pytest.mark.parametrize("rate", [0, -8000, 8000.0, True, None, 10**9])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(BraidError, match="audio: the sample rate is"):
        open_sound(TONE, rate)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    file = tmp_path / "huge.wav"
    with file.open("wb") as sparse:
        sparse.truncate(sound_files.MOST_BYTES + 1)
    with pytest.raises(BraidError, match="bytes, more than"):
        open_sound(file, RATE)


def test_a_sound_of_hours_is_refused_before_it_is_decoded():
    hours = wav(bytes(1000 * 3601), 8, rate=1000)
    with pytest.raises(BraidError, match="3601 s; the most are 3600 s; cut it"):
        open_sound(hours, RATE)


def compressed(form: str, subtype: str, seconds: float = 0.2, rate: int = RATE) -> bytes:
    soundfile = pytest.importorskip("soundfile")
    file = io.BytesIO()
    tone = 0.5 * np.sin(np.arange(int(seconds * rate)) * 0.3)
    soundfile.write(file, tone, rate, format=form, subtype=subtype)
    return file.getvalue()


COMPRESSED = [
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("MP3", "MPEG_LAYER_III"),
    ("WAV", "ULAW"),
    ("AIFF", "PCM_16"),
]


@pytest.mark.parametrize(("form", "subtype"), COMPRESSED)
def test_compressed_sounds_are_read(form, subtype):
    data = compressed(form, subtype)
    samples, notes = noted(data)
    assert len(samples) == 1600 and notes == []
    expected = 0.5 * np.sin(np.arange(1600) * 0.3)
    assert np.abs(samples - expected)[200:-200].max() < (0.1 if form in ("OGG", "MP3") else 0.02)


@pytest.mark.parametrize(("form", "subtype"), COMPRESSED[:3])
def test_damaged_compressed_sounds_are_refused(form, subtype):
    data = compressed(form, subtype)
    with pytest.raises(BraidError, match="not a readable sound|truncated"):
        open_sound(data[: len(data) // 5], RATE)


def test_a_compressed_header_of_years_is_refused_before_it_is_decoded():
    data = bytearray(compressed("FLAC", "PCM_16"))
    data[21] |= 0x0F  # the upper bits of the number of samples
    with pytest.raises(BraidError, match="the most are 3600 s|not a readable sound"):
        open_sound(bytes(data), RATE)


def test_without_soundfile_the_error_says_what_to_install(monkeypatch):
    data = compressed("FLAC", "PCM_16")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(BraidError, match=r'save the sound as WAV, or run: pip .*models\[audio\]"'):
        open_sound(data, RATE)
    assert open_sound(WHOLE, RATE).shape == (800,)
