"""Reading and changing experiments: YAML, JSON, run directories, and `key.path=value`.

Every mistake is told with the place where it stands and the nearest valid name.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import re
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

from braid.config import OF_A_MIXTURE, DataConfig, Experiment, Model, StrandConfig
from braid.errors import BraidError, unknown
from braid.modalities import MODALITIES
from braid.transformer import TransformerConfig

M = TypeVar("M", bound=Model)


def load(value: Mapping[str, Any] | str | Path) -> Experiment:
    """Make an experiment from a mapping, or from a YAML or JSON file.

    Unknown keys are refused with the nearest valid name.
    """
    return load_as(Experiment, value)


def load_as(model: type[M], value: Mapping[str, Any] | str | Path) -> M:
    """Make any kind of experiment, as `load` does."""
    if isinstance(value, str | Path):
        value = read(Path(value))
    try:
        return model.model_validate(dict(value))
    except ValidationError as e:
        raise explained(e, model) from e


def load_run(folder: Path) -> Experiment:
    """Load the experiment of a run or a saved model.

    Folders that lie beside it as STRAND-OPTION, such as a codec, take the place of the paths that
    it was trained with.
    """
    tree = read(folder / "experiment.json")
    data = tree.get("data")
    if isinstance(data, dict) and isinstance(data.get("mix"), dict) and data["mix"]:
        # what a mixture ignored was kept beside it once, and a model of that time is to be used
        parts = {name: _without(part, OF_A_MIXTURE) for name, part in data["mix"].items()}
        tree["data"] = _without(data, _of_parts()) | {"mix": parts}
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        name, _, option = place.name.rpartition("-")  # a strand's name may have a hyphen
        modality = tree.get("strands", {}).get(name, {}).get("modality", {})
        made = MODALITIES.get(modality.get("kind", ""))
        if made is not None and option in inspect.signature(made).parameters:
            asked = re.search(r":[\d.]+$", str(modality.get(option, "")))
            modality[option] = f"{place}{asked[0] if asked else ''}"
    return load(tree)


def _of_parts() -> set[str]:
    """Return the settings of data that are read in the parts of a mixture, not beside them."""
    return set(DataConfig.model_fields) - {"mix", *OF_A_MIXTURE}


def _without(tree: Any, names: Collection[str]) -> Any:
    return {k: v for k, v in tree.items() if k not in names} if isinstance(tree, dict) else tree


def read(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds a mapping."""
    if not path.is_file():
        raise BraidError(
            f"{str(path)!r} does not exist; give a recipe, or the path of an experiment in YAML "
            "or JSON"
        )
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else _parse(text)
    except ValueError as e:
        raise BraidError(
            f"{str(path)!r} is not readable YAML or JSON: {' '.join(str(e).split())}"
        ) from e
    if not isinstance(value, dict):
        raise BraidError(
            f"{str(path)!r} holds no experiment; expected a mapping with keys such as name, "
            "strands, rule"
        )
    return value


def _parse(text: str) -> Any:
    """Read YAML or JSON, or raise ValueError; unlike YAML 1.1, 1e-5 is a number, as in JSON."""
    import yaml

    class Loader(yaml.SafeLoader): ...

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as e:
        raise ValueError(str(e)) from e


def override(experiment: M, settings: Sequence[str]) -> M:
    """Return the experiment with `key.path=value` settings.

    Values are read as YAML, so 3, true, null and [1, 2] work. A mapping takes the place of what was
    there, and has defaults for what it leaves out. A mixture takes the place of a source.
    """
    tree = experiment.model_dump(mode="json")
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise BraidError(
                f"override {setting!r}: expected key.path=value, as in train.steps=100"
            )
        keys = path.split(".")
        node: Any = tree
        for i, key in enumerate(keys[:-1]):
            if not isinstance(node, dict) or key not in node:
                raise _no_key(".".join(keys[: i + 1]), key, node)
            if isinstance(node[key], str):
                node[key] = {"kind": node[key]}
            node = node[key]
            if node is None:
                raise BraidError(
                    f"override {setting!r}: {'.'.join(keys[: i + 1])} is empty; set it as a "
                    "whole first"
                )
        open_ended = isinstance(node, dict) and (
            "kind" in node
            or keys[-2:-1] in (["tasks"], ["columns"], ["fields"], ["mix"], ["rates"])
        )
        if not isinstance(node, dict) or (keys[-1] not in node and not open_ended):
            raise _no_key(path, keys[-1], node)
        try:
            value = _parse(text) if text else None
        except ValueError as e:
            raise BraidError(f"override {setting!r}: {text!r} is not a YAML value; quote it") from e
        if isinstance(value, dict) and any(":" in str(k) for k, v in value.items() if v is None):
            raise BraidError(f"override {setting!r}: write a space after each colon of {text!r}")
        node[keys[-1]] = value
        tree = _filled(type(experiment), tree)  # for the settings that follow
    _replace_source(tree, experiment, {s.partition("=")[0] for s in settings})
    return load_as(type(experiment), tree)


def _filled(kind: Any, value: Any) -> Any:
    """Return a value of a type, as a tree, with defaults for what its mappings leave out."""
    if not isinstance(value, dict):
        return value
    if typing.get_origin(kind) is dict:
        return {k: _filled(typing.get_args(kind)[1], v) for k, v in value.items()}
    classes = [k for k in (kind, *typing.get_args(kind)) if inspect.isclass(k)]  # X, or X | None
    for cls in classes:
        if issubclass(cls, BaseModel):
            fields = cls.model_fields
            optional = {n: f for n, f in fields.items() if not f.is_required()}
            left = {n: f.get_default(call_default_factory=True) for n, f in optional.items()}
            whole = to_jsonable_python(left) | value
            kinds = {n: fields[n].annotation if n in fields else None for n in whole}
            return {n: _filled(kinds[n], x) for n, x in whole.items()}
        if cls is TransformerConfig:
            known = dataclasses.fields(TransformerConfig)
            defaults = {f.name: f.default for f in known if f.default is not dataclasses.MISSING}
            return to_jsonable_python(defaults) | value
    return value


def _replace_source(tree: dict[str, Any], experiment: Model, paths: Collection[str]) -> None:
    """Leave out what an experiment said of its one source where settings mix others.

    What the settings themselves say stays, to be refused beside the mixture.
    """
    before = getattr(experiment, "data", None)
    if not isinstance(before, DataConfig) or before.mix or "data" in paths:
        return
    if isinstance(tree["data"], dict) and tree["data"].get("mix"):
        said = {path.split(".")[1] for path in paths if path.startswith("data.")}
        tree["data"] = _without(tree["data"], _of_parts() - said)


def _no_key(path: str, key: str, node: object) -> BraidError:
    return unknown(
        "setting",
        path,
        [f"{path[: len(path) - len(key)]}{k}" for k in node] if isinstance(node, dict) else [],
    )


def explained(error: ValidationError, model: type[Model]) -> BraidError:
    """Return the first problem of a validation error as one line."""
    return BraidError(_explain(error, model))


def _explain(error: ValidationError, model: type[Model]) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(x) for x in first["loc"])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, BraidError):
        return f"{where}: {cause}" if where else str(cause)
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        close = difflib.get_close_matches(
            str(first["loc"][-1]), _names_beside(first["loc"], model), n=1, cutoff=0.4
        )
        return f"unknown setting {where!r}; " + (
            f"did you mean {close[0]!r}?" if close else "remove it"
        )
    return f"{where or 'experiment'}: {first['msg']}, got {str(first.get('input'))[:80]}"


def _names_beside(loc: tuple[int | str, ...], model: type[Model]) -> list[str]:
    """Return the valid names at the place of a wrong one."""
    fields: dict[str, Any] = dict(model.model_fields)
    for key in loc[:-1]:
        if key in fields:
            kind = fields[str(key)].annotation
        elif loc[0] == "strands":
            kind = StrandConfig
        else:
            return []
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            fields = dict(kind.model_fields)
        elif kind is TransformerConfig:
            fields = {f.name: None for f in dataclasses.fields(TransformerConfig)}
    return list(fields)
