"""Files of what a command made: names that are checked before it is made, numbered, and written."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

from braid import storage
from braid.errors import BraidError
from braid.modalities import Audio, CodedImage, Image, Modality
from braid.modalities.sounds import WAV, Sound

if TYPE_CHECKING:
    import PIL.Image


def checked(out: Path, modality: Modality) -> Path:
    """Return the file of a result, inside `out` where that is a folder; its folder is made.

    Raises:
        BraidError: nothing can be written there, or not in the form that the suffix asks for.
    """
    usual, forms = _forms(modality)
    file = out / usual if out.is_dir() else out
    if forms is not None and file.suffix and file.suffix.lower() not in forms:
        raise BraidError(
            f"cannot write {str(file)!r} ({modality.name} is not written as {file.suffix}); use a "
            f"name such as {usual}"
        )
    storage.writable(file.parent)
    return file


def _forms(modality: Modality) -> tuple[str, Container[str] | None]:
    """Return the usual name of a modality's file, and the suffixes it may have; None is any."""
    if isinstance(modality, Audio):
        return "sample.wav", WAV
    if isinstance(modality, Image | CodedImage):
        from PIL import Image as PIL

        known = PIL.registered_extensions()
        return "sample.png", {end for end, form in known.items() if form in PIL.SAVE}
    return "sample.txt", None


def numbered(path: Path, i: int, n: int) -> Path:
    """Return the name of the i-th of n results."""
    return path if n == 1 else path.with_name(f"{path.stem}-{i}{path.suffix}")


def save_text(text: str, path: Path) -> None:
    """Write a text and a line's end."""
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as e:
        raise BraidError(f"cannot write {str(path)!r} ({e.strerror}); choose another name") from e


def save_media(made: PIL.Image.Image | Sound, path: Path | None, i: int, n: int) -> Path:
    """Write the i-th of n pictures or sounds; return its file."""
    usual = "sample.wav" if isinstance(made, Sound) else "sample.png"
    path = path or Path(usual)
    path = numbered(path if path.suffix else path.with_suffix(Path(usual).suffix), i, n)
    try:
        made.save(path)
    except (OSError, ValueError) as e:
        raise BraidError(
            f"cannot write {str(path)!r} ({e}); use a name such as {usual} in a folder that can be "
            "written"
        ) from e
    return path
