"""Files of results: which names they may have follows what a modality is, not what it is called."""

from __future__ import annotations

import pytest

from braid.errors import BraidError
from braid.modalities import Audio, Image, Label, codecs
from braid.modalities.codecs import AudioCodec
from braid.saving import checked


@pytest.fixture
def made(tmp_path):
    """Return modalities under names of a user's own."""
    codecs.save(AudioCodec(width=16, fine=16, encoder=1, decoder=1), tmp_path / "codec")
    return {
        "sound": Audio("voice", str(tmp_path / "codec")),
        "picture": Image("sketch", size=4),
        "word": Label("digit", ["one", "two"]),
    }


@pytest.mark.parametrize(
    ("kind", "good", "bad", "usual"),
    [
        ("sound", "a.wav", "a.png", "sample.wav"),
        ("picture", "a.jpg", "a.wav", "sample.png"),
        ("word", "a.anything", None, "sample.txt"),
    ],
)
def test_a_name_suits_what_is_written(kind, good, bad, usual, made, tmp_path):
    modality = made[kind]
    assert checked(tmp_path / "new" / good, modality) == tmp_path / "new" / good
    assert (tmp_path / "new").is_dir()
    assert checked(tmp_path / "new", modality) == tmp_path / "new" / usual
    if bad is not None:
        with pytest.raises(BraidError, match=f"{modality.name} is not written as .* {usual}"):
            checked(tmp_path / "other" / bad, modality)
        assert not (tmp_path / "other").exists()


def test_a_format_that_is_only_read_is_refused(made, tmp_path):
    with pytest.raises(BraidError, match="sketch is not written as"):
        checked(tmp_path / "a.psd", made["picture"])
