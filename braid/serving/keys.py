"""Who may use a server: keys that are never kept, only their digests."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from braid.errors import BraidError

_LEAST = 16
_MAKE = 'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'


@dataclass(frozen=True)
class Keys:
    """The keys of a server; without any it asks for none.

    Attributes:
        digests: SHA-256 of each key.
    """

    digests: tuple[bytes, ...] = field(default=(), repr=False)

    @classmethod
    def read(cls, file: Path | None, variable: str = "BRAID_API_KEYS") -> Keys:
        """Return the keys of a file and of an environment variable together.

        Arguments:
            file: one key a line; empty lines and those that begin with # are left out.
            variable: its keys are separated by commas or white space.

        Raises:
            BraidError: a key is weak, others can read the file, or a place that is named holds no
                key, which would leave the server open. No message shows a key.
        """
        given = [] if file is None else _in_file(file)
        if variable in os.environ:
            words = os.environ[variable].replace(",", " ").split()
            if not words:
                raise BraidError(f"{variable} is set and holds no key; unset it, or {_MAKE}")
            given += [(word, f"key {n} of {variable}") for n, word in enumerate(words, 1)]
        return cls(tuple(dict.fromkeys(_digest(_strong(key, place)) for key, place in given)))

    def __bool__(self) -> bool:
        """Return whether a key is asked for."""
        return bool(self.digests)

    def allows(self, header: str | None) -> bool:
        """Return whether an authorization header bears one of the keys.

        How long it takes says nothing of which key was nearly right: digests are compared, and
        always all of them.
        """
        scheme, _, key = (header or "").partition(" ")
        given = _digest(key.strip())
        found = False
        for digest in self.digests:
            found |= hmac.compare_digest(digest, given)
        return found and scheme.lower() == "bearer"


def check_exposed(host: str, keys: Keys, insecure: bool = False) -> None:
    """Refuse to serve other machines without a key.

    Arguments:
        host: name or address that the server binds to.
        keys: that it asks for.
        insecure: the user wants it all the same.

    Raises:
        BraidError: the host is not this machine alone and there is no key.
    """
    if not keys and not insecure and not loopback(host):
        raise BraidError(
            f"host {host!r} lets other machines use this server without a key; give a key file or "
            "BRAID_API_KEYS, bind to 127.0.0.1, or pass --insecure where the network is your own"
        )


def _in_file(file: Path) -> list[tuple[str, str]]:
    """Return the keys of a file, each with its place."""
    try:
        with file.open("rb") as opened:
            mode = os.fstat(
                opened.fileno()
            ).st_mode  # of what is read, not of what was there before
            data = opened.read()
    except OSError as e:
        raise BraidError(f"the key file {str(file)!r} cannot be read: {e.strerror}") from e
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise BraidError(f"others can use the key file {str(file)!r}; run: chmod 600 {file}")
    # a byte that is not ASCII stays one that is not, and is refused below
    lines = [line.strip() for line in data.decode("latin-1").split("\n")]
    keys = [
        (line, f"line {number} of {str(file)!r}")
        for number, line in enumerate(lines, 1)
        if line and not line.startswith("#")
    ]
    if not keys:
        raise BraidError(f"the key file {str(file)!r} holds no key; {_MAKE}")
    return keys


def _strong(key: str, place: str) -> str:
    """Return a key that is long enough and that a header can carry."""
    if len(key) < _LEAST or not all("!" <= c <= "~" for c in key):
        raise BraidError(
            f"{place} must have at least {_LEAST} characters, all of them ASCII and none of them "
            f"a space; {_MAKE}"
        )
    return key


def _digest(key: str) -> bytes:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "replace")).digest()


def loopback(host: str) -> bool:
    """Return whether only this machine reaches a host; a name that is not plain does not count."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
