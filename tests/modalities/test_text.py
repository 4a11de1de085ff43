"""Tokenizers of other kinds than our own are read as they are, or refused with a reason."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from braid.errors import BraidError
from braid.modalities.text import Text


def words(tmp_path, vocabulary: dict[str, int], unknown: str | None = None) -> str:
    """Write a tokenizer of whole words, and return its path."""
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown or "<none>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return str(path)


def test_numbers_with_gaps_leave_room_for_the_end(tmp_path):
    text = Text(tokenizer=words(tmp_path, {"hello": 5, "world": 9}))
    tokens = text.encode("hello world")
    assert tokens.tolist() == [5, 9, 10]
    assert text.space.size == 12
    assert text.decode(torch.tensor([9, 5, 10])) == "world hello"


def test_a_text_that_the_tokenizer_cannot_read_is_refused(tmp_path):
    text = Text(tokenizer=words(tmp_path, {"hello": 0}))
    with pytest.raises(BraidError, match="the tokenizer cannot read 'hello you'"):
        text.encode("hello you")


def test_a_text_without_symbols_is_refused(tmp_path):
    made = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    text = Text(tokenizer=str(path))
    assert text.encode("ab").tolist() == [0, 1, 2]
    with pytest.raises(BraidError, match="no symbol for any part of 'zzz'"):
        text.encode("zzz")


@pytest.mark.parametrize("frames", ["image", ["image", "image"]])
def test_frames_are_a_list_of_different_modalities(frames):
    with pytest.raises(BraidError, match="give a list of modalities, each once"):
        Text(frames=frames)
