"""Laws of the sound codec, of its transform, and of log-mel spectra."""

from __future__ import annotations

import math

import pytest
import torch

from braid.errors import BraidError
from braid.modalities import codecs
from braid.modalities.codecs import AudioCodec
from braid.modalities.codecs.audio import Lapped, audio_loss
from braid.modalities.codecs.mel import (
    FLOOR,
    filterbank,
    hertz_to_mel,
    log_mel,
    log_mel_distance,
    mel_to_hertz,
    spectrum,
)
from braid.spaces import Continuous, Discrete

RATE = 8000
CODECS = {
    "residual": {"quantiser": "vq:16x4x3"},
    "one group": {"quantiser": "vq:16x4", "fold": 1},
    "levels": {"quantiser": "fsq:5,5,5", "fold": 4},
    "continuous": {"quantiser": "kl:6"},
    "another rate": {"quantiser": "vq:16x4x2", "rate": 16000, "stride": 320},
}


def small(**options) -> AudioCodec:
    """Return an untrained codec of few parameters, whose tables hold codes of noise."""
    torch.manual_seed(0)
    codec = AudioCodec(**{"width": 16, "fine": 16, "encoder": 1, "decoder": 1, **options})
    codec.train()(noise(4, 4 * codec.stride))
    return codec.eval().requires_grad_(False)


def noise(count: int, samples: int, seed: int = 0) -> torch.Tensor:
    """Return sounds [count, samples]."""
    return 0.1 * torch.randn(count, samples, generator=torch.Generator().manual_seed(seed))


def tone(hertz: float, seconds: float = 0.5, rate: int = RATE) -> torch.Tensor:
    """Return a sine of amplitude 1, [1, samples]."""
    at = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return (2 * math.pi * hertz * at).sin().float()[None]


@pytest.mark.parametrize("hop", [1, 2, 7, 50, 100])
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_the_lapped_transform_goes_there_and_back(hop, frames):
    lapped, samples = Lapped(hop), noise(3, frames * hop)
    coefficients = lapped(samples)
    assert coefficients.shape == (3, frames + 1, hop)
    assert torch.allclose(lapped.inverse(coefficients), samples, atol=1e-5)


def test_the_lapped_transform_keeps_energy():
    coefficients = Lapped(25)(noise(2, 500))
    assert torch.allclose(coefficients.square().sum((1, 2)), noise(2, 500).square().sum(1))


def test_powers_follow_the_frequency():
    _, powers = Lapped(100).spectra(tone(1000))
    assert set(powers[0, 2:-2].argmax(-1).tolist()) == {round(1000 / (RATE / 200)) - 1}


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("samples", [1, 199, 200, 201, 1000, 1333])
def test_sound_of_any_length_has_whole_frames(options, samples):
    codec = small(**options)
    codes = codec.encode(noise(2, samples))
    frames = -(-samples // codec.stride)
    assert codes.shape == (2, *codec.space.shape(frames))
    for clip in codes:
        codec.space.check(clip, "codes")
    made = codec.decode(codes)
    assert made.shape == (2, frames * codec.stride)
    assert made.abs().max() <= 1
    coded = codec(noise(2, samples))
    assert coded.media.shape == (2, samples)
    assert torch.allclose(coded.media.clamp(-1, 1), made[:, :samples], atol=1e-5)


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
def test_gradients_reach_every_weight(options):
    codec = small(**options).train().requires_grad_(True)
    for weight in codec.parameters():  # blocks start as the identity, and pass nothing on
        torch.nn.init.normal_(weight, std=0.5)
    real = noise(2, 5 * codec.stride)
    coded = codec(real)
    (audio_loss(real, coded.media, codec.rate) + coded.penalty).backward()
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in codec.parameters())


def test_cells_know_only_their_surroundings():
    codec = small(quantiser="kl:4", encoder=2)
    for weight in codec.encoder.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    real = noise(1, 40 * codec.stride)
    other = real.clone()
    other[:, : 10 * codec.stride] = noise(1, 10 * codec.stride, seed=1)
    differ = (codec.encode(real) - codec.encode(other)).abs().amax(-1)[0] > 1e-4
    assert differ[:10].all()
    assert not differ[10 + 8 :].any()


def test_clips_do_not_depend_on_their_batch():
    codec, real = small(quantiser="kl:4"), noise(3, 2000)
    alone = torch.cat([codec.encode(clip[None]) for clip in real])
    assert torch.allclose(codec.encode(real), alone, atol=1e-5)


def test_continuous_codes_are_standardised():
    codec, real = small(quantiser="kl:4"), noise(8, 4000)
    before = codec.decode(codec.encode(real))
    codec.standardise(real)
    codes = codec.encode(real).flatten(0, 1)
    assert torch.allclose(codes.mean(0), torch.zeros(4), atol=1e-3)
    assert torch.allclose(codes.std(0), torch.ones(4), atol=1e-3)
    assert torch.allclose(codec.decode(codec.encode(real)), before, atol=1e-4)


def test_tables_hold_a_row_for_each_symbol():
    for quantiser, shape in (("vq:16x4", (16, 4)), ("vq:16x4x3", (16, 12))):
        table = small(quantiser=quantiser).table()
        assert table is not None
        assert table.shape == shape
    assert small(quantiser="kl:4").table() is None


@pytest.mark.parametrize("options", CODECS.values(), ids=CODECS)
def test_a_codec_survives_a_folder(tmp_path, options):
    codec = small(**options)
    codec.card = {"steps": 3}
    codecs.save(codec, tmp_path / "codec")
    loaded = codecs.load(tmp_path / "codec")
    assert isinstance(loaded, AudioCodec)
    assert loaded.fingerprint() == codec.fingerprint()
    assert loaded.config() == codec.config()
    assert (loaded.card, loaded.space, loaded.rate) == ({"steps": 3}, codec.space, codec.rate)
    real = noise(1, 1000)
    assert torch.equal(loaded.encode(real), codec.encode(real))


def test_every_option_counts_in_the_fingerprint():
    one, other = small(), small()
    assert one.fingerprint() == other.fingerprint()
    other.state_dict()["quantiser.codebook"][0, 0, 0] += 1
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint() != small(rate=16000).fingerprint()


def test_spaces_and_bits_follow_the_quantiser():
    assert small(quantiser="vq:16x4x3").space == Discrete(16, 3)
    assert small(quantiser="vq:16x4x3").bits == 12
    assert small(quantiser="kl:6").space == Continuous(6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 201, "fold": 2}, "stride 201 must be a multiple of its fold 2"),
        ({"stride": 2, "fold": 2}, "2 or more times"),
        ({"fold": 0}, "fold 0"),
        ({"rate": 8}, "rate 8 must be at least 1000"),
        ({"width": 0}, "must be positive"),
        ({"quantiser": "vq"}, "quantiser 'vq': expected"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(BraidError, match=message):
        AudioCodec(**options)


@pytest.mark.parametrize("shape", [(2, 1, 400), (400,), (2, 0)])
def test_sound_of_another_shape_is_refused(shape):
    with pytest.raises(BraidError, match=r"reads sound \[B, samples\]"):
        small().encode(torch.zeros(shape))


def test_a_few_steps_of_training_lower_the_loss():
    torch.manual_seed(0)
    codec = AudioCodec("vq:16x4x2", width=32, fine=32, encoder=0, decoder=1)
    real = torch.cat([tone(f, 0.25) for f in (300, 700, 1500)]) * 0.3
    optimizer = torch.optim.Adam(codec.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        coded = codec(real)
        loss = audio_loss(real, coded.media, RATE)
        (loss + coded.penalty).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_the_loss_is_zero_for_the_target_and_grows_with_noise(rate):
    real = noise(2, rate // 4)
    values = [float(audio_loss(real, real + x * noise(2, rate // 4, 1), rate)) for x in (0, 0.1, 1)]
    assert values[0] == pytest.approx(0, abs=1e-3)
    assert values[0] < values[1] < values[2]


def test_the_loss_of_silence_is_finite_with_its_gradient():
    made = torch.zeros(2, 1000, requires_grad=True)
    loss = audio_loss(torch.zeros(2, 1000), made, RATE) + audio_loss(noise(2, 1000), made, RATE)
    loss.backward()
    assert loss.isfinite()
    assert made.grad is not None
    assert made.grad.isfinite().all()


def test_mels_are_inverted_and_known_at_1000_hertz():
    hertz = torch.linspace(0, 12000, 50, dtype=torch.float64)
    assert torch.allclose(mel_to_hertz(hertz_to_mel(hertz)), hertz)
    assert float(hertz_to_mel(torch.tensor(1000.0))) == pytest.approx(1000, abs=0.1)


@pytest.mark.parametrize(("rate", "bins", "bands"), [(8000, 129, 20), (16000, 257, 40)])
def test_triangles_add_up_to_one_between_the_first_and_last_middle(rate, bins, bands):
    bank = filterbank(rate, bins, bands)
    assert bank.shape == (bins, bands)
    assert bank.min() >= 0
    assert bank.max() <= 1
    top = float(hertz_to_mel(torch.tensor(rate / 2)))
    first, last = mel_to_hertz(torch.tensor([1, bands]) * top / (bands + 1)).tolist()
    at = torch.linspace(0, rate / 2, bins)
    inside = (at >= first) & (at <= last)
    assert torch.allclose(bank.sum(1)[inside], torch.ones(int(inside.sum())), atol=1e-5)
    assert (bank.sum(1)[~inside] < 1).all()


def test_too_many_bands_are_refused():
    with pytest.raises(BraidError, match="200 mel bands are too many for 65 bins"):
        filterbank(8000, 65, 200)


@pytest.mark.parametrize("hertz", [250, 500, 1000, 2000, 3500])
def test_a_tone_is_loudest_in_its_own_band(hertz):
    mels = log_mel(tone(hertz), RATE)[0, 5:-5]
    middles = torch.arange(1, 41) * float(hertz_to_mel(torch.tensor(4000.0))) / 41
    nearest = int((middles - hertz_to_mel(torch.tensor(float(hertz)))).abs().argmin())
    assert ((mels.argmax(-1) - nearest).abs() <= 1).all()


def test_a_sine_has_half_its_amplitude_in_its_bin():
    assert spectrum(tone(1000), 256, 64)[0, 10:-10].amax(-1).mean() == pytest.approx(0.5, abs=1e-3)


def test_ten_times_as_loud_is_a_hundred_times_the_power():
    soft = noise(1, 4000)
    more = log_mel(10 * soft, RATE) - log_mel(soft, RATE)
    assert torch.allclose(more, torch.full_like(more, math.log(100)), atol=0.03)


def test_silence_is_at_the_floor():
    assert torch.allclose(log_mel(torch.zeros(1, 4000), RATE), torch.tensor(math.log(FLOOR)))


def test_a_shift_by_a_hop_shifts_the_frames():
    real = noise(1, 4000)
    shifted = torch.nn.functional.pad(real, (80, 0))
    assert log_mel(real, RATE).shape == (1, 51, 40)
    assert torch.allclose(log_mel(shifted, RATE)[:, 3:-3], log_mel(real, RATE)[:, 2:-3], atol=1e-4)


def test_the_distance_is_a_distance():
    a, b, c = noise(2, 4000), noise(2, 4000, 1), tone(440).expand(2, -1)
    assert torch.equal(log_mel_distance(a, a, RATE), torch.zeros(2))
    assert torch.equal(log_mel_distance(a, b, RATE), log_mel_distance(b, a, RATE))
    straight, around = (
        log_mel_distance(a, c, RATE),
        log_mel_distance(a, b, RATE) + log_mel_distance(b, c, RATE),
    )
    assert (straight <= around).all()
    assert torch.allclose(log_mel_distance(a, 2 * a, RATE), torch.tensor(6.02), atol=0.02)
    with pytest.raises(BraidError, match="give two of one shape"):
        log_mel_distance(a, a[:, :-1], RATE)
