"""Keys are read from safe places, compared in whole and never kept or shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from braid.errors import BraidError
from braid.serving.keys import Keys, check_exposed

ONE, TWO, THREE = "a-key-of-the-file-1", "a-key-of-the-file-2", "a-key-of-the-environment"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    """Run a test without the keys of whoever runs it."""
    monkeypatch.delenv("BRAID_API_KEYS", raising=False)


def written(folder: Path, text: str, mode: int = 0o600) -> Path:
    """Return a file of keys."""
    file = folder / "keys"
    file.write_bytes(text.encode())
    file.chmod(mode)
    return file


def test_a_file_and_the_environment_add_up(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAID_API_KEYS", f"{THREE}, {ONE}")
    keys = Keys.read(written(tmp_path, f"# of Ada\n{ONE}\n\n  {TWO}\r\n"))
    assert len(keys.digests) == 3
    for key in (ONE, TWO, THREE):
        assert keys.allows(f"Bearer {key}") and keys.allows(f"bearer  {key}")


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", ONE, f"Basic {ONE}", f"Bearer {ONE}x", f"Bearer {ONE[:-1]}"]
    + [f"Bearer {ONE.upper()}", f"Bearer {ONE} {ONE}", "Bearer \udcff", "Bearer \xff", "#"],
)
def test_anything_else_is_not_allowed(tmp_path, header):
    assert not Keys.read(written(tmp_path, ONE)).allows(header)


def test_no_keys_allow_nobody_and_ask_for_nothing():
    keys = Keys.read(None)
    assert not keys and not keys.allows("Bearer ") and not keys.allows(None)


def test_a_key_is_neither_kept_nor_shown(tmp_path):
    keys = Keys.read(written(tmp_path, ONE))
    assert ONE not in repr(keys) and keys.digests[0].hex() not in repr(keys)
    assert ONE.encode() not in b"".join(keys.digests)


@pytest.mark.parametrize("key", ["short", "fifteen-letters", "with a space within it", "ключ" * 8])
def test_a_weak_key_is_refused_and_not_shown(tmp_path, key):
    with pytest.raises(BraidError, match=r"line 2 of .*secrets.token_urlsafe\(32\)") as caught:
        Keys.read(written(tmp_path, f"{ONE}\n{key}"))
    assert key not in str(caught.value)


def test_a_weak_key_of_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("BRAID_API_KEYS", f"{ONE} short")
    with pytest.raises(BraidError, match="key 2 of BRAID_API_KEYS must have"):
        Keys.read(None)


@pytest.mark.parametrize("text", ["", "\n# nothing\n"])
def test_a_place_that_is_named_and_empty_does_not_open_the_server(tmp_path, monkeypatch, text):
    with pytest.raises(BraidError, match="holds no key"):
        Keys.read(written(tmp_path, text))
    monkeypatch.setenv("BRAID_API_KEYS", " , ")
    with pytest.raises(BraidError, match="holds no key"):
        Keys.read(None)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_can_use_is_refused(tmp_path, mode):
    with pytest.raises(BraidError, match="chmod 600"):
        Keys.read(written(tmp_path, ONE, mode))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BraidError, match="cannot be read"):
        Keys.read(tmp_path / "none")
    with pytest.raises(BraidError, match="cannot be read"):
        Keys.read(tmp_path)


def test_every_key_is_compared(tmp_path, monkeypatch):
    keys = Keys.read(written(tmp_path, f"{ONE}\n{TWO}"))
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append(a) or a == b)
    assert keys.allows(f"Bearer {ONE}")
    assert compared == list(keys.digests)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_alone_needs_no_key(host):
    check_exposed(host, Keys())


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "192.168.1.2", "example.org", "localhost.example.org", "127.1"]
)
def test_other_machines_need_a_key(tmp_path, host):
    with pytest.raises(BraidError, match="--insecure"):
        check_exposed(host, Keys())
    check_exposed(host, Keys(), insecure=True)
    check_exposed(host, Keys.read(written(tmp_path, ONE)))
