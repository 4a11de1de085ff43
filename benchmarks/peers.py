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
