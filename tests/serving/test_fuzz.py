"""Whatever is sent, the server answers what was wrong, and serves the next one as before."""

from __future__ import annotations

import base64
import copy
import io
import json
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from braid import Hole
from braid.modalities.sounds import Sound
from braid.serving import media
from braid.serving.limits import Limits
from tests.serving.live import error
from tests.serving.whole import Answer, Whole, whole

LIMITS = Limits(
    body_bytes=400_000, tokens=64, steps=4, results=3, prompt_characters=2000, seconds=30
)
TELLTALE = re.compile(r"Traceback|0x[0-9a-f]{7}|site-packages|\.py\b|/(usr|tmp|home|etc|work)/")


def picture(size: int = 32, form: str = "PNG", mode: str = "RGB") -> bytes:
    """Return a picture's file."""
    file = io.BytesIO()
    levels = np.random.default_rng(0).integers(0, 256, (size, size, 4), dtype=np.uint8)
    Image.fromarray(levels).convert(mode).save(file, form)
    return file.getvalue()


def tone() -> bytes:
    """Return a sound's file."""
    return media.wav(Sound(0.5 * np.sin(np.arange(2400) / 5, dtype=np.float32), 8000))


def in_base64(data: bytes) -> str:
    """Return a file in base64."""
    return base64.b64encode(data).decode()


LOOK_ALIKES = [
    *("<image>", "<end>", "<audio>", "<text>", "<|endoftext|>", "<|im_start|>", "<s>", "</s>"),
    *("<eos>", "<pad>", "[MASK]", "<|image|>", "<image><image>", "a<end>b", "<|vision_start|>"),
]

HOLE = {"type": "hole", "modality": "image"}
TEXT = {"type": "text", "text": "a red circle"}
JSON: list[tuple[str, dict[str, Any]]] = [
    ("/v1/generate", {"parts": [TEXT, HOLE], "seed": 3, "steps": 2, "guidance": 2.0, "n": 2}),
    (
        "/v1/generate",
        {
            "parts": [
                {"type": "image", "image": in_base64(picture())},
                {"type": "hole", "modality": "text", "shape": 12},
            ],
            "stop": ["end"],
            "stream": True,
        },
    ),
    (
        "/v1/generate",
        {
            "parts": [
                TEXT,
                HOLE
                | {
                    "shape": [4, 4],
                    "draft": {"type": "image", "image": in_base64(picture(form="JPEG"))},
                    "keep": [[True, False, True, False]] * 4,
                },
            ],
            "sampler": {"kind": "jump", "steps": 2, "temperature": 0.5, "top_k": 3},
            "temperature": 0.7,
            "previews": 1,
            "stream": True,
            "image_format": "webp",
        },
    ),
    (
        "/v1/generate",
        {
            "parts": [
                TEXT,
                HOLE | {"draft": {"type": "image", "image": in_base64(picture())}, "start": 0.5},
                {"type": "hole", "modality": "audio"},
            ],
            "sampler": {"kind": "jump", "steps": 2},
        },
    ),
    (
        "/v1/chat/completions",
        {
            "model": "mini",
            "messages": [
                {"role": "system", "content": "describe it"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what is it?"},
                        {
                            "type": "image_url",
                            "image_url": {
                                "url": "data:image/png;base64," + in_base64(picture()),
                            },
                        },
                        {"type": "input_audio", "input_audio": {"data": in_base64(tone())}},
                    ],
                },
            ],
            "max_tokens": 12,
            "stop": "x",
            "n": 1,
            "temperature": 1.0,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "two boats"}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "seed": 1,
        },
    ),
    (
        "/v1/images/generations",
        {
            "prompt": "a blue square",
            "n": 2,
            "size": "32x32",
            "seed": 5,
            "response_format": "b64_json",
            "output_format": "jpeg",
        },
    ),
    (
        "/v1/images/generations",
        {
            "prompt": "a blue square",
            "stream": True,
            "partial_images": 1,
            "guidance_scale": 1.5,
            "num_inference_steps": 3,
        },
    ),
    ("/v1/audio/speech", {"input": "one two", "response_format": "wav", "voice": "default"}),
    ("/v1/embeddings", {"input": ["one", "two"], "encoding_format": "base64"}),
    ("/v1/embeddings", {"input": "a text"}),
    (
        "/v1/score",
        {
            "parts": [TEXT, {"type": "image", "image": in_base64(picture())}],
            "times": 2,
            "seed": 4,
        },
    ),
]
"""Valid requests in JSON."""

File = tuple[str, str | None, bytes, str | None]
"""Name, name of the file or None, content and type of a form's part."""

FORMS: list[tuple[str, list[File]]] = [
    (
        "/v1/images/edits",
        [
            ("prompt", None, b"a red circle", None),
            ("image", "a.png", picture(), "image/png"),
            ("mask", "b.png", picture(mode="RGBA"), "image/png"),
            ("seed", None, b"3", None),
            ("n", None, b"2", None),
            ("steps", None, b"2", None),
        ],
    ),
    (
        "/v1/images/edits",
        [
            ("prompt", None, b"a red circle", None),
            ("image[]", "a.jpg", picture(form="JPEG"), "image/jpeg"),
            ("start", None, b"0.5", None),
            ("size", None, b"auto", None),
        ],
    ),
    (
        "/v1/audio/transcriptions",
        [
            ("file", "a.wav", tone(), "audio/wav"),
            ("prompt", None, b"it says", None),
            ("response_format", None, b"text", None),
            ("temperature", None, b"0.5", None),
        ],
    ),
]
"""Valid forms."""

LITERALS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "1e308",
    "-0",
    "1" * 400,
    "1" * 5000,
    "0.1e-400",
]
"""Numbers that Python would not write."""

ODD = [
    *(None, True, False, 0, 1, -1, 2, 3, 4, 5, 64, 65, 1e308, -1e308, 1e-308, 0.5, 0.999999999),
    *(2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400),
    *(
        "",
        " ",
        "\0",
        "\n\r\t",
        "\x1b[2J",
        "\u200b",
        "\u202e",
        "\ufeff",
        "\ud800",
        "\udfff",
        "a\ud800",
    ),
    *("0", "1", "1e6", "inf", "nan", "None", "true", "x" * 300, "x" * 3000, "\U0001f9ff" * 50),
    *(
        [],
        {},
        [[]],
        [None],
        [1, 2],
        [0, 0],
        [-1, 4],
        [4, 4],
        [10**6, 10**6],
        [10**30, 1],
        [4, 4, 4],
    ),
    *([True] * 16, [True] * 15, [[True, False], [True]], [[True] * 4] * 4, [[True] * 32] * 32),
    *(
        "jump",
        "euler",
        "ancestral",
        "next_token",
        "confidence",
        "heun",
        "ddpm",
        "dual:16",
        "prefix:4",
    ),
    *({"kind": "jump", "steps": "100000000"}, {"kind": "jump", "steps": 1e7}, {"kind": None}),
    *({"kind": "jump", "churn": 1e308}, {"kind": "jump", "temperature": -1}, {"kind": []}),
    *({"kind": "jump", "top_p": 0}, {"kind": "jump", "top_k": 10**30}, {"kind": "jump", "x": 1}),
    *(
        {"kind": "jump", "min_p": 1.0},
        {"kind": "jump", "temperature": 1e308},
        {"kind": "__class__"},
    ),
    *({"kind": "jump", "spacing": "distance"}, {"kind": "jump", "start": 0.5}, {"steps": 1}),
    *({"kind": "jump", "temperature": 1e-308}, {"kind": "jump", "top_p": 1e-308}),
    *(
        "data:,x",
        "data:image/png;base64,",
        "data:image/png;base64,!!!",
        "data:;base64,QUJD",
        "QUJD",
    ),
    *("http://127.0.0.1:1/a.png", "https://169.254.169.254/", "file:///a/b", "ftp://a/b"),
    *(
        "text",
        "image",
        "audio",
        "vision",
        "label",
        "hole",
        "assistant",
        "tool",
        "png",
        "flac",
        "url",
    ),
    *("0x0", "32x32x32", "-32x-32", "33x32", "64x64", "99999999999x32", "32X32", "\u0663\u0662x32"),
    *(
        {"type": "text", "text": "<image>"},
        {"type": "label", "label": 2**70},
        HOLE,
        TEXT,
        {"type": {}},
    ),
    *(
        in_base64(picture()[:200]),
        in_base64(picture(1)),
        in_base64(tone()[:50]),
        in_base64(b"GIF89a"),
    ),
    *(in_base64(picture(form="GIF")), in_base64(picture(form="JPEG")[:-300]), in_base64(tone())),
    *LOOK_ALIKES,
]
"""Values of every wrong kind and size, and a few right ones in wrong places."""


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every place in JSON: what holds it, and its key there."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [at for key in keys for at in [(value, key), *places(value[key])]]


def mutated(rng: random.Random) -> tuple[str, bytes, str]:
    """Return a request that may be wrong: its path, body and type."""
    if rng.random() < 0.3:
        return mutated_form(rng)
    path, body = copy.deepcopy(rng.choice(JSON))
    if rng.random() < 0.03:
        path = rng.choice(JSON + FORMS)[0]
    marks: dict[str, str] = {}

    def odd() -> Any:
        if rng.random() < 0.15:
            mark = f"@{len(marks)}@"
            marks[json.dumps(mark)] = rng.choice(LITERALS)
            return mark
        return copy.deepcopy(rng.choice(ODD))

    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        found = places(body)
        if not found:
            break
        holder, key = rng.choice(found)
        act = rng.random()
        if act < 0.62:
            holder[key] = odd()
        elif act < 0.72:
            del holder[key]
        elif act < 0.82 and isinstance(holder, dict):
            holder[rng.choice(["extra", "", "__proto__", "\ud800", "steps", "keep"])] = odd()
        elif act < 0.88 and isinstance(holder, list):
            holder *= rng.choice((2, 10, 70))
        elif act < 0.94:
            for _ in range(rng.choice((1, 5, 31, 40))):
                holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
        else:
            body = odd() if rng.random() < 0.3 else body
    text = json.dumps(body)
    for mark, literal in marks.items():
        text = text.replace(mark, literal)
    if rng.random() < 0.06 and text.startswith("{"):
        name = rng.choice(list(JSON[0][1]) + ["prompt", "model"])
        text = f'{{"{name}": {json.dumps(rng.choice(ODD))}, {text[1:]}'  # the last one counts
    return path, spoilt(text.encode(), rng), rng.choice(TYPES) if rng.random() < 0.1 else TYPES[0]


TYPES = [
    *(
        "application/json",
        "text/plain",
        "",
        "multipart/form-data",
        "application/x-www-form-urlencoded",
    ),
    *("multipart/form-data; boundary=", "application/json; charset=utf-16", "\xff/\xfe", "a" * 500),
]


def mutated_form(rng: random.Random) -> tuple[str, bytes, str]:
    """Return a form that may be wrong."""
    path, given = rng.choice(FORMS)
    parts = list(given)
    for _ in range(rng.choice((0, 1, 1, 2))):
        if not parts:
            break
        i = rng.randrange(len(parts))
        name, filename, content, kind = parts[i]
        act = rng.random()
        if act < 0.3:
            found = rng.choice([*ODD, *LITERALS])
            content = (found if isinstance(found, str) else json.dumps(found)).encode(
                "utf-8", "surrogatepass"
            )
        elif act < 0.45:
            content = content[: rng.randrange(len(content) + 1)]
        elif act < 0.55:
            content = rng.choice([picture(), tone(), b"", b"GIF89a", rng.randbytes(300)])
        elif act < 0.65:
            filename = rng.choice([None, "", "../../etc/passwd", "a\0b", "x" * 2000, "\u202e.png"])
        elif act < 0.75:
            name = rng.choice(
                ["", "image", "mask", "file", "x" * 500, "prompt", "sampler", "stream"]
            )
        elif act < 0.85:
            kind = rng.choice([None, "", "text/html; charset=utf-7", "image/png\tx"])
        parts[i] = (name, filename, content, kind)
        if act > 0.95:
            parts = parts * rng.choice((2, 17))  # 100 parts
        elif act > 0.9:
            del parts[i]
    boundary = "----edge"
    body = form(parts, boundary)
    kind = f"multipart/form-data; boundary={boundary}"
    if rng.random() < 0.12:
        kind = rng.choice(
            [
                *(
                    "multipart/form-data; boundary=other",
                    "multipart/form-data; boundary=" + "x" * 300,
                ),
                *(f"multipart/form-data; charset=nothing; boundary={boundary}", *TYPES),
            ]
        )
    return path, spoilt(body, rng), kind


def form(parts: list[File], boundary: str) -> bytes:
    """Return a form's body."""
    out = b""
    for name, filename, content, kind in parts:
        out += f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"'.encode()
        out += b"" if filename is None else f'; filename="{filename}"'.encode()
        out += b"" if kind is None else f"\r\ncontent-type: {kind}".encode()
        out += b"\r\n\r\n" + content + b"\r\n"
    return out + f"--{boundary}--\r\n".encode()


def spoilt(body: bytes, rng: random.Random) -> bytes:
    """Return a body of which, now and then, bytes are wrong."""
    if rng.random() > 0.08 or not body:
        return body
    at = rng.randrange(len(body))
    deep = rng.choice((100, 5000, 100_000))
    return rng.choice(
        [
            body[:at],
            body[:at] + rng.randbytes(3) + body[at + 3 :],
            body + body,
            b"[" * deep,
            b'{"a":' * deep,
            b"",
            body.decode("latin-1").encode("utf-16"),
            b"\xef\xbb\xbf" + body,
        ]
    )


def check(answer: Answer, what: object) -> str:
    """Check an answer against the law, and return its kind."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        last = answer.events()[-1]
        if last == "[DONE]" or ".completed" in last:
            return "stream"
        told = error(last.encode())
        assert told["type"] != "server_error", (what, told)
    elif answer.status == 200:
        if answer.headers["content-type"] == "application/json":
            answer.json()
        return "200"
    else:
        assert 400 <= answer.status < 500, (what, answer)
        assert answer.headers["content-type"] == "application/json", (what, answer)
        told = error(answer.body)
    assert isinstance(told["message"], str) and told["message"].strip(), (what, told)
    assert not TELLTALE.search(told["message"]), (what, told)
    assert len(told["message"]) < 510, what
    return f"{answer.status} {told['code']}"


def asked(live: Whole, seed: int) -> str:
    """Send a request of a seed, and return what came of it."""
    path, body, kind = mutated(random.Random(seed))
    what = (seed, path, kind, body[:600])
    try:
        answer = live.ask(path, body, content_type=kind.encode("latin-1").decode("latin-1"))
    except Exception as e:
        raise AssertionError(f"no answer to {what}") from e
    return check(answer, what)


def normal(live: Whole) -> list[bytes]:
    """Return what is in the answers to ordinary requests, without what differs by design."""
    found = []
    for path, body in JSON:
        fixed = {"seed": 7} if path == "/v1/score" else {"seed": 7, "stream": False, "previews": 0}
        fixed = fixed if path in ("/v1/generate", "/v1/score") else {"seed": 7, "stream": False}
        told = live.ask(path, body | fixed)
        assert told.status == 200, told
        same = re.sub(rb'"(id|created)":("[^"]*"|\d+),?', b"", told.body)
        found.append(same)
    for path, parts in FORMS:
        parts = [part for part in parts if part[0] != "seed"] + [("seed", None, b"7", None)]
        told = live.ask(path, form(parts, "e"), content_type="multipart/form-data; boundary=e")
        assert told.status == 200, told
        found.append(re.sub(rb'"(id|created)":("[^"]*"|\d+),?', b"", told.body))
    return found


def fuzz(seeds: range) -> Counter[str]:
    """Send requests of seeds, some at a time, and return how often what came of them."""
    with whole(limits=LIMITS) as live:
        before = normal(live)
        with ThreadPoolExecutor(6) as pool:
            kinds = Counter(pool.map(lambda seed: asked(live, seed), seeds))
        assert normal(live) == before
        assert live.settled()
        failures = [line for line in live.log.getvalue().splitlines() if '"traceback"' in line]
        assert not failures, failures[0]
    return kinds


def test_no_body_makes_the_server_fail():
    kinds = fuzz(range(300))
    # the requests reach both ends: some are served, and many are refused for many reasons
    assert kinds["200"] + kinds["stream"] > 30
    assert sum(n for kind, n in kinds.items() if kind.startswith("400")) > 100


@pytest.mark.slow
def test_no_body_of_five_thousand_makes_the_server_fail():
    kinds = fuzz(range(1000, 6_000))
    assert kinds["200"] + kinds["stream"] > 500 and len(kinds) >= 6


@pytest.fixture(scope="module")
def live():
    with whole(limits=LIMITS) as live:
        yield live


@pytest.mark.parametrize("steps", ["100000000", 1e8, [1], {}])
def test_a_sampler_takes_no_more_steps_than_a_request_may(live, steps):
    body = {"parts": [TEXT, HOLE], "sampler": {"kind": "jump", "steps": steps}}
    answer = live.ask("/v1/generate", body)
    assert answer.status == 400 and "sampler" in error(answer.body)["message"]


@pytest.mark.parametrize("kind", [[], {}, 1, None, "__class__", "x" * 100_000])
def test_a_sampler_that_is_none_is_refused_in_a_few_words(live, kind):
    answer = live.ask("/v1/generate", {"parts": [TEXT, HOLE], "sampler": {"kind": kind}})
    assert answer.status == 400 and len(error(answer.body)["message"]) < 600


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_what_looks_like_a_special_symbol_is_text(live, text):
    modality = live.pipe.braid.strand("text").modality
    assert {f"<{name}>" for name in modality.frames} | {"<end>"} <= {*LOOK_ALIKES}
    symbols = modality.symbols(text)
    assert max(symbols) < modality.end
    assert modality.tokenizer.decode(symbols, skip_special_tokens=False) == text

    parts = [{"type": "text", "text": text}, HOLE]
    told = live.ask("/v1/generate", {"parts": parts, "seed": 3, "steps": 1}).json()
    assert told["usage"]["prompt_tokens"] == len(symbols) + 1  # and what closes it
    (only,) = told["results"][0]["parts"]
    alone = live.pipe([text, Hole("image")], seed=3, steps=1)[1]
    got = Image.open(io.BytesIO(base64.b64decode(only["image"].partition(",")[2])))
    assert np.array_equal(np.asarray(got), np.asarray(alone))

    said = {"messages": [{"role": "user", "content": text}], "max_tokens": 12}
    told = live.ask("/v1/chat/completions", said).json()
    assert told["usage"]["prompt_tokens"] == len(symbols) + 1


def test_a_document_of_too_many_tokens_is_refused_before_it_is_read():
    long = {"type": "text", "text": "many words " * 30}
    with whole(limits=Limits(context=64)) as live:
        for path, body in (
            ("/v1/generate", {"parts": [long, HOLE]}),
            ("/v1/score", {"parts": [long]}),
            ("/v1/embeddings", {"input": ["short", long["text"]]}),
        ):
            answer = live.ask(path, body)
            assert (answer.status, error(answer.body)["code"]) == (400, "context_length_exceeded")
        assert live.ask("/v1/embeddings", {"input": "short"}).status == 200
