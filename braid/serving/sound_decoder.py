"""The program that decodes a stranger's compressed sound, for `braid.serving.compressed`.

Usage: sound_decoder.py SECONDS NUMBERS < FILE. It prints a line of JSON with the header, and after
it float32 samples [samples, channels]; none where the header promises more than is taken.
"""

from __future__ import annotations

import importlib
import io
import json
import sys

FORMS = ("FLAC", "OGG", "MP3")
"""What is decoded, of all that the library could."""

MISSING, UNREADABLE = 3, 4
"""Exit codes: there is no library, and it could not read the file."""

_MEMORY = 2 << 30
_PROCESSOR_SECONDS = 10
_UNKNOWN = (1 << 63) - 1  # frames of a stream whose writer could not know its length


def main() -> int:
    """Decode what is on standard input."""
    seconds, numbers = map(int, sys.argv[1:])
    try:
        soundfile = importlib.import_module("soundfile")
    except (ImportError, OSError):
        return MISSING
    _limit_itself()
    try:
        with soundfile.SoundFile(io.BytesIO(sys.stdin.buffer.read())) as file:
            if file.format not in FORMS:
                return UNREADABLE
            rate, channels, frames = file.samplerate, file.channels, file.frames
            if frames == _UNKNOWN:
                return UNREADABLE
            samples = b""
            if frames <= seconds * rate and frames * channels <= numbers:
                samples = bytes(file.buffer_read(frames, dtype="float32"))
    except (RuntimeError, OSError, ValueError, TypeError, MemoryError):
        return UNREADABLE
    head = {"rate": rate, "channels": channels, "frames": frames}
    sys.stdout.buffer.write(json.dumps(head).encode() + b"\n" + samples)
    return 0


def _limit_itself() -> None:
    """Bound memory and time, where the system can."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR_SECONDS, _PROCESSOR_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
