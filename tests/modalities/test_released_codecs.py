"""Codecs of diffusers and transformers give what the library gives, and travel without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from braid.errors import BraidError
from braid.modalities.codecs import card_of, load, save, shell
from braid.modalities.codecs.codec import Codec
from braid.spaces import Continuous, Discrete

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

PICTURES = {
    "in_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
}


def kl(**options):
    return diffusers.AutoencoderKL(**PICTURES, latent_channels=2, **options)


def vq(**options):
    sizes = PICTURES | {"num_vq_embeddings": 16, "latent_channels": 4, "vq_embed_dim": 4}
    return diffusers.VQModel(**sizes | options)


def encodec(**options):
    sizes = {"num_filters": 4, "hidden_size": 8, "codebook_size": 16, "num_lstm_layers": 1}
    rates = {"sampling_rate": 800, "upsampling_ratios": [4, 2], "target_bandwidths": [0.8, 1.6]}
    model = transformers.EncodecModel(transformers.EncodecConfig(**sizes | rates | options))
    for layer in model.quantizer.layers:  # it starts with empty codebooks
        layer.codebook.embed.normal_()
    return model


def dac(**options):
    sizes = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "codebook_size": 16}
    rates = {"sampling_rate": 1000, "downsampling_ratios": [2, 5], "n_codebooks": 3}
    config = transformers.DacConfig(**sizes | rates | {"codebook_dim": 4} | options)
    return transformers.DacModel(config)


MODELS = {"kl": kl, "vq": vq, "encodec": encodec, "dac": dac}


def written(folder: Path, made) -> Path:
    made.save_pretrained(folder)
    return folder


def frozen(made):
    """A frozen network, as a codec's is: a linear layer's last bit depends on that."""
    return made.eval().requires_grad_(False)


def media_of(codec: Codec, cells: int = 12) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    side = cells * codec.stride
    shape = (2, 3, side, 2 * side) if codec.medium == "image" else (2, side)
    return torch.rand(shape, generator=rng) * 2 - 1


def edit(folder: Path, **values) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=MODELS)
def folder(request, tmp_path) -> Path:
    return written(tmp_path / request.param, MODELS[request.param]())


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("shift", [None, 0.25])
def test_a_kl_code_is_the_scaled_mean_of_the_library(tmp_path, shift):
    made = frozen(kl(scaling_factor=0.5, shift_factor=shift))
    codec = load(written(tmp_path / "kl", made))
    media = media_of(codec)
    latents = (made.encode(media).latent_dist.mode() - (shift or 0)) * 0.5
    codes = codec.encode(media)
    assert codec.space == Continuous(2) and codec.stride == 2 and codes.shape == (2, 12, 24, 2)
    assert torch.equal(codes.movedim(-1, 1), latents)
    latents = (latents / 0.5 + (shift or 0)).contiguous()
    expected = made.decode(latents).sample.clamp(-1, 1)
    assert torch.equal(codec.decode(codes), expected)


@torch.no_grad()
def test_a_kl_code_with_means_and_deviations_is_standard(tmp_path):
    made = frozen(kl(scaling_factor=0.5, latents_mean=[0.1, -0.2], latents_std=[0.5, 2.0]))
    codec = load(written(tmp_path / "kl", made))
    media = media_of(codec)
    latents = made.encode(media).latent_dist.mode()
    mean, deviation = torch.tensor([0.1, -0.2]), torch.tensor([0.5, 2.0])
    expected = (latents.movedim(1, -1) - mean) * 0.5 / deviation
    torch.testing.assert_close(codec.encode(media), expected)
    torch.testing.assert_close(
        codec.decode(expected), made.decode(latents).sample.clamp(-1, 1), atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lookup_from_codebook": True},
        {"norm_type": "spatial", "block_out_channels": (32, 32)},
    ],
)
def test_a_vq_code_is_that_of_the_library(tmp_path, options):
    made = frozen(vq(**options))
    codec = load(written(tmp_path / "vq", made))
    media = media_of(codec)
    latents = made.encode(media).latents
    codes, symbols = codec.encode(media), made.quantize(latents)[2][2]
    assert codec.space == Discrete(16) and codes.shape == (2, 12, 24)
    assert torch.equal(codes.flatten(), symbols)
    shape = (2, 12, 24, 4)
    known = made.config.lookup_from_codebook  # then the library's `decode` looks symbols up
    read = symbols if known else made.quantize.get_codebook_entry(symbols, shape)
    expected = made.decode(read, force_not_quantize=True, shape=shape).sample
    assert torch.equal(codec.decode(codes), expected.clamp(-1, 1))
    assert torch.equal(codec.table(), made.quantize.embedding.weight)


@torch.no_grad()
@pytest.mark.parametrize(("bandwidth", "groups"), [(0.8, 2), (1.6, 4)])
def test_an_encodec_code_is_that_of_the_library(tmp_path, bandwidth, groups):
    made = frozen(encodec())
    codec = load(f"{written(tmp_path / 'encodec', made)}:{bandwidth}")
    media = media_of(codec)
    theirs = made.encode(media[:, None], bandwidth=bandwidth)
    codes = codec.encode(media)
    assert codec.space == Discrete(16, groups) and (codec.rate, codec.stride) == (800, 8)
    assert torch.equal(codes, theirs.audio_codes[0].movedim(1, -1))
    sound = made.decode(theirs.audio_codes, theirs.audio_scales).audio_values[:, 0]
    assert sound.shape == media.shape
    assert torch.equal(codec.decode(codes), sound.clamp(-1, 1))
    assert codec.table().shape == (16, groups * 8)


@torch.no_grad()
@pytest.mark.parametrize(("suffix", "groups"), [("", 3), (":0.8", 2), (":0.4", 1)])
def test_a_dac_code_is_that_of_the_library(tmp_path, suffix, groups):
    made = frozen(dac())
    codec = load(f"{written(tmp_path / 'dac', made)}{suffix}")
    media = media_of(codec)
    theirs = made.encode(media[:, None], n_quantizers=groups).audio_codes
    codes = codec.encode(media)
    assert codec.space == Discrete(16, groups) and (codec.rate, codec.stride) == (1000, 10)
    assert codes.shape == ((2, 12, groups) if groups > 1 else (2, 12))
    assert torch.equal(codes.view(2, 12, groups), theirs.movedim(1, -1))
    sound, ours = made.decode(audio_codes=theirs).audio_values, codec.decode(codes)
    assert ours.shape == media.shape
    assert torch.equal(ours[:, : sound.shape[1]], sound)


def test_rows_of_a_dac_are_as_far_apart_as_what_is_decoded(tmp_path):
    codec = load(written(tmp_path / "dac", dac(n_codebooks=1)))
    group = codec.model.quantizer.quantizers[0]
    decoded = group.out_proj(group.codebook.weight.T[None])[0].T  # [size, hidden]
    torch.testing.assert_close(torch.pdist(codec.table()), torch.pdist(decoded))


@pytest.mark.slow
def test_a_saved_codec_needs_no_released_folder(folder, tmp_path):
    codec = load(folder)
    save(codec, tmp_path / "saved")
    again = load(tmp_path / "saved")
    media = media_of(codec)
    assert again.fingerprint() == codec.fingerprint() == card_of(folder)["fingerprint"]
    assert again.config() == codec.config() and again.card == codec.card
    assert str(tmp_path) not in (tmp_path / "saved" / "codec.json").read_text()
    codes = codec.encode(media)
    assert torch.equal(again.encode(media), codes)
    assert torch.equal(again.decode(codes), codec.decode(codes))


def test_a_shell_has_the_shapes_of_the_codec(folder):
    bare, codec = shell(folder), load(folder)
    for name in ("kind", "medium", "space", "stride", "channels", "rate"):
        assert getattr(bare, name) == getattr(codec, name)
    assert not any(parameter.requires_grad for parameter in codec.parameters())


def test_the_fingerprint_follows_weights_and_options(folder):
    codec = load(folder)
    before = codec.fingerprint()
    assert codec.fingerprint() == before != shell(folder).fingerprint()
    next(codec.parameters()).add_(1e-3)
    assert codec.fingerprint() != before


def test_the_fingerprint_does_not_depend_on_what_the_library_notes(folder):
    before = card_of(folder)["fingerprint"]
    notes = {"transformers_version": "9.0", "_diffusers_version": "9.0", "_name_or_path": "/x"}
    assert card_of(edit(folder, **notes))["fingerprint"] == before


@pytest.mark.parametrize("name", ["kl", "vq", "dac"])
def test_training_reaches_encoder_and_decoder(tmp_path, name):
    codec = load(written(tmp_path / name, MODELS[name]())).train().requires_grad_(True)
    media = media_of(codec)
    coded = codec(media)
    assert coded.media.shape == media.shape and coded.penalty.ndim == 0
    assert (coded.codes is None) == isinstance(codec.space, Continuous)
    ((coded.media - media).square().mean() + coded.penalty).backward()
    for part in (codec.model.encoder, codec.model.decoder):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


@pytest.mark.parametrize("name", ["kl", "vq", "dac"])
def test_forward_agrees_with_encode_and_decode(tmp_path, name):
    codec = load(written(tmp_path / name, MODELS[name]()))
    media = media_of(codec)
    coded, codes = codec(media), codec.encode(media)
    assert coded.codes is None or torch.equal(coded.codes, codes)
    # straight-through gradients add and subtract what the encoder gave
    torch.testing.assert_close(coded.media.clamp(-1, 1), codec.decode(codes), atol=1e-3, rtol=0)


def test_an_encodec_refuses_to_be_trained(tmp_path):
    codec = load(written(tmp_path / "encodec", encodec()))
    with pytest.raises(NotImplementedError, match="DacModel"):
        codec(media_of(codec))


def test_pickled_weights_are_refused(folder):
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(BraidError, match=r"only pytorch_model\.bin.*expected \*\.safetensors"):
        load(folder)


def test_weights_of_another_network_are_refused(tmp_path):
    folder = written(tmp_path / "kl", kl())
    with pytest.raises(BraidError, match="folder is damaged|other weights"):
        load(edit(folder, layers_per_block=2))


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [("_class_name", "AutoencoderK", "AutoencoderKL"), ("model_type", "dacs", "dac")],
)
def test_an_unknown_class_is_refused_with_the_nearest(tmp_path, key, value, nearest):
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    with pytest.raises(BraidError, match=f"did you mean '{nearest}'"):
        load(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BraidError, match="neither _class_name nor model_type"):
        load(tmp_path)


def test_a_configuration_that_the_library_refuses_is_an_error(tmp_path):
    folder = edit(written(tmp_path / "dac", dac()), n_codebooks="three")
    with pytest.raises(BraidError, match="refuses the configuration of DacModel"):
        load(folder)


@pytest.mark.parametrize("name", ["kl", "vq"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 3, 8, 7), "7x8 is no multiple"), ((1, 1, 8, 8), "3 channels"), ((3, 8, 8), "channels")],
)
def test_a_picture_of_another_size_is_refused(tmp_path, name, shape, message):
    codec = load(written(tmp_path / name, MODELS[name]()))
    for use in (codec.encode, codec):
        with pytest.raises(BraidError, match=message):
            use(torch.zeros(shape))


@pytest.mark.parametrize("name", ["encodec", "dac"])
def test_sound_of_another_shape_is_refused(tmp_path, name):
    codec = load(written(tmp_path / name, MODELS[name]()))
    with pytest.raises(BraidError, match=f"fill up to {2 * codec.stride}"):
        codec.encode(torch.zeros(1, codec.stride + 1))
    with pytest.raises(BraidError, match="one channel"):
        codec.encode(torch.zeros(1, 2, codec.stride))


@pytest.mark.parametrize(("name", "bandwidth"), [("encodec", 0.9), ("dac", 99), ("kl", 1)])
def test_a_bandwidth_that_is_not_there_is_refused(tmp_path, name, bandwidth):
    folder = written(tmp_path / name, MODELS[name]())
    with pytest.raises(BraidError, match="choose|no bandwidth"):
        load(f"{folder}:{bandwidth}")


@pytest.mark.parametrize(
    "options", [{"audio_channels": 2}, {"normalize": True}, {"chunk_length_s": 1.0, "overlap": 0.1}]
)
def test_an_encodec_whose_codes_are_not_all_is_refused(tmp_path, options):
    folder = written(tmp_path / "encodec", encodec(**options))
    with pytest.raises(BraidError, match="codes alone do not hold the sound"):
        load(folder)


def test_a_codec_of_the_hub_that_is_not_cached_is_named(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BraidError, match=r"'someone/some-vae/vae'.*HF_HUB_OFFLINE"):
        load("someone/some-vae/vae")


def test_a_codec_of_the_hub_comes_from_the_cache_when_offline(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--someone--pipeline"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    made = written(cached / "snapshots" / ("0" * 40) / "vae", kl())
    codec = load("someone/pipeline/vae")
    assert codec.card["released"] == "someone/pipeline/vae"
    assert codec.fingerprint() == load(made).fingerprint()
