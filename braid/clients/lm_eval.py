"""The model `braid` of lm-eval (https://github.com/EleutherAI/lm-evaluation-harness).

lm-eval finds models only in its own list, so this module puts one there and then runs its command:

    python -m braid.clients.lm_eval --model braid --model_args pretrained=RUN --tasks hellaswag

or `braid lm-eval ...`; in Python, `braid.clients.lm_eval.register()` before `simple_evaluate`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from braid import loading
from braid.clients.continuing import Continuing, Wish
from braid.data.rows import require
from braid.errors import BraidError

ROWS = 16
"""Texts in a batch where lm-eval is asked for an automatic size."""


@functools.cache
def register() -> type:
    """Make `--model braid` known to lm-eval in this process; return its class.

    Raises:
        BraidError: lm-eval is not installed.
    """
    api = require("lm_eval.api.model", "lm-eval")
    registry = require("lm_eval.api.registry", "lm-eval")

    @registry.register_model("braid")
    class BraidLM(api.LM):
        """A model of braid, as lm-eval asks it.

        Args:
            pretrained: a run directory, a saved model, or a Hub id.
            device: where it runs.
            batch_size: texts in a batch.
            max_batch_size: not used; an automatic size is `ROWS`.
            turns: context and continuation are texts of their own, as in conversations.
            times: random times at which a likelihood that is a bound is measured.
            seed: of the bound's noise and of drawing.
            max_length: longest text in tokens; None is no limit.
            max_gen_toks: longest continuation where a task says nothing.
            steps: network calls of a parallel process.
            greedy: find out whether a continuation is the model's own where the likelihood is a
                bound, at the cost of a generation each.
            dtype: see `braid.load`.
            quantise: see `braid.load`.
            revision: see `braid.load`.
            token: see `braid.load`.
        """

        def __init__(
            self,
            pretrained: str,
            device: str | None = None,
            batch_size: int | str | None = None,
            max_batch_size: int | None = None,
            turns: bool = False,
            times: int = 32,
            seed: int = 0,
            max_length: int | None = None,
            max_gen_toks: int = 256,
            steps: int | None = None,
            greedy: bool = True,
            dtype: str | None = None,
            quantise: str | None = None,
            revision: str | None = None,
            token: str | None = None,
        ) -> None:
            super().__init__()
            pipe = loading.load(
                pretrained,
                _there(device),
                dtype=dtype,
                quantise=quantise,
                revision=revision,
                token=token,
            )
            self._device = pipe.braid.device
            self.name, self.tokens = pretrained, max_gen_toks
            self.model = Continuing(
                pipe,
                turns=turns,
                times=times,
                seed=seed,
                rows=_rows(batch_size),
                length=max_length,
                steps=steps,
                greedy=greedy,
            )

        @property
        def tokenizer_name(self) -> str:
            """The model itself, by which lm-eval tells its caches apart."""
            return self.name.replace("/", "__")

        def loglikelihood(
            self, requests: Sequence[Any], disable_tqdm: bool = False
        ) -> list[tuple[float, bool]]:
            """Return the log-likelihood of each continuation, and whether it is the model's own."""
            found = self.model.likelihoods([request.args for request in requests])
            out = [(one.nats, one.greedy) for one in found]
            for request, value in zip(requests, out, strict=True):
                self.cache_hook.add_partial("loglikelihood", request.args, value)
            return out

        def loglikelihood_rolling(
            self, requests: Sequence[Any], disable_tqdm: bool = False
        ) -> list[float]:
            """Return the log-likelihood of each text."""
            out = self.model.rolling([request.args[0] for request in requests])
            for request, value in zip(requests, out, strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
            return out

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            """Return a continuation of each context, up to where the task wants it to stop."""
            wishes = [wish(request.args[1], self.tokens) for request in requests]
            out = self.model.texts([request.args[0] for request in requests], wishes)
            for request, value in zip(requests, out, strict=True):
                self.cache_hook.add_partial("generate_until", request.args, value)
            return out

    return BraidLM


def wish(options: Mapping[str, Any], tokens: int) -> Wish:
    """Return a task's generation_kwargs as a wish; other sampling options are refused.

    Args:
        options: until, max_gen_toks, do_sample, temperature.
        tokens: longest continuation where the task says nothing.
    """
    known = ("until", "max_gen_toks", "max_new_tokens", "do_sample", "temperature")
    neutral = {"top_p": 1.0, "top_k": 0, "num_beams": 1, "repetition_penalty": 1.0}
    for name, value in options.items():
        if name not in known and neutral.get(name) != value:
            raise BraidError(
                f"generation_kwargs {name}={value!r} is not supported; use {', '.join(known)}"
            )
    until = options.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    given = options.get("temperature")
    sample = options.get("do_sample", bool(given))
    temperature = 1.0 if given is None else float(given)  # 0 is greedy, whatever do_sample says
    most = options.get("max_gen_toks") or options.get("max_new_tokens") or tokens
    return Wish(int(most), tuple(s for s in stops if s), temperature if sample else 0.0)


def _there(device: str | None) -> str | None:
    """Return a device; lm-eval says "cuda:0" of its own accord, also where there is none."""
    return None if device == "cuda:0" and not torch.cuda.is_available() else device


def _rows(size: int | str | None) -> int:
    if size is None or str(size).startswith("auto"):
        return ROWS
    try:
        return int(size)
    except ValueError as e:
        raise BraidError(f"batch_size {size!r} is no number; use one, or auto") from e


def main(arguments: Sequence[str] | None = None) -> None:
    """Run lm-eval's own command with the model `braid` among its models."""
    command = require("lm_eval.__main__", "lm-eval")
    register()
    given = sys.argv[1:] if arguments is None else list(arguments)
    before = sys.argv
    sys.argv = ["lm_eval", *given]  # lm-eval reads its arguments from nowhere else
    try:
        command.cli_evaluate()
    finally:
        sys.argv = before


if __name__ == "__main__":
    main()
