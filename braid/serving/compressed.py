"""Compressed sounds of strangers are decoded in a process of their own, with bounds on its work.

An Ogg file of 190 bytes can end the process that reads it: the library takes as much of the stack
as the file's code books ask for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from braid.errors import BraidError
from braid.modalities import sound_files
from braid.serving import sound_decoder

_SECONDS = 20.0  # twice what the program may compute, as others compute too


def decode(data: bytes, name: str, seconds: int) -> tuple[np.ndarray, int, int]:
    """Decode FLAC, OGG or MP3; a `sound_files.Decoder`.

    Args:
        data: the file.
        name: name for messages.
        seconds: most that are decoded.

    Returns:
        float32 samples [samples, channels], their rate, and how many the header promises.

    Raises:
        BraidError: the file is damaged, too long, or another kind of file; or there is no decoder.
    """
    numbers = seconds * (sound_files.MOST_NUMBERS // sound_files.MOST_SECONDS)
    program = [sys.executable, "-P", str(Path(sound_decoder.__file__)), str(seconds), str(numbers)]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # they take memory each
    try:
        ran = subprocess.run(
            program,
            input=data,
            capture_output=True,
            timeout=_SECONDS,
            env=os.environ | one_thread,
            check=False,
        )
    except subprocess.TimeoutExpired as e:
        raise _unreadable(name) from e
    if ran.returncode == sound_decoder.MISSING:
        raise BraidError(f"{name}: this server reads no compressed sounds; save the sound as WAV")
    if ran.returncode != 0:  # also of a decoder that crashed
        raise _unreadable(name)
    line, _, samples = ran.stdout.partition(b"\n")
    head = json.loads(line)
    rate, channels, frames = head["rate"], head["channels"], head["frames"]
    sound_files.check_header(frames, channels, rate, name, seconds)
    return np.frombuffer(samples, np.float32).reshape(-1, channels).copy(), rate, frames


def _unreadable(name: str) -> BraidError:
    """Return the error for a file of which the decoder made nothing."""
    return BraidError(
        f"{name}: not a readable sound, damaged, or without its length; save it again as WAV of "
        "16 bits"
    )
