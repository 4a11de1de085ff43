"""Released codecs: networks that diffusers and transformers define, read from a folder or the Hub.

Only safetensors are read. What a network is made of is taken from its config.json as written, so
that a newer library with more options leaves the fingerprint alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from braid import hub, storage
from braid.errors import BraidError, unknown
from braid.hub import library
from braid.modalities.codecs.codec import Codec

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*){1,2}")
_BANDWIDTH = re.compile(r"(.+):(\d+(?:\.\d+)?)")
_FILES = ("config.json", "diffusion_pytorch_model.safetensors", "model.safetensors")
_MODEL_TYPES = {"encodec": "EncodecModel", "dac": "DacModel"}
# what a library notes about a file: no part of the network
_NOTES = ("architectures", "model_type", "transformers_version", "dtype", "torch_dtype")


class Released(Codec):
    """Base of the codecs whose network another library defines; `kind` is that library.

    Attributes:
        models: the library's classes that can be used.
        reading: further options of the library's `from_pretrained`.
        options: class and configuration of the network, and what the codec makes of it.
    """

    models: ClassVar[tuple[str, ...]]
    reading: ClassVar[dict[str, Any]] = {}
    options: dict[str, Any]

    def build(self, model: str, config: Mapping[str, Any]) -> Any:
        """Make the library's network with random weights; set `options` and an empty card.

        Raises:
            BraidError: the class is unknown, its library is missing or refuses the configuration.
        """
        if model not in self.models:
            raise unknown(f"{self.kind} codec", model, self.models)
        self.card, self.options = {}, {"model": model, "config": _plain(config)}
        self._known: tuple[Any, str] | None = None
        network = getattr(library(self.kind), model)
        try:
            return self.make(network, self.options["config"])
        except Exception as e:  # a library checks its options with errors of its own
            raise BraidError(
                f"{self.kind} refuses the configuration of {model} ({hub.first_line(e)}); it comes "
                "from another class, or from a newer version: update the library"
            ) from e

    @staticmethod
    def make(network: Any, config: dict[str, Any]) -> Any:
        """Make an instance of one of the library's classes."""
        raise NotImplementedError

    @property
    def model(self) -> nn.Module:
        """The library's network."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return json.loads(json.dumps(self.options))

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with any weight or option.

        Remembered while the codec is frozen and no weight was written to.
        """
        if any(parameter.requires_grad for parameter in self.parameters()):
            return super().fingerprint()
        state = [(t.data_ptr(), t.dtype, t._version) for t in self.state_dict().values()]
        if self._known is None or self._known[0] != state:
            self._known = (state, super().fingerprint())
        return self._known[1]

    def read(self, folder: Path) -> None:
        """Take the weights of a folder that the library wrote.

        Raises:
            BraidError: there are no safetensors, or they are those of another network.
        """
        hub.refuse_pickle(folder)
        name = self.options["model"]
        try:
            pretrained, report = getattr(library(self.kind), name).from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **self.reading,
            )
        except Exception as e:  # as above: errors of its own
            raise BraidError(
                f"{self.kind} cannot read {name} from {str(folder)!r}: {hub.first_line(e)}; the "
                "folder is damaged or incomplete: fetch it again"
            ) from e
        tensors, own = pretrained.state_dict(), self.model.state_dict()
        # the library fills what it does not find with noise
        missing = sorted(set(report["missing_keys"]) & own.keys())
        if missing:
            raise BraidError(
                f"{str(folder)!r} lacks {len(missing)} tensors of {name} (first: {missing[0]!r}); "
                "its config.json belongs to other weights"
            )
        storage.adopt(self.model, {key: tensors[key] for key in own}, str(folder))


def find(name: str | Path) -> Path | None:
    """Return the folder of a released codec, or None where nothing looks like one.

    A name is a folder, or `owner/name` or `owner/name/folder` of the Hub, which is fetched unless
    it is cached; either can end in `:bandwidth`.

    Raises:
        BraidError: the Hub has no such codec, or cannot be reached.
    """
    place, _ = _split(name)
    if (Path(place) / "config.json").is_file():
        return Path(place)
    if isinstance(name, str) and not Path(place).exists() and _HUB_NAME.fullmatch(place):
        return _fetch(place)
    return None


def shell(folder: Path, name: str | Path) -> Released:
    """Make the codec of a folder that `find` gave for a name, with random weights."""
    from braid.modalities.codecs import CODECS

    kind, model, config = _describe(folder)
    (place, bandwidth), made = _split(name), CODECS[kind]
    if bandwidth and made.medium != "audio":
        raise BraidError(f"codec {str(name)!r}: pictures have no bandwidth; write {place!r}")
    codec = made(model, config, **({"bandwidth": bandwidth} if bandwidth else {}))
    assert isinstance(codec, Released), "a library's kind is a released codec"
    # a local folder is named without its place, which means nothing elsewhere
    source = Path(place).name if Path(place).exists() else place
    codec.card = {"released": source, "library": kind, "model": model}
    return codec.eval().requires_grad_(False)


def load(folder: Path, name: str | Path) -> Released:
    """Make the codec of a folder that `find` gave for a name, with its weights."""
    codec = shell(folder, name)
    codec.read(folder)
    return codec


def header(folder: Path, name: str | Path) -> dict[str, Any]:
    """Return what codec.json would hold; reads the weights for their fingerprint."""
    codec = load(folder, name)
    return {
        "kind": codec.kind,
        "config": codec.config(),
        "fingerprint": codec.fingerprint(),
        "card": codec.card,
    }


def _split(name: str | Path) -> tuple[str, float]:
    """Return the place and the bandwidth of "place:bandwidth", 0 where none is given."""
    match = _BANDWIDTH.fullmatch(str(name))
    return (match[1], float(match[2])) if match else (str(name), 0.0)


def _describe(folder: Path) -> tuple[str, str, dict[str, Any]]:
    """Return the library, the class and the configuration that config.json names."""
    config = storage.read_json(folder / "config.json")
    if "_class_name" in config:
        return "diffusers", str(config["_class_name"]), config
    if "model_type" not in config:
        raise BraidError(
            f"{str(folder / 'config.json')!r} names neither _class_name nor model_type; expected "
            "the folder of a codec that diffusers or transformers wrote"
        )
    if config["model_type"] not in _MODEL_TYPES:
        raise unknown("transformers codec", config["model_type"], _MODEL_TYPES)
    return "transformers", _MODEL_TYPES[config["model_type"]], config


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as JSON would, in order and without what a library notes."""
    kept = {k: v for k, v in config.items() if not k.startswith("_") and k not in _NOTES}
    return json.loads(json.dumps(kept, sort_keys=True))


def _fetch(place: str) -> Path:
    """Return the folder in the cache of a codec of the Hub; honours HF_HUB_OFFLINE."""
    owner, repository, *inner = place.split("/")
    wanted = ["/".join([*inner, file]) for file in _FILES]
    folder = Path(hub.fetch("codec", f"{owner}/{repository}", wanted, name=place), *inner)
    if not (folder / "config.json").is_file():
        raise BraidError(
            f"codec {place!r} of the Hub has no config.json; the autoencoder of a pipeline is "
            "named with its folder, such as owner/name/vae"
        )
    return folder
