"""Peers of the benchmarks: each is installed from PyPI into a virtual environment of its own.

They lie under ~/.cache/braid-peers, or under $BRAID_PEERS, and are made on first use. A peer finds
the packages of this interpreter behind its own, so that both sides of a benchmark run the same
torch and nothing large is fetched twice; the project's own environment is not touched.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path


def peer(name: str, requirements: Sequence[str]) -> Path:
    """Return the Python of an environment with the requirements, which is made if it is missing.

    Args:
        name: what the folder is called.
        requirements: as pip takes them, with versions: `flow_matching==1.0.10`.
    """
    here = sysconfig.get_path("purelib")
    kind = hashlib.sha256("\n".join([sys.version, here, *requirements]).encode()).hexdigest()[:8]
    home = Path(os.environ.get("BRAID_PEERS") or Path.home() / ".cache" / "braid-peers")
    folder = home / f"{name}-{kind}"
    python = folder / "bin" / "python"
    done = folder / "complete"  # an installation that was interrupted is begun again
    if not done.exists():
        print(f"installing {' '.join(requirements)} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        own = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        # a path in a .pth file comes after the environment's own packages
        Path(own, "host.pth").write_text(here + "\n", encoding="utf-8")
        install = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(install, check=True, stdout=sys.stderr)
        done.touch()
    return python


class Remote:
    """A side of a benchmark in a peer's environment: it does what it is asked for, line by line.

    It prints a greeting and then one answer for each line it reads; both begin with "@", so that
    whatever else a package prints is passed over.

    Attributes:
        greeting: the words of its first line.
    """

    def __init__(self, python: Path, script: str, arguments: Sequence[str]) -> None:
        """Start it and wait until it is ready."""
        self.process = subprocess.Popen(
            [str(python), script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.greeting = self._read()

    def _read(self) -> list[str]:
        """Return the words of the next line that begins with a mark."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("@"):
                return line[1:].split()
        raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}")

    def ask(self, line: str) -> tuple[float, ...]:
        """Let it do what a line says; return the numbers that it answers with."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return tuple(float(word) for word in self._read())

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
