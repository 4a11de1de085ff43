"""Published systems as assignments: which process generates each modality, and who sees whom.

Each function returns a `Paradigm`; nothing else in the library knows these names. Modalities that
an experiment does
not have are left out, and any other assignment can be written down in the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from braid.errors import unknown
from braid.processes import Autoregressive, DiscreteFlow, GaussianFlow, Masked, Process
from braid.samplers import DDPM, Confidence, Euler, Jump, NextToken, Sampler


@dataclass(frozen=True)
class Paradigm:
    """An assignment of processes to modalities, and an attention rule.

    Attributes:
        processes: modality -> process; None is context only.
        rule: name of the attention rule.
        samplers: modality -> default sampler.
        source: where it is described.
    """

    processes: dict[str, Process | None]
    rule: str
    samplers: dict[str, Sampler] = field(default_factory=dict)
    source: str = ""


def fudoki() -> Paradigm:
    """Discrete flow, metric paths for text and images, all tokens see all (arXiv:2505.20147)."""
    flow = DiscreteFlow(path="metric")
    text = replace(flow, early=3.0)  # symbols that are all equally far apart are decided early
    samplers: dict[str, Sampler] = {"text": Jump(temperature=0.0), "image": Jump(steps=32)}
    return Paradigm(
        {"text": text, "image": flow, "vision": None}, "full", samplers, "arXiv:2505.20147"
    )


def transfusion() -> Paradigm:
    """Next-token text, diffusion on continuous images (arXiv:2408.11039)."""
    image = GaussianFlow(schedule="cosine", prediction="noise", noise_limit=0.5)
    samplers: dict[str, Sampler] = {"text": NextToken(temperature=0.0), "image": DDPM(steps=32)}
    return Paradigm(
        {"text": Autoregressive(), "image": image}, "spans", samplers, "arXiv:2408.11039"
    )


def chameleon() -> Paradigm:
    """Next-token text and next-token image codes (arXiv:2405.09818)."""
    token = Autoregressive(z_loss=1e-5)
    samplers: dict[str, Sampler] = {
        "text": NextToken(temperature=0.0),
        "image": NextToken(top_p=0.95),
    }
    return Paradigm({"text": token, "image": token}, "spans", samplers, "arXiv:2405.09818")


def mmada() -> Paradigm:
    """Masked diffusion of text and image codes, all tokens see all (arXiv:2505.15809)."""
    image = Masked(weighting="maskgit", schedule="cosine")
    samplers: dict[str, Sampler] = {
        "text": Confidence(temperature=0.0),
        "image": Confidence(steps=16, choice_temperature=4.0),
    }
    return Paradigm(
        {"text": Masked(weighting="llada"), "image": image}, "full", samplers, "arXiv:2505.15809"
    )


def showo() -> Paradigm:
    """Next-token text, masked image codes (arXiv:2408.12528)."""
    image = Masked(weighting="maskgit", schedule="cosine")
    samplers: dict[str, Sampler] = {
        "text": NextToken(temperature=0.0),
        "image": Confidence(steps=16, choice_temperature=4.0),
    }
    return Paradigm(
        {"text": Autoregressive(), "image": image}, "spans", samplers, "arXiv:2408.12528"
    )


def dfm_fm() -> Paradigm:
    """Discrete flow for text, continuous flow matching for images, all tokens see all."""
    samplers: dict[str, Sampler] = {"text": Jump(temperature=0.0), "image": Euler(steps=32)}
    return Paradigm(
        {"text": DiscreteFlow(path="uniform", early=2.0), "image": GaussianFlow()},
        "full",
        samplers,
        "arXiv:2407.15595 and arXiv:2210.02747",
    )


def llava() -> Paradigm:
    """Next-token text that reads features of a frozen vision encoder (arXiv:2310.03744)."""
    return Paradigm(
        {"text": Autoregressive(), "vision": None},
        "spans",
        {"text": NextToken(temperature=0.0)},
        "arXiv:2310.03744",
    )


def blockdiff() -> Paradigm:
    """Masked text in blocks that see clean history, images as flows (arXiv:2503.09573)."""
    samplers: dict[str, Sampler] = {"text": Confidence(temperature=0.0), "image": Euler(steps=32)}
    return Paradigm(
        {"text": Masked(size_of_block=2), "image": GaussianFlow()},
        "spans",
        samplers,
        "arXiv:2503.09573",
    )


def with_sound(name: str | Paradigm) -> Paradigm:
    """Return a paradigm whose sound is generated as its pictures are, if it draws any."""
    paradigm = get(name)
    if "audio" in paradigm.processes or "image" not in paradigm.processes:
        return paradigm
    samplers = dict(paradigm.samplers)
    if "image" in samplers:
        samplers["audio"] = samplers["image"]
    processes = {**paradigm.processes, "audio": paradigm.processes["image"]}
    return replace(paradigm, processes=processes, samplers=samplers)


PARADIGMS: dict[str, Callable[[], Paradigm]] = {
    f.__name__: f for f in (fudoki, transfusion, chameleon, mmada, showo, dfm_fm, llava, blockdiff)
}


def get(name: str | Paradigm) -> Paradigm:
    """Return a paradigm by name."""
    if isinstance(name, Paradigm):
        return name
    if name not in PARADIGMS:
        raise unknown("paradigm", name, PARADIGMS)
    return PARADIGMS[name]()
