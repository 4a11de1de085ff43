"""How a release makes pixels of a picture: its image processor's settings, read strictly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from braid.config import Options
from braid.errors import BraidError
from braid.families import described
from braid.families.family import Files
from braid.modalities import pictures

RESAMPLES = {int(number): name for name, number in pictures.RESAMPLES.items()}
"""Number of a release -> option of `Vision`; other numbers are refused."""

CROPPING = {"shortest_edge"}
STRETCHING = {"height", "width"}


def options(files: Files, usual: Mapping[str, Any], side: int, pads: bool = False) -> Options:
    """Return the options of `Vision` that give the pixels of a release.

    What the release leaves out is as in the processors of transformers.

    Args:
        files: the small files.
        usual: mean, deviation and whether the middle is cut out, where the release does not say.
        side: of the encoder's picture.
        pads: the model's processor pads a picture to a square.

    Raises:
        BraidError: a setting asks for what `Vision` does not do.
    """
    name, told = settings(files)
    told = {**usual, **_cropping(told), **told}
    described.refuse(told, name, do_resize=True, do_rescale=True, do_pad=pads)
    factor = told.get("rescale_factor", 1 / 255)
    if not _number(factor) or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        raise BraidError(f"{name} sets rescale_factor to {factor!r}; only 1/255 is supported")
    resample = told.get("resample", 3)
    if type(resample) is not int or resample not in RESAMPLES:
        raise BraidError(
            f"{name} sets resample to {resample!r}; only "
            f"{', '.join(f'{k} ({v})' for k, v in RESAMPLES.items())} are supported"
        )
    fit = _fit(name, told, side, pads)
    mean, deviation = (_channels(name, told, key) for key in ("image_mean", "image_std"))
    if min(deviation) <= 0:
        raise BraidError(f"{name} sets image_std to {deviation}; expected numbers above 0")
    if told.get("do_normalize", True) is False:
        mean, deviation = [0.0] * 3, [1.0] * 3
    return {
        "mean": mean,
        "deviation": deviation,
        "resize": True,
        "fit": fit,
        "resample": RESAMPLES[resample],
    }


def settings(files: Files) -> tuple[str, dict[str, Any]]:
    """Return where a release tells its settings, and those that are not null.

    As in transformers, the newer file stands above.
    """
    name = "processor_config.json"
    told = described.read_json(files, name).get("image_processor")
    if told is None:
        name = "preprocessor_config.json"
        told = described.read_json(files, name)
    if not isinstance(told, dict):
        raise BraidError(
            f"{name} sets image_processor to {told!r}, expected a mapping; fetch it again"
        )
    return name, {k: v for k, v in told.items() if v is not None}


def _cropping(told: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether the middle is cut out, where the processor's name says so."""
    kind = str(told.get("image_processor_type", told.get("feature_extractor_type", "")))
    return {"do_center_crop": not kind.startswith("Siglip")} if kind else {}


def _fit(name: str, told: Mapping[str, Any], side: int, pads: bool) -> str:
    """Return how a picture becomes a square."""
    crops = not pads and told.get("do_center_crop") is not False
    size = _sides(name, told, "size", STRETCHING if pads else CROPPING)
    cut = _sides(name, told, "crop_size", STRETCHING) if crops else {}
    for key, given in (("size", size), ("crop_size", cut)):
        known = (CROPPING, STRETCHING) if key == "size" and not pads else (STRETCHING,)
        if given and (set(given) not in known or any(v != side for v in given.values())):
            raise BraidError(
                f"{name} sets {key} to {told[key]!r}; only {side} is supported, the side of the "
                "encoder's picture"
            )
    if set(size) == CROPPING and not crops:
        raise BraidError(
            f"{name} sets do_center_crop to False and size to {told['size']!r}, which gives no "
            "square; only height and width are supported without a crop"
        )
    whole = set(size) == STRETCHING or not crops
    return "pad" if pads else "stretch" if whole else "crop"


def _sides(name: str, told: Mapping[str, Any], key: str, edges: set[str]) -> dict[str, Any]:
    """Return a size as a mapping, empty where it is not told; older releases write a number."""
    size = told.get(key, {})
    if isinstance(size, dict):
        return {k: v for k, v in size.items() if v is not None}
    if type(size) is not int:
        raise BraidError(f"{name} sets {key} to {size!r}, expected a number or a mapping")
    return dict.fromkeys(edges, size)


def _channels(name: str, told: Mapping[str, Any], key: str) -> list[float]:
    """Return three numbers, one of each channel."""
    given = told[key]
    if not isinstance(given, list) or len(given) != 3 or not all(map(_number, given)):
        raise BraidError(f"{name} sets {key} to {given!r}; expected 3 finite numbers")
    return [float(x) for x in given]


def _number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
