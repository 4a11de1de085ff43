"""The contract of a family of released models: what its config.json describes, and how tensors map.

A family is data. It answers to names of architectures, describes the model as an `Experiment`, and
lists rules from released names to the model's; import and export read the same list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from braid.config import Experiment, Options
from braid.errors import BraidError
from braid.families.transforms import Constant, Same, Transform

Config = Mapping[str, Any]
"""What a released config.json holds."""

Files = Mapping[str, str]
"""Name -> text of the small files of a released folder, such as tokenizer.json; and name -> place
of the frozen networks that were cut out of it."""


@dataclass(frozen=True)
class Rule:
    """Released tensors and the model's that they become.

    Attributes:
        released: names; {} stands for a number, the same ones in the same order as in `own`.
        own: names in the model's state_dict.
        way: from the released ones to the model's, and back.
    """

    released: str | Sequence[str]
    own: str | Sequence[str]
    way: Transform = Same()


@dataclass(frozen=True)
class Part:
    """A frozen network of a release, through which a modality looks; it lies in its own folder.

    Attributes:
        name: strand-option, such as "image-codec": the modality's option that names the folder.
        file: name of the safetensors in that folder.
        build: the network that config.json describes, on the meta device; its tensors have the
            names that they have in the file.
        save: writes the folder, given config.json and all tensors.
        rules: how released tensors map to those of the network, given their names.
        carried: released names that the network has no use for ({} is a number); they lie beside
            it until export.
    """

    name: str
    file: str
    build: Callable[[Config], nn.Module]
    save: Callable[[Config, Mapping[str, Tensor], Path], None]
    rules: Callable[[Iterable[str]], Sequence[Rule]]
    carried: tuple[str, ...] = ()

    @property
    def strand(self) -> str:
        """Name of the strand that looks through it."""
        return self.name.rpartition("-")[0]

    @property
    def option(self) -> str:
        """The modality's option that names its folder."""
        return self.name.rpartition("-")[2]


def _no_parts(config: Config) -> Sequence[Part]:
    return ()


def _no_pixels(config: Config, files: Files) -> Options:
    return {}


@dataclass(frozen=True)
class Family:
    """A family of released models.

    Attributes:
        name: its name.
        architectures: names in config.json that it answers to.
        experiment: what config.json and the other small files describe: strands, rule, transformer.
        rules: how its tensors map; together they name every tensor of the model, once.
        ignored: released names that hold nothing learned ({} is a number); export leaves them out.
        parts: the frozen networks that config.json describes.
        former: how names begin -> how they began in older releases, which are read as well.
        tables: strand-option -> file, without its suffix, of the embeddings that a modality
            compares.
        pixels: what the small files say of the pixels of an encoder, as options of `Vision`.
    """

    name: str
    architectures: tuple[str, ...]
    experiment: Callable[[Config, Files], Experiment]
    rules: Callable[[Config], Sequence[Rule]]
    ignored: tuple[str, ...] = ("model.layers.{}.self_attn.rotary_emb.inv_freq",)
    parts: Callable[[Config], Sequence[Part]] = _no_parts
    former: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    pixels: Callable[[Config, Files], Options] = _no_pixels


@dataclass(frozen=True)
class Step:
    """A rule with numbers in place: these released tensors are these of the model.

    Attributes:
        released: names.
        own: names.
        way: between them.
        tied: the model has its tensors under other names already; the release may leave them out.
    """

    released: tuple[str, ...]
    own: tuple[str, ...]
    way: Transform
    tied: bool = False


@dataclass(frozen=True)
class Plan:
    """All steps between a released model and the model's parameters.

    Attributes:
        steps: in the order of the model's parameters.
        ignored: patterns of released names without meaning.
    """

    steps: list[Step]
    ignored: list[re.Pattern[str]] = field(default_factory=list)

    def released(self) -> list[str]:
        """Return the released names that have to be there."""
        return [name for step in self.steps if not step.tied for name in step.released]

    def check(self, names: Iterable[str], where: str) -> None:
        """Refuse released names that are missing or too many.

        Raises:
            BraidError: names the first of them.
        """
        given, wanted = set(names), set(self.released())
        optional = {name for step in self.steps if step.tied for name in step.released}
        extra = {
            name
            for name in given - wanted - optional
            if not any(p.fullmatch(name) for p in self.ignored)
        }
        for what, found in (("lacks", wanted - given), ("holds", extra)):
            if found:
                unknown = "" if what == "lacks" else " that its config.json does not describe"
                raise BraidError(
                    f"{where} {what} {len(found)} tensors{unknown} (first: {min(found)!r}); the "
                    "weights are incomplete or belong to another config.json: fetch both again"
                )


def plan(family: Family, config: Config, own: Iterable[str], tied: Iterable[str] = ()) -> Plan:
    """Put the numbers of a model's tensors into the rules of its family.

    Args:
        family: its family.
        config: the released config.json.
        own: names of the model's parameters.
        tied: further names of parameters that are in `own`.
    """
    steps: dict[tuple[str, ...], Step] = {}
    for rule in family.rules(config):
        released, names = _names(rule.released), _names(rule.own)
        pattern = _pattern(names[0])
        for also, found in ((False, own), (True, tied)):
            for name in found:
                if match := pattern.fullmatch(name):
                    filled = [
                        tuple(_filled(n, match.groups()) for n in x) for x in (released, names)
                    ]
                    steps[filled[1]] = Step(filled[0], filled[1], rule.way, also)
    covered = [name for step in steps.values() for name in step.own]
    lost = sorted({*own} - {*covered})
    if lost or len(covered) != len({*covered}):
        raise BraidError(
            f"family {family.name!r} maps {len(lost)} tensors of the model to nothing (first: "
            f"{lost[:1]}), or some of them twice; complete its rules"
        )
    return Plan([*steps.values()], patterns(family.ignored))


def part_plan(family: Family, part: Part, config: Config, own: Sequence[str]) -> Plan:
    """Return the plan between a release and the tensors of one of its frozen networks."""
    rules = part.rules(own)
    return plan(replace(family, name=part.name, rules=lambda _: rules), config, own)


def as_found(given: Plan, former: Mapping[str, str], names: Iterable[str]) -> Plan:
    """Return a plan with the released names as they are found: today's, or older ones."""
    there = set(names)

    def found(name: str) -> str:
        older = (
            before + name.removeprefix(now)
            for now, before in former.items()
            if name.startswith(now)
        )
        return name if name in there else next((n for n in older if n in there), name)

    steps = [replace(s, released=tuple(found(n) for n in s.released)) for s in given.steps]
    return Plan(steps, given.ignored)


def constants(*names: str, value: float = 0.0) -> list[Rule]:
    """Return rules for tensors of the model that no released one corresponds to."""
    return [Rule((), name, Constant(value)) for name in names]


def patterns(names: Iterable[str]) -> list[re.Pattern[str]]:
    """Return what matches names in which {} stands for a number."""
    return [_pattern(name) for name in names]


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace(re.escape("{}"), r"(\d+)"))


def _filled(name: str, numbers: Sequence[str]) -> str:
    return name.format(*numbers)
