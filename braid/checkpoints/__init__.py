"""Checkpoints that are whole, checked and never lost.

A checkpoint is a folder `step-N`: a folder of safetensors files for each group of tensors, one or
more files a rank; `state.json`; and `manifest.json`, which names every file with its SHA-256 and
guards itself with another. It is written beside its place and renamed when it is on the disk; what
is older is deleted only then. Loading verifies, falls back, and says so.
"""

from braid.checkpoints.checkpoints import Checkpoints, Tensors
from braid.checkpoints.lock import Lock, holder
from braid.checkpoints.manifest import newest, verify
from braid.checkpoints.pieces import read

__all__ = ["Checkpoints", "Lock", "Tensors", "holder", "newest", "read", "verify"]
