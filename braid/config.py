"""Experiments as data.

Strict to load, complete to dump, and everything in them can be overridden by name.

A process, a sampler or a modality is written as {"kind": name, option: value, ...}; a bare name
means its defaults.
Options are checked when the experiment is made, by making the object.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from braid import rules, storage
from braid.braid import Braid
from braid.errors import BraidError, unknown
from braid.modalities import MODALITIES, Modality
from braid.processes import PROCESSES, MixturePath, Process
from braid.processes.schedules import SCHEDULES
from braid.samplers import SAMPLERS, Sampler, check
from braid.strand import Strand
from braid.transformer import Transformer, TransformerConfig

Options = dict[str, Any]


# noqa: ANN401
def make(registry: Mapping[str, type], what: str, options: Options | str, **fixed: object) -> Any:
    """Make an object from {"kind": name, ...}.

    An unknown kind or option is refused with the nearest valid name.
    """
    options = {"kind": options} if isinstance(options, str) else dict(options)
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or kind not in registry:
        raise unknown(what, str(kind), registry)
    cls = registry[kind]
    known = [p for p in inspect.signature(cls).parameters if p not in fixed]
    for name in options:
        if name not in known:
            raise unknown(f"option of {what} {kind!r}", name, known)
    options = {k: _typed(cls, k, v, f"{what} {kind!r}: {k}") for k, v in options.items()}
    try:
        return cls(**fixed, **options)
    except TypeError as e:
        raise BraidError(f"{what} {kind!r}: {e}") from e


def _typed(cls: type, name: str, value: object, where: str) -> object:
    """Return an option's value in the type that the class declares for it."""
    kind = typing.get_type_hints(cls.__init__)[name]
    if typing.get_origin(kind) is Literal:
        return value  # the class knows the nearest name
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as e:
        raise BraidError(f"{where}: {e.errors()[0]['msg']}, got {str(value)[:80]!r}") from e


def describe(registry: Mapping[str, type], value: object) -> Options:
    """Turn a frozen dataclass back into {"kind".

    Name, ...} with the options that differ from their defaults.
    """
    kind = next(name for name, cls in registry.items() if type(value) is cls)
    options: Options = {"kind": kind}
    for f in dataclasses.fields(value):  # type: ignore[arg-type]
        x = getattr(value, f.name)
        if f.name == "path":
            options["path"] = _describe_path(x)
        elif x != f.default:
            options[f.name] = x
    return options


def _describe_path(path: object) -> Options:
    if isinstance(path, dict):
        return dict(path)  # a metric path that waits for its table
    if not isinstance(path, MixturePath):
        raise BraidError(
            "a metric path with a table of its own cannot be written into an experiment; let it "
            "take the modality's"
        )
    schedule = next(name for name, cls in SCHEDULES.items() if type(path.schedule) is cls)
    power = getattr(path.schedule, "power", None)
    return {
        "kind": "mixture",
        "source": path.source_kind,
        "schedule": schedule if power is None else f"{schedule}:{power:g}",
    }


_settled = ContextVar("settled", default=True)


@contextlib.contextmanager
def unsettled() -> Iterator[None]:
    """Describe parts without making them, since settings may exchange one that is not there.

    `override` makes what comes out of it.
    """
    token = _settled.set(False)
    try:
        yield
    finally:
        _settled.reset(token)


def _part(registry: Mapping[str, type], what: str) -> BeforeValidator:
    def validate(value: object) -> object:
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, dict):
            raise BraidError(f"expected a name or options of a {what}, got {value!r}")
        if not _settled.get():
            return value
        fixed = {"name": "x"} if registry is MODALITIES and "name" not in value else {}
        make(registry, what, value, **fixed)
        return value

    return BeforeValidator(validate)


ModalityOptions = Annotated[Options, _part(MODALITIES, "modality")]
ProcessOptions = Annotated[Options, _part(PROCESSES, "process")]
SamplerOptions = Annotated[Options, _part(SAMPLERS, "sampler")]


Share = Annotated[float, Field(ge=0, lt=1)]


class Model(BaseModel):
    """Base of what an experiment is made of: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StrandConfig(Model):
    """One modality and its process."""

    modality: ModalityOptions
    process: ProcessOptions | None = None
    """None: context only."""
    sampler: SamplerOptions | None = None
    """None: the first that suits the process."""
    weight: float = Field(default=1.0, ge=0)
    """Factor of its loss."""
    tied: bool = False
    """Share the embedding's rows with the head."""

    @model_validator(mode="after")
    def _sampler_suits(self) -> StrandConfig:
        if self.sampler is not None and self.process is not None:
            check(make(SAMPLERS, "sampler", self.sampler), make(PROCESSES, "process", self.process))
        return self


OF_A_MIXTURE = ("row", "workers", "bad_limit")
"""Settings of data that a mixture has as a whole; the others belong to its parts."""


class DataConfig(Model):
    """Where documents come from, and what is learned from them."""

    source: str = "digits"
    """"digits" (scikit-learn's handwritten digits), "scenes", "toy", or "files"."""
    path: str | list[str] | None = None
    """For "files".

    Parquet, Arrow, CSV, JSONL, text, a folder of pictures and captions, or a data set's id.
    """
    split: str | None = None
    """Split of a data set that has several, such as "train"."""
    validation: str | list[str] | None = None
    """Held-out data of the same kind; None holds out a share of the training data."""
    columns: dict[str, str] | None = None
    """Modality -> column; None infers them."""
    tasks: dict[str, float] = {"text_to_image": 1.0, "image_to_text": 1.0}
    """Task -> weight.

    "A_to_B" (B given A), "A_and_B_to_C", "B" alone, "A_with_B" (both learned, each at its own
    time), "infill_B" (some tokens of B given, and all else), "talk_B" (B is a
    conversation). A, B and C are modalities or names in `fields`."""
    fields: dict[str, str] = {}
    """Further column -> the modality that reads it, as {"question": "text"}."""
    mix: dict[str, DataConfig] = {}
    """Name -> data with tasks of its own, drawn by `weight`.

    Beside it only `row`, `workers` and `bad_limit` are read, and in its parts they are not."""
    weight: float = Field(default=1.0, ge=0)
    """Share of a mixture."""
    partner: DataConfig | None = None
    """Data from which each row gets the fields of a row that agrees with it in `agree_on`."""
    agree_on: dict[str, str] = {}
    """A field of this data -> the field of the partner that has to be equal."""
    partners: int = Field(default=1, ge=1)
    """Partners of each row; it comes once with each of them."""
    drop: float = Field(default=0.1, ge=0, lt=1)
    """Share of documents whose condition is left out, for guidance."""
    hold_out: float = Field(default=0.02, gt=0, lt=1)
    """Share of training data held out where there is no validation data."""
    bad_limit: float = Field(default=0.01, ge=0, le=1)
    """Largest share of unreadable rows of a source; above it the run stops."""
    match: tuple[str, str] | None = None
    """Two fields whose embeddings are pulled together, such as ["text", "image"], for retrieval."""
    workers: int = Field(default=0, ge=0)
    """Processes that read and encode rows beside training; with 0, a thread does."""
    row: int | None = Field(default=None, ge=1)
    """Pack documents into rows of this many tokens; None gives each document a row."""

    @property
    def named(self) -> dict[str, list[str]]:
        """What is read, by a data set's name or by its files, and the tasks of each."""
        if self.mix:
            found: dict[str, list[str]] = {}
            for part in self.mix.values():
                for name, tasks in part.named.items():
                    found[name] = [*dict.fromkeys([*found.get(name, []), *tasks])]
            return found
        if self.path is None:
            return {self.source: list(self.tasks)}
        paths = [self.path] if isinstance(self.path, str) else self.path
        return {", ".join(Path(p).name for p in paths): list(self.tasks)}

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> DataConfig:
        if self.source != "files" and not self.mix:
            unused = [n for n in ("path", "split", "validation", "columns") if getattr(self, n)]
            if unused:
                raise BraidError(
                    f"{unused[0]} is read only with source 'files', not {self.source!r}; add "
                    "data.source=files"
                )
        if any(part.mix for part in self.mix.values()):
            raise BraidError("a mixture holds sources, not mixtures; put all of them in one")
        if self.mix:
            self._nothing_is_ignored_in_a_mixture()
        if bool(self.partner) != bool(self.agree_on):
            raise BraidError("partner and agree_on belong together; give both or neither")
        if self._differs("partners") and not self.partner:
            raise BraidError(
                f"partners {self.partners} is not read without a partner; give data.partner, or "
                "leave it out"
            )
        if self._differs("hold_out") and (self.validation or self.source != "files"):
            held = "validation" if self.validation else f"source {self.source!r}"
            raise BraidError(
                f"hold_out {self.hold_out} is not read beside {held}, which has held-out data of "
                "its own; leave it out"
            )
        return self

    def _nothing_is_ignored_in_a_mixture(self) -> None:
        """Refuse what differs from its default where a mixture does not read it."""
        for name in type(self).model_fields:
            if name not in ("mix", *OF_A_MIXTURE) and self._differs(name):
                raise BraidError(
                    f"{name} {getattr(self, name)!r} is not read beside mix; give it to a part, as "
                    f"data.mix.{next(iter(self.mix))}.{name}, or leave it out"
                )
        for part, data in self.mix.items():
            for name in OF_A_MIXTURE:
                if data._differs(name):
                    raise BraidError(
                        f"mix.{part}.{name} {getattr(data, name)!r} is not read, as it is of the "
                        f"whole mixture; set data.{name} beside data.mix"
                    )

    def _differs(self, name: str) -> bool:
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return getattr(self, name) != default


class LoraConfig(Model):
    """Low-rank adapters: weights stay as they are, and small matrices beside them learn."""

    rank: int = Field(default=8, ge=1)
    """Rank of what is added to a matrix."""
    alpha: float = Field(default=16.0, gt=0)
    """What is added is scaled by alpha / rank."""
    within: tuple[str, ...] = Field(default=("transformer",), min_length=1)
    """Modules whose linear layers get adapters, and in which nothing else learns."""


def _lora(value: object) -> object:
    """Read a bare number as a rank."""
    return {"rank": value} if isinstance(value, int) and not isinstance(value, bool) else value


class TrainConfig(Model):
    """How long and how to train."""

    steps: int = Field(default=1000, ge=1)
    """Optimiser steps; the learning rate falls to its end over them."""
    minutes: float | None = Field(default=None, gt=0)
    """Wall-clock budget.

    With it the schedule runs over the budget, and `steps` is only an upper limit.
    """
    batch: int = Field(default=64, ge=1)
    """Documents in an optimiser step."""
    accumulate: int = Field(default=1, ge=1)
    """Forward passes in which a step's batch is handled."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon turns the matrices of the transformer's blocks (Jordan et al., 2024)."""
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    """Peak learning rate; muon learns well at three or four times that of adamw."""
    final_rate: float = Field(default=0.05, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""
    warmup: int = Field(default=50, ge=0)
    """Steps of linear warm-up."""
    betas: tuple[Share, Share] = (0.9, 0.98)
    """AdamW's decay rates."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decay of the weights of layers; embeddings, norms and biases are left alone."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    ema: float = Field(default=0.995, ge=0, lt=1)
    """Decay of the averaged weights that are used for sampling; 0 uses the last weights."""
    match_every: int = Field(default=4, ge=1)
    """Steps between steps that also match data.match."""
    match_pairs: int = Field(default=64, ge=2)
    """Pairs in such a step."""
    match_weight: float = Field(default=0.2, ge=0)
    """Factor of the matching loss."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the forward pass under autocast."""
    start: str | None = None
    """Run or saved model to start from: its tensors are taken where name and shape agree.

    A modality described as there keeps what it knows: the vocabulary is not fitted anew.
    """
    freeze: tuple[str, ...] = ()
    """What does not learn: strands, modules or patterns of parameters' names, such as "image",
    "transformer.blocks.0", "*.bias"."""
    rates: dict[str, Annotated[float, Field(gt=0)]] = {}
    """A strand, a module or a pattern -> factor of its learning rate; the last that fits counts."""
    lora: Annotated[LoraConfig | None, BeforeValidator(_lora)] = None
    """Adapters instead of the transformer's weights (needs peft); a bare number is their rank."""
    matmul: Literal["highest", "high", "medium"] = "highest"
    """Precision of float32 matrix products."""
    compile: bool = False
    """Compile the blocks with torch.compile."""
    log_every: int = Field(default=20, ge=1)
    """Steps between lines of metrics.jsonl."""
    save_every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""
    keep: int = Field(default=2, ge=1)
    """Verified checkpoints that are kept, the newest ones; with 2, one is always there to fall
    back on."""
    keep_every: int = Field(default=0, ge=0)
    """Steps between checkpoints that are kept for ever; 0 keeps none."""
    save_in_background: bool = False
    """Write checkpoints beside training; an error is raised at the next step."""
    on_save_error: Literal["stop", "warn"] = "stop"
    """What follows a checkpoint that cannot be written."""
    bad_steps: int = Field(default=10, ge=1)
    """Steps in a row whose loss or gradient is not finite, before the run goes back to its last
    checkpoint and on with later data; each of them is skipped by all ranks."""
    rollbacks: int = Field(default=3, ge=0)
    """How often a run goes back before it gives up."""
    spike: float | None = Field(default=None, gt=0)
    """Skip steps whose gradient norm is this many deviations (median absolute deviation, scaled)
    above the median of the last 100; none looks for no spikes."""
    profile: bool = False
    """Write where the time of a few early steps goes to the run's folder: profile/table.txt, and
    profile/trace.json for a viewer of traces."""
    log_samples: bool = False
    """Write which rows of which source each reported step used to metrics.jsonl."""
    loggers: tuple[Literal["tensorboard", "trackio"], ...] = ()
    """Where metrics go beside metrics.jsonl; none of them can stop a run."""
    preview_every: int = Field(default=500, ge=0)
    """Steps between drawn previews; 0 draws none."""


class ParallelConfig(Model):
    """How a run is laid over processes; torchrun says how many there are.

    None of it changes what is learned: a run may go on with other values.
    """

    shard: int | None = Field(default=None, ge=1)
    """Ranks over which parameters are sharded (FSDP2); the others repeat them. None is all."""
    tensor: int = Field(default=1, ge=1)
    """Ranks over which each matrix of a block is split."""
    recompute: bool = False
    """Compute a block's activations again in the backward pass, to save memory."""
    offload: bool = False
    """Keep sharded parameters and the optimiser's state in the host's memory."""
    seconds: float = Field(default=600.0, gt=0)
    """Time after which a rank that waits for others gives up."""


class EvaluateConfig(Model):
    """How a model is evaluated."""

    suite: str = "pairs"
    """"digits" judges drawings with a classifier trained on real digits.

    "pairs" knows no classifier.
    """
    steps: int = Field(default=16, ge=1)
    """Sampling steps of guided drawings."""
    guidance: float = Field(default=2.0, ge=0)
    """Guidance of guided drawings."""
    drawings: int = Field(default=500, ge=1)
    """Number of guided drawings."""
    unguided: int = Field(default=1000, ge=2)
    """Number of drawings at guidance 1 with 32 steps, for the Frechet distance."""
    limit: int | None = Field(default=None, ge=1)
    """Use only this many held-out examples."""
    judge: str | None = None
    """Folder of the classifier that judges drawings; one is trained and saved if it is missing."""
    judge_seconds: float = Field(default=120.0, gt=0)
    """How long such a classifier is trained."""


class Experiment(Model):
    """Everything that fixes a run."""

    name: str
    seed: int = Field(default=0, ge=0, lt=2**31)
    strands: dict[str, StrandConfig] = Field(min_length=1)
    rule: str
    transformer: TransformerConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    parallel: ParallelConfig = ParallelConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _rule_known(self) -> Experiment:
        rules.get(self.rule)
        return self

    @model_validator(mode="after")
    def _something_learns(self) -> Experiment:
        made = [s for s in self.strands.values() if s.process is not None]
        if made and not any(s.weight for s in made):
            raise BraidError("every strand has the weight 0, so that nothing is learned; raise one")
        return self

    def save(self, path: Path) -> None:
        """Write the experiment as JSON."""
        storage.write_json(path, self.model_dump(mode="json"))


def build(
    experiment: Experiment, states: Mapping[str, Mapping[str, Any]], undrawn: bool = False
) -> Braid:
    """Make the model of an experiment.

    Args:
        experiment: what to build.
        states: modality -> what `Modality.state` returned (vocabularies and the like).
        undrawn: leave the weights without numbers, for `storage.fill`.
    """
    place = storage.undrawn if undrawn else contextlib.nullcontext
    strands = {}
    for name, config in experiment.strands.items():
        modality = make_modality(name, config)
        modality.load_state(dict(states.get(name, {})))
        process, sampler = make_process(config), make_sampler(config)
        if process is not None:
            process = process.bind(modality)  # its tables are real
        width = experiment.transformer.width
        with place():
            strands[name] = Strand(modality, process, width, sampler, config.weight, config.tied)
    with place():
        return Braid(strands, Transformer(experiment.transformer), experiment.rule, experiment)


def make_modality(name: str, config: StrandConfig) -> Modality:
    """Make the modality of a strand."""
    return make(MODALITIES, "modality", config.modality, name=name)


def make_process(config: StrandConfig) -> Process | None:
    """Make the process of a strand."""
    return None if config.process is None else make(PROCESSES, "process", config.process)


def make_sampler(config: StrandConfig) -> Sampler | None:
    """Make the sampler of a strand."""
    return None if config.sampler is None else make(SAMPLERS, "sampler", config.sampler)
