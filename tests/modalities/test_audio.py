"""Laws of the audio modality: clips to the tokens of a codec and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from braid.errors import BraidError
from braid.modalities import MODALITIES, Audio, CodedImage, codecs
from braid.modalities.audio import trim
from braid.modalities.codecs import AudioCodec, Codes, ImageCodec
from braid.modalities.sounds import Sound
from braid.processes import PROCESSES, MetricPath
from braid.spaces import Continuous, Discrete
from braid.strand import Strand

RATE = 8000
QUANTISERS = {"residual": "vq:16x4x3", "one group": "vq:16x4", "continuous": "kl:6"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Return folders of small codecs that have seen a little."""
    made = {}
    for name, quantiser in QUANTISERS.items():
        torch.manual_seed(0)
        codec = AudioCodec(quantiser, width=16, fine=16, encoder=1, decoder=1)
        codec.train()(torch.from_numpy(clip(1.0))[None])
        made[name] = tmp_path_factory.mktemp("codecs") / name
        codecs.save(codec, made[name])
    return made


def clip(seconds: float, seed: int = 0) -> np.ndarray:
    """Return noise that is as loud at its ends as in its middle."""
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * RATE))).clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize("kind", QUANTISERS)
@pytest.mark.parametrize("seconds", [0.02, 0.3333, 0.5, 1.0])
def test_every_clip_fills_the_canvas(folders, kind, seconds):
    audio = Audio(codec=str(folders[kind]))
    tokens = audio.encode(clip(seconds))
    assert audio.shape == (40,)
    assert tokens.shape == audio.space.shape(40)
    audio.space.check(tokens, "audio")
    assert audio.span_shape(tokens) == (40,)
    assert torch.equal(audio.canvas(tokens, causal=False), tokens)
    sound = audio.decode(tokens, audio.shape)
    assert isinstance(sound, Sound)
    assert sound.rate == RATE
    assert 0 < len(sound.samples) <= RATE
    assert np.abs(sound.samples).max() <= 1


@pytest.mark.parametrize("kind", QUANTISERS)
@pytest.mark.parametrize("joined", [1, 2, 3])
def test_frames_are_joined_to_tokens_and_parted_again(folders, kind, joined):
    audio, plain = Audio(codec=str(folders[kind]), frames_per_token=joined), folders[kind]
    cells = codecs.load(plain).encode(torch.from_numpy(clip(audio.samples / RATE))[None])[0]
    assert audio.shape == (-(-40 // joined),)
    tokens = audio.encode(clip(audio.samples / RATE))
    assert torch.equal(tokens.flatten(), cells.flatten())
    assert tokens.shape == audio.space.shape(audio.shape[0])
    cell = audio.codec.space
    if isinstance(audio.space, Discrete):
        assert isinstance(cell, Discrete)
        assert audio.space == Discrete(cell.size, cell.groups * joined)
    else:
        assert audio.space == Continuous(6 * joined)
    whole = codecs.load(plain).decode(cells[None])[0]
    sound = audio.decode(tokens, audio.shape)
    assert np.array_equal(sound.samples, trim(whole, RATE).numpy())


@pytest.mark.parametrize(("seconds", "tokens"), [(1.0, 40), (0.025, 1), (0.026, 2), (1.3, 52)])
def test_the_canvas_is_rounded_up_to_whole_tokens(folders, seconds, tokens):
    assert Audio(codec=str(folders["residual"]), seconds=seconds).shape == (tokens,)


def test_silence_around_a_clip_does_not_count(folders):
    audio = Audio(codec=str(folders["residual"]))
    quiet = np.zeros(RATE, np.float32)
    around = np.concatenate([quiet, clip(0.5), quiet])
    assert torch.equal(
        audio.encode(around), audio.encode(np.pad(clip(0.5), (400, 400)))
    )  # 50 ms of it stay


def test_what_is_longer_than_the_canvas_is_refused(folders):
    audio = Audio(codec=str(folders["residual"]))
    with pytest.raises(BraidError, match=r"1\.20 s long .* canvas 1\.00 s; raise .*`seconds`"):
        audio.encode(clip(1.2))
    assert Audio(codec=str(folders["residual"]), seconds=1.2).encode(clip(1.2)).shape == (48, 3)


def test_silence_is_refused(folders):
    with pytest.raises(BraidError, match="silent"):
        Audio(codec=str(folders["residual"])).encode(np.zeros(RATE, np.float32))


def test_an_interrupted_clip_ends_early(folders):
    audio = Audio(codec=str(folders["residual"]))
    tokens = audio.encode(clip(1.0))
    assert audio.decode(tokens[:10], audio.shape).seconds <= 0.25
    nothing = audio.decode(tokens[:0], audio.shape)
    assert nothing.seconds == 1.0
    assert not nothing.samples.any()


def test_other_rates_and_files_are_read(folders, tmp_path):
    audio = Audio(codec=str(folders["residual"]))
    sound = Sound(clip(0.5), RATE)
    sound.save(tmp_path / "clip.wav")
    data = (tmp_path / "clip.wav").read_bytes()
    of_path = audio.encode(tmp_path / "clip.wav")
    assert torch.equal(audio.encode({"bytes": data, "path": None}), of_path)
    assert not audio.converted
    assert audio.encode(Sound(clip(0.5), 2 * RATE)).shape == (40, 3)
    assert audio.converted == {"resampled from 16000 Hz to 8000 Hz": 1}


def test_it_accepts_what_is_plainly_sound(folders):
    audio = Audio(codec=str(folders["residual"]))
    assert audio.accepts(Sound(clip(0.1), RATE))
    assert all(audio.accepts(Path(f"x{s}")) for s in (".wav", ".WAV", ".flac", ".mp3", ".ogg"))
    others = [Path("x.png"), "x.wav", np.zeros((4, 4)), b"RIFF", 3]
    assert not any(audio.accepts(x) for x in others)


def test_codes_of_a_cache_are_taken_from_the_own_codec_alone(folders):
    audio = Audio(codec=str(folders["residual"]))
    tokens = audio.encode(clip(1.0))
    codes = Codes(tokens, audio.card["fingerprint"])
    assert torch.equal(audio.encode(codes), tokens)
    with pytest.raises(BraidError, match="made by codec 0123"):
        audio.encode(Codes(tokens, "0123"))
    with pytest.raises(BraidError, match="codes are of 39 frames, the model reads 40"):
        audio.encode(Codes(tokens[:-1], audio.card["fingerprint"]))


def test_a_checkpoint_of_another_codec_is_refused(folders):
    audio, other = Audio(codec=str(folders["residual"])), Audio(codec=str(folders["one group"]))
    audio.load_state(audio.state())
    with pytest.raises(BraidError, match="a codec that does not belong to the checkpoint"):
        audio.load_state(other.state())
    with pytest.raises(BraidError, match="trained with codec None"):
        audio.load_state({})
    assert audio.folders() == {"codec": folders["residual"]}


def test_shapes_are_known_without_weights(folders, tmp_path):
    (tmp_path / "codec").mkdir()
    header = (folders["residual"] / "codec.json").read_text()
    (tmp_path / "codec" / "codec.json").write_text(header)
    audio = Audio(codec=str(tmp_path / "codec"))
    assert (audio.shape, audio.space) == ((40,), Discrete(16, 3))
    with pytest.raises(BraidError, match=r"codec\.safetensors"):
        audio.encode(clip(0.5))


def test_options_that_cannot_be_are_refused(folders, tmp_path):
    codec = str(folders["residual"])
    for options, message in (
        ({"seconds": 0}, "seconds 0 must be a positive"),
        ({"seconds": float("inf")}, "seconds inf"),
        ({"frames_per_token": 0}, "frames_per_token 0 must be at least 1"),
        ({"codec": "nowhere"}, "'nowhere' does not exist"),
    ):
        with pytest.raises(BraidError, match=message):
            Audio(**{"codec": codec, **options})
    codecs.save(ImageCodec(width=8, fine=8), tmp_path / "pictures")
    with pytest.raises(BraidError, match="is for image data; audio needs one for sound"):
        Audio(codec=str(tmp_path / "pictures"))
    with pytest.raises(BraidError, match="is for audio data; image needs one for pictures"):
        CodedImage(codec=codec)


def test_it_reads_the_field_of_its_name_unless_told(folders):
    codec = str(folders["residual"])
    assert Audio("voice", codec).field == "voice"
    assert Audio("voice", codec, field="audio").field == "audio"


def test_holes_are_no_longer_than_the_canvas(folders):
    audio = Audio(codec=str(folders["residual"]))
    assert audio.hole_shape(None, causal=True) == (40,)
    assert audio.hole_shape(10, causal=True) == (10,)
    assert audio.hole_shape(10, causal=False) == (40,)
    with pytest.raises(BraidError, match="at most 40 tokens, not 41"):
        audio.hole_shape(41, causal=True)


def test_metric_paths_take_the_table_that_all_groups_share(folders):
    one = Audio(codec=str(folders["one group"]), frames_per_token=2)
    shared = one.codec.table()
    assert shared is not None
    assert torch.equal(one.metric()["table"], shared)
    residual = Audio(codec=str(folders["residual"]))
    table = residual.metric()["table"]
    assert table.shape[0] == 16
    assert len(torch.cdist(table, table)[0, 1:].unique()) == 1
    for audio in (one, residual):
        path = MetricPath(**audio.metric())
        tokens = audio.encode(clip(1.0))
        assert torch.equal(path.jump(tokens, tokens, 0.5, 1.0, torch.Generator(), 16), tokens)
    with pytest.raises(BraidError, match="no table"):
        Audio(codec=str(folders["continuous"])).metric()


@pytest.mark.parametrize("kind", QUANTISERS)
@pytest.mark.parametrize("name", PROCESSES)
def test_it_runs_under_every_process_of_its_kind(folders, kind, name):
    audio, process = Audio(codec=str(folders[kind])), PROCESSES[name]()
    if process.continuous == isinstance(audio.space, Discrete):
        with pytest.raises(BraidError, match="exchange the process"):
            Strand(audio, process, 16)
        return
    strand = Strand(audio, process, 16)
    tokens = audio.encode(clip(0.7))
    hidden = strand.embed(tokens, torch.ones(40), audio.positions(audio.shape))
    assert hidden.shape == (40, 16)
    assert strand.read(hidden).shape[: tokens.ndim] == tokens.shape


def test_it_is_registered():
    assert MODALITIES["audio"] is Audio


@pytest.mark.parametrize("gain", [0.001, 1.0])
def test_silence_is_relative_to_the_loudest_part(gain):
    loud = torch.from_numpy(clip(0.3))
    quiet = 0.001 * torch.from_numpy(clip(1.0, seed=1))
    cut = trim(gain * torch.cat([quiet, loud, quiet]), RATE)
    margin = round(0.05 * RATE)
    assert len(cut) == len(loud) + 2 * margin
    assert torch.equal(cut[margin:-margin], gain * loud)


def test_trimming_twice_is_trimming_once():
    samples = torch.nn.functional.pad(torch.from_numpy(clip(0.313)), (3000, 3001))
    once = trim(samples, RATE)
    assert torch.equal(trim(once, RATE), once)


def test_silence_and_steady_sound_stay_whole():
    for samples in (torch.zeros(777), torch.from_numpy(clip(0.2)), torch.ones(3)):
        assert torch.equal(trim(samples, RATE), samples)
