"""Every path of the server gives what the pipeline gives, in the words that it was asked in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import threading
import time
import wave
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image as PIL

import braid
from braid import Hole
from braid.modalities.sounds import Sound, open_sound
from braid.pipeline import Pipeline
from braid.processes import DiscreteFlow, Process
from braid.serving.asked import Served
from braid.serving.engine import Engine
from braid.serving.limits import Limits
from braid.serving.metrics import Metrics
from braid.serving.routes import Routes
from tests.laws import models
from tests.serving.live import KEY, Live, error, served

PROMPT = "a small red circle left of a large blue square"
LIMITS = Limits(prompt_characters=200, tokens=64, steps=100)


@contextlib.contextmanager
def serving(pipe: Pipeline, name: str, limits: Limits = LIMITS, keys=(KEY,)):
    engine = Engine(pipe)
    engine.start()
    app = Routes(engine, Served(pipe, name, limits), Metrics()).app()
    try:
        stop = {"drain": engine.drain, "idle": lambda: engine.idle}
        with served(app, limits=limits, keys=keys, **stop) as live:
            live.engine = engine
            yield live
    finally:
        engine.close()


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return braid.load("mini", "cpu")


@pytest.fixture(scope="module")
def mini(pipe):
    with serving(pipe, "mini") as live:
        yield live


@pytest.fixture(scope="module")
def toy():
    """A model without training that writes text symbol by symbol."""
    with serving(models.pipeline("transfusion"), "toy") as live:
        yield live


@pytest.fixture(scope="module")
def client(mini) -> openai.OpenAI:
    address = f"http://127.0.0.1:{mini.port}/v1"
    return openai.OpenAI(base_url=address, api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def picture(pipe) -> PIL.Image:
    return pipe([PROMPT, Hole("image")], guidance=2.0)[-1]


def png(picture: PIL.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def url(picture: PIL.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()


def opened(data: str) -> PIL.Image:
    return PIL.open(io.BytesIO(base64.b64decode(data.rpartition(",")[2])))


def post(live: Live, path: str, body: object) -> dict:
    status, _, answer = live.ask("POST", path, json.dumps(body))
    assert status == 200, answer
    return json.loads(answer)


def refused(live: Live, path: str, body: object, status: int = 400) -> dict:
    found, _, answer = live.ask("POST", path, json.dumps(body))
    assert found == status, answer
    return error(answer)


def events(live: Live, path: str, body: dict) -> list[dict]:
    """Return what a stream says; it ends as it should."""
    status, heads, answer = live.ask("POST", path, json.dumps(body | {"stream": True}))
    assert status == 200 and heads["content-type"].startswith("text/event-stream"), answer
    said = [line[6:] for line in answer.decode().split("\n") if line.startswith("data: ")]
    assert said[-1] == "[DONE]" or "completed" in said[-1]
    return [json.loads(line) for line in said if line != "[DONE]"]


def same(ours: PIL.Image, theirs: PIL.Image) -> bool:
    """Whether pictures agree to a grey level: what else is in a pass may round otherwise."""
    return int(np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max()) <= 1


def text(t: str) -> dict:
    return {"type": "text", "text": t}


def hole(modality: str, **more: object) -> dict:
    return {"type": "hole", "modality": modality, **more}


def test_what_is_served_says_what_it_is(mini):
    status, _, body = mini.ask("GET", "/v1/models")
    (model,) = json.loads(body)["data"]
    assert status == 200 and model["id"] == "mini"
    assert set(model["modalities"]) == {"text", "image", "audio"}
    assert model["limits"]["prompt_characters"] == 200
    assert mini.ask("GET", "/v1/models/mini")[0] == 200
    assert error(mini.ask("GET", "/v1/models/other")[2])["code"] == "model_not_found"
    assert mini.ask("GET", "/readyz", key=None)[0] == 200


def test_the_name_of_a_model_may_have_a_folder(pipe):
    with serving(pipe, "ada/mini") as live:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{live.port}/v1", api_key=KEY)
        assert client.models.retrieve("ada/mini").id == "ada/mini"


def test_a_document_of_any_parts_comes_back_as_the_pipeline_makes_it(mini, pipe, picture):
    body = {"parts": [text(PROMPT), hole("image")], "seed": 3, "n": 2, "steps": 8, "guidance": 2}
    made = post(mini, "/v1/generate", body)
    called = pipe([PROMPT, Hole("image")], seed=3, n=2, steps=8, guidance=2.0)
    for ours, theirs in zip(made["results"], called, strict=True):
        assert same(opened(ours["parts"][0]["image"]), theirs[1]) and ours["calls"] == 8
    assert made["seed"] == 3 and made["model"] == "mini"
    assert made["usage"]["completion_tokens"] == 2 * 16
    body = {"parts": [{"type": "image", "image": url(picture)}, hole("text")], "temperature": 0}
    (read,) = post(mini, "/v1/generate", body)["results"]
    assert read["parts"] == [{"part": 1, "type": "text", "text": PROMPT, "closed": True}]


def test_without_a_seed_results_differ_and_say_theirs(mini):
    body = {"parts": [text("a red circle"), hole("image")], "steps": 2}
    one, two = (post(mini, "/v1/generate", body) for _ in range(2))
    assert one["seed"] != two["seed"]
    assert max(one["seed"], two["seed"]) < 2**53, "a float would hold it"
    again = post(mini, "/v1/generate", body | {"seed": one["seed"]})
    drawn = [opened(x["results"][0]["parts"][0]["image"]) for x in (one, again)]
    assert same(*drawn)


def test_a_draft_is_held_where_it_is_kept(mini, pipe, picture):
    keep = [[column < 2 for column in range(4)] for _ in range(4)]
    draft = {"type": "image", "image": url(picture)}
    body = {"parts": [text(PROMPT), hole("image", draft=draft, keep=keep)], "seed": 1, "steps": 4}
    (made,) = post(mini, "/v1/generate", body)["results"]
    ours = Hole("image", draft=picture, keep=np.array(keep))
    assert same(opened(made["parts"][0]["image"]), pipe([PROMPT, ours], seed=1, steps=4)[1])
    mask = PIL.new("L", picture.size)
    mask.paste(255, (0, 0, 16, 32))
    masked = body | {"parts": [text(PROMPT), hole("image", draft=draft, keep=url(mask))]}
    (again,) = post(mini, "/v1/generate", masked)["results"]
    assert again == made


def test_a_stream_shows_what_is_being_drawn_and_ends_with_all_of_it(mini):
    body = {"parts": [text(PROMPT), hole("image")], "seed": 3, "steps": 8}
    *previews, last = events(mini, "/v1/generate", body | {"previews": 3})
    assert [e["call"] for e in previews] == [2, 4, 6]
    assert all(opened(e["belief"]["image"]).size == (32, 32) for e in previews)
    whole = post(mini, "/v1/generate", body)
    assert last["results"] == whole["results"]


def test_text_is_streamed_as_it_is_written(toy):
    body = {"parts": [text("row"), hole("text", shape=40)], "seed": 2, "n": 2, "temperature": 2}
    *pieces, last = events(toy, "/v1/generate", body)
    whole = [r["parts"][0]["text"] for r in post(toy, "/v1/generate", body)["results"]]
    assert [r["parts"][0]["text"] for r in last["results"]] == whole
    for i, expected in enumerate(whole):
        said = [e["text"] for e in pieces if e["result"] == i]
        assert "".join(said) == expected
    assert len(pieces) > 4, "symbol by symbol"


@pytest.mark.parametrize("stream", [False, True])
def test_a_text_ends_before_its_stop(toy, stream):
    body = {"messages": [{"role": "user", "content": "row"}], "seed": 2, "max_tokens": 40}
    body["temperature"] = 2
    (choice,) = post(toy, "/v1/chat/completions", body)["choices"]
    whole = choice["message"]["content"]
    stop = whole[len(whole) // 2 :][:3]
    body["stop"] = [stop, "neverever"]
    expected = whole[: whole.index(stop)]
    if not stream:
        (choice,) = post(toy, "/v1/chat/completions", body)["choices"]
        assert choice["message"]["content"] == expected and choice["finish_reason"] == "stop"
        return
    told = events(toy, "/v1/chat/completions", body)
    deltas = [c["delta"].get("content", "") for e in told for c in e["choices"]]
    assert "".join(deltas) == expected
    assert told[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stop", [[], list("aeio")])
def test_a_stream_says_once_who_speaks(toy, stop):
    body = {"messages": [{"role": "user", "content": "row"}], "seed": 2, "n": 2}
    told = events(toy, "/v1/chat/completions", body | {"temperature": 2, "stop": stop})
    for index in range(2):
        said = [c["delta"] for e in told for c in e["choices"] if c["index"] == index]
        assert [delta.get("role") for delta in said] == ["assistant"] + [None] * (len(said) - 1)


def test_openais_client_draws_reads_speaks_and_listens(client, pipe, picture):
    drawn = client.images.generate(
        model="mini", prompt=PROMPT, n=1, extra_body={"guidance_scale": 2.0, "seed": 0}
    )
    assert drawn.data and same(opened(drawn.data[0].b64_json or ""), picture)
    content = [{"type": "image_url", "image_url": {"url": url(picture)}}]
    told = client.chat.completions.create(
        model="mini", messages=[{"role": "user", "content": content}], temperature=0
    )
    assert told.choices[0].message.content == PROMPT and told.choices[0].finish_reason == "stop"
    assert told.usage and told.usage.prompt_tokens == 16 and told.usage.completion_tokens == 12
    spoken = client.audio.speech.create(
        model="mini",
        input="theo says seven",
        voice="default",
        response_format="wav",
        extra_body={"guidance": 1.5, "seed": 0},
    )
    with wave.open(io.BytesIO(spoken.content)) as file:
        rate, n = file.getframerate(), file.getnframes()
        heard = np.frombuffer(file.readframes(n), "<i2") / 32768
    alone = pipe(["theo says seven", Hole("audio")], guidance=1.5, seed=0)[-1]
    assert rate == alone.rate
    assert np.abs(heard - open_sound(alone, rate).numpy()).max() < 2e-3
    written = client.audio.transcriptions.create(
        model="mini", file=("a.wav", spoken.content), temperature=0, extra_body={"seed": 0}
    )
    assert written.text == pipe([alone, Hole("text")], temperature=0.0, seed=0)[-1]


def test_openais_client_streams(client, picture):
    seen = list(
        client.images.generate(
            model="mini",
            prompt=PROMPT,
            stream=True,
            partial_images=2,
            extra_body={"seed": 0, "guidance": 2.0},
        )
    )
    assert [e.type.rpartition(".")[2] for e in seen] == ["partial_image"] * 2 + ["completed"]
    assert [getattr(e, "partial_image_index", None) for e in seen] == [0, 1, None]
    assert same(opened(seen[-1].b64_json), picture)
    content = [{"type": "image_url", "image_url": {"url": url(picture)}}]
    chunks = list(
        client.chat.completions.create(
            model="mini",
            messages=[{"role": "user", "content": content}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    said = [c.delta.content for chunk in chunks for c in chunk.choices if c.delta.content]
    assert "".join(said) == PROMPT
    assert chunks[-1].usage and chunks[-1].usage.total_tokens == 28


def test_openais_client_edits_completes_and_refines(client, pipe, picture):
    def edit(**more):
        drawn = client.images.edit(model="mini", image=("a.png", png(picture)), **more)
        return opened(drawn.data[0].b64_json)

    prompt = "make the red circle green"
    asked = {"seed": 4, "steps": 4}
    changed = edit(prompt=prompt, extra_body=asked)
    assert same(changed, pipe([picture, prompt, Hole("image")], **asked)[-1])
    mask = PIL.new("RGBA", picture.size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (16, 0, 32, 32))
    completed = edit(prompt=PROMPT, mask=("m.png", png(mask)), extra_body=asked)
    held = np.arange(4)[None].repeat(4, 0) < 2
    ours = pipe([PROMPT, Hole("image", draft=picture, keep=held)], **asked)[-1]
    assert same(completed, ours)
    refined = edit(prompt=PROMPT, extra_body=asked | {"start": 0.5})
    assert same(refined, pipe([PROMPT, Hole("image", draft=picture, start=0.5)], **asked)[-1])


def test_the_program_of_the_documentation_runs(mini, capsys):
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    program = page.split("```python\n")[1].split("```")[0]
    program = program.replace(":8000", f":{mini.port}").replace('"none"', repr(KEY))
    exec(compile(program, "serving.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "one"


def test_texts_have_vectors_and_documents_a_likelihood(client, mini, pipe, picture):
    texts = ["a red circle", PROMPT]
    for form in ("float", "base64"):
        found = client.embeddings.create(model="mini", input=texts, encoding_format=form)
        for one, told in zip(texts, found.data, strict=True):
            vector = told.embedding
            if isinstance(vector, str):
                vector = np.frombuffer(base64.b64decode(vector), "<f4")
            np.testing.assert_allclose(vector, pipe.embed([one]).numpy(), rtol=1e-4, atol=1e-5)
    parts = [{"type": "image", "image": url(picture)}, text(PROMPT)]
    made = post(mini, "/v1/score", {"parts": parts, "times": 2, "seed": 1})
    alone = pipe.score([picture, PROMPT], times=2, seed=1)
    assert [s["kind"] for s in made["scores"]] == [s.kind for s in alone]
    for ours, theirs in zip(made["scores"], alone, strict=True):
        assert ours["nats"] == pytest.approx(float(theirs.value.sum()), rel=1e-4)


def test_a_likelihood_that_is_not_known_is_null(mini, monkeypatch):
    monkeypatch.setattr(DiscreteFlow, "bound", Process.bound)
    (told,) = post(mini, "/v1/score", {"parts": [text(PROMPT)], "times": 2})["scores"]
    assert told == {"nats": None, "symbols": told["symbols"], "kind": "none"}


DRAW = {"parts": [text("a"), hole("image")]}


def test_the_names_of_diffusers_serve_too(mini):
    ours = post(mini, "/v1/generate", DRAW | {"seed": 1, "steps": 3, "guidance": 2})
    names = {"num_inference_steps": 3, "guidance_scale": 2}
    theirs = post(mini, "/v1/generate", DRAW | {"seed": 1} | names)
    assert ours["results"] == theirs["results"]


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"n": 11}, "n", "more than this server's 10"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"steps": 101}, "steps", "more than this server's 100"),
        ({"sampler": {"kind": "jump", "steps": 101}}, "sampler", "more than this server's 100"),
        ({"steps": 2, "num_inference_steps": 2}, "steps", "two names of one option"),
        ({"sampler": "jumpp"}, None, "did you mean 'jump'"),
        ({"cache": "dual:" + "9" * 5000}, None, "is not understood"),
        ({"guidance": -1}, "guidance", "greater than or equal to 0"),
        ({"step": 3}, "step", "Extra inputs"),
        ({"model": "other"}, "model", "use 'mini'"),
        ({"parts": [text("x" * 201), hole("image")]}, None, "201 characters"),
        ({"parts": [text("a")]}, None, "at least one hole"),
        ({"parts": [text("a"), hole("imag")]}, None, "did you mean 'image'"),
        ({"parts": [text("a"), hole("text", shape=65)]}, None, "more than this server's 64"),
        ({"parts": [text("a"), hole("image", shape=[9, 9])]}, None, "at most"),
        ({"parts": [text(""), hole("image")]}, None, "the text is empty"),
        (
            {"parts": [{"type": "image", "image": "http://127.0.0.1/x.png"}, hole("text")]},
            "parts.0.image",
            "this server fetches nothing",
        ),
        ({"parts": [{"type": "label", "label": 3}, hole("image")]}, "label", "no label"),
        ({"stop": ["a"] * 5}, "stop", "more than this server's 4"),
    ],
)  # fmt: skip
def test_a_wrong_request_names_the_field_and_the_remedy(mini, change, param, words):
    told = refused(mini, "/v1/generate", DRAW | change, 404 if "model" in change else 400)
    assert told["param"] == param or param is None
    assert words in told["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"tools": [{"type": "function"}]}, "tools"),
        ("/v1/chat/completions", {"top_p": 0.5}, "top_p"),
        ("/v1/chat/completions", {"response_format": {"type": "json_object"}}, "response_format"),
        ("/v1/images/generations", {"negative_prompt": "blue"}, "negative_prompt"),
        ("/v1/images/generations", {"response_format": "url"}, "response_format"),
        ("/v1/images/generations", {"size": "1024x1024"}, None),
        ("/v1/images/generations", {"size": "33x32"}, "size"),
        ("/v1/images/generations", {"steps": 2, "num_inference_steps": 3}, "steps"),
        ("/v1/audio/speech", {"voice": "alloy"}, "voice"),
        ("/v1/audio/speech", {"response_format": "mp3"}, "response_format"),
        ("/v1/images/generations", {"start": 0.5}, "start"),
        ("/v1/embeddings", {"dimensions": 3}, "dimensions"),
    ],
)
def test_what_braid_cannot_do_is_refused_by_name(mini, path, body, param):
    asked = {
        "messages": [{"role": "user", "content": "a"}],
        "prompt": "a red circle",
        "input": "a red circle",
    }
    told = refused(mini, path, asked | body)
    assert told["param"] == param


def test_nothing_of_a_client_is_taken_for_the_name_of_a_file(mini, picture, tmp_path):
    picture.save(tmp_path / "secret.png")
    Sound(np.sin(np.arange(8000) / 5, dtype=np.float32), 8000).save(tmp_path / "secret.wav")
    keep = [True] * 16
    for path in (str(tmp_path / "secret.png"), str(tmp_path / "secret.wav"), "/etc/passwd", "/no"):
        for part in (text(path), {"type": "label", "label": path}):
            for name in ("image", "audio"):
                given = part | {"modality": name}
                wanted = {"parts": [given, hole("text")]}
                told = refused(mini, "/v1/generate", wanted)
                assert f"is nothing that '{name}' reads" in told["message"]
                refused(mini, "/v1/score", {"parts": [given]})
                drafted = hole(name, draft=given, keep=keep)
                told = refused(mini, "/v1/generate", {"parts": [text("a"), drafted]})
                assert "is nothing that" in told["message"]
            bare = hole("image", draft=text(path), keep=keep)
            refused(mini, "/v1/generate", {"parts": [text("a"), bare]})
    shown = {"type": "image", "image": url(picture)}
    for given in (shown | {"modality": "text"}, shown | {"modality": "audio"}):
        refused(mini, "/v1/generate", {"parts": [given, hole("text")]})


def test_sounds_and_pixels_of_a_request_are_bounded_together(pipe, picture):
    heard = io.BytesIO()
    Sound(np.sin(np.arange(6000) / 5, dtype=np.float32), 8000).save(heard)
    sound = {"type": "audio", "audio": base64.b64encode(heard.getvalue()).decode()}
    shown = {"type": "image", "image": url(picture)}
    limits = Limits(sounds=3, audio_seconds=2, picture_pixels=2 * 32 * 32, steps=4)
    with serving(pipe, "mini", limits) as live:
        ask = {"steps": 2}
        post(live, "/v1/generate", ask | {"parts": [sound] * 2 + [hole("text")]})
        told = refused(live, "/v1/generate", ask | {"parts": [sound] * 3 + [hole("text")]})
        assert "3 sounds, or 2 s of them" in told["message"]
        post(live, "/v1/generate", ask | {"parts": [shown] * 2 + [hole("text")]})
        told = refused(live, "/v1/generate", ask | {"parts": [shown] * 3 + [hole("text")]})
        assert "shrink the picture" in told["message"] and told["param"] == "parts.2.image"


def sound() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(16000)
        made.writeframes(b"\0\x10\0\xf0" * 4000)
    return file.getvalue()


def form(live: Live, path: str, *pieces: tuple[str, bytes], charset: str = "utf-8"):
    """Return the status and body of the answer to a form, of heads and contents."""
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + value + b"\r\n"
        for head, value in pieces
    )
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    status, _, answer = live.ask("POST", path, body + b"--x--\r\n", content_type=kind)
    return status, answer


def transcribed(live: Live, **fields: str) -> tuple[int, bytes]:
    """Return the status and body of a transcription's answer."""
    pieces = [(f'name="{name}"', value.encode()) for name, value in fields.items()]
    heard = ('name="file"; filename="a.wav"', sound())
    return form(live, "/v1/audio/transcriptions", *pieces, heard)


@pytest.mark.parametrize(
    "fields",
    [{"stream": "false"}, {"stream": "False"}, {"timestamp_granularities[]": "segment"}],
)
def test_a_form_may_say_what_it_does_not_want(mini, fields):
    status, answer = transcribed(mini, **fields)
    assert status == 200 and "text" in json.loads(answer), answer


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": "true"},
        {"timestamp_granularities[]": "word"},
        {"timestamp_granularities": "word"},
        {"include[]": "logprobs"},
    ],
)
def test_what_a_form_asks_for_in_vain_is_refused_by_name(mini, fields):
    status, answer = transcribed(mini, **fields)
    assert status == 400
    assert error(answer)["param"] == next(iter(fields))
    assert error(answer)["code"] == "unsupported_parameter"


@pytest.mark.parametrize("head", ['name="prompt"', 'name="mask"; filename="m.png"'])
def test_a_field_of_a_form_is_sent_once(mini, head):
    status, answer = form(mini, "/v1/images/edits", (head, b"a"), (head, b"b"))
    assert status == 400 and error(answer)["param"] == head.split('"')[1]


@pytest.mark.parametrize("charset", ["undefined", "punycode"])
def test_a_form_in_a_charset_that_does_not_fit_is_refused(mini, charset):
    field = ('name="prompt"', b"xn--.")
    status, answer = form(mini, "/v1/images/edits", field, charset=charset)
    assert status == 400 and error(answer)["code"] == "bad_body"


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/v1/chat/completions", ("n", "stream", "stream_options", "stop", "seed", "tools")),
        ("/v1/images/generations", ("n", "stream", "output_format", "partial_images", "start")),
        ("/v1/audio/speech", ("response_format", "voice")),
        ("/v1/embeddings", ("encoding_format", "dimensions", "model")),
    ],
)
def test_null_is_a_field_that_is_not_given(mini, path, names):
    asked = {
        "messages": [{"role": "user", "content": "a red circle"}],
        "prompt": "a red circle",
        "input": "a red circle",
        "steps": 2,
    }
    status, _, answer = mini.ask("POST", path, json.dumps(asked | dict.fromkeys(names)))
    assert status == 200, answer


def test_a_developer_says_what_a_system_says(toy):
    def answer(role: str) -> str:
        said = [{"role": role, "content": "row"}, {"role": "user", "content": "boat"}]
        made = post(toy, "/v1/chat/completions", {"messages": said, "seed": 1, "max_tokens": 8})
        return made["choices"][0]["message"]["content"]

    assert answer("developer") == answer("system")


def test_vectors_say_how_many_tokens_were_read(mini, pipe):
    texts = ["a red circle", PROMPT]
    made = post(mini, "/v1/embeddings", {"input": texts})
    tokens = sum(len(span) for t in texts for span in pipe.spans([t]))
    assert made["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image_url", "image_url": {"url": "http://a/b.png"}}, "fetches nothing"),
        ({"type": "image_url", "image_url": "data:image/png;base64,aaaa"}, "PNG"),
        ({"type": "input_audio", "input_audio": {"data": "aaaa"}}, "sound"),
        ({"type": "video", "video": "aaaa"}, "expected a part of type text"),
    ],
)
def test_a_wrong_part_of_a_conversation_is_named(mini, part, words):
    said = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [text("look"), part]},
    ]
    told = refused(mini, "/v1/chat/completions", {"messages": said})
    assert told["param"] == "messages.1.content.1"
    assert "messages.1.content.1" in told["message"] and words in told["message"]


def test_a_sound_that_a_model_does_not_read_is_named(toy):
    part = {"type": "input_audio", "input_audio": {"data": "aaaa"}}
    told = refused(toy, "/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]})
    assert told["param"] == "messages.0.content.0"
    assert "messages.0.content.0: this model reads no audio" in told["message"]


@pytest.mark.parametrize(
    ("path", "change", "param", "words"),
    [
        ("/v1/embeddings", {"input": [""]}, "input.0", "at least 1 character"),
        ("/v1/embeddings", {"input": ["a", 5]}, "input.1", "valid string"),
        ("/v1/embeddings", {"input": ""}, "input", "at least 1 character"),
        ("/v1/embeddings", {}, "input", "required"),
        ("/v1/chat/completions", {"messages": [{}], "stop": 5}, "stop", "string or"),
        ("/v1/chat/completions", {"messages": [{}], "stop": ["a", 5]}, "stop.1", "valid string"),
        ("/v1/generate", DRAW | {"sampler": 5}, "sampler", "string or"),
        ("/v1/generate", {"parts": [{"type": "text"}]}, "parts.0.text", "required"),
        ("/v1/generate", {"parts": [{"type": "text", "text": 5}]}, "parts.0.text", "string"),
        ("/v1/generate", {"parts": [text("a") | {"b": 5}]}, "parts.0.b", "Extra inputs"),
        ("/v1/generate", {"parts": [5]}, "parts.0", "dictionary"),
        ("/v1/generate", {"parts": [{"type": "texts"}]}, "parts.0", "texts"),
        ("/v1/generate", {"parts": [hole("image", shape=[4, "b"])]}, "parts.0.shape.1", "integer"),
        ("/v1/generate", {"parts": [hole("image", keep=[[1]])]}, "parts.0.keep.0.0", "boolean"),
        (
            "/v1/generate",
            {"parts": [hole("image", draft={"type": "image", "image": 5})]},
            "parts.0.draft.image",
            "string",
        ),
    ],
)
def test_a_wrong_field_is_named_as_the_request_has_it(mini, path, change, param, words):
    told = refused(mini, path, change)
    assert told["param"] == param
    assert told["message"].startswith(f"{param}: ") and words in told["message"]


def test_a_body_that_is_no_request_is_refused(mini):
    for content in (b"", b"[]", b"{", b"\xff", b'{"n": NaN}', b"[" * 10_000, b'{"a":"\\ud800"}'):
        status, _, answer = mini.ask("POST", "/v1/generate", content)
        assert status == 400 and error(answer)["code"] == "bad_json"
    deep = {"parts": [], "sampler": nested(40)}
    assert "deeper" in refused(mini, "/v1/generate", deep)["message"]
    status, _, answer = mini.ask(
        "POST", "/v1/images/edits", b"x", content_type="multipart/form-data"
    )
    assert status == 400 and error(answer)


def nested(depth: int) -> dict:
    made: dict = {}
    for _ in range(depth):
        made = {"a": made}
    return made


def test_words_that_look_like_symbols_are_text(toy, mini):
    for marked in ("<image>", "<end>", "a <image> b", "<audio>", "<|endoftext|>"):
        one = post(mini, "/v1/generate", {"parts": [text(marked), hole("image")], "steps": 1})
        assert one["usage"]["prompt_tokens"] > 1 and len(one["results"][0]["parts"]) == 1


class Keeping(Engine):
    """An engine that keeps the futures that it gives."""

    futures: list

    def submit(self, prepare, seconds):
        self.futures.append(super().submit(prepare, seconds))
        return self.futures[-1]


def test_a_client_that_leaves_before_a_stream_begins_ends_its_work():
    pipe = models.pipeline("fudoki")
    engine, futures = Keeping(pipe), []
    engine.futures = futures
    app = Routes(engine, Served(pipe, "toy", Limits(steps=10**9)), Metrics()).app()
    body = {"parts": [text("row"), hole("image")], "steps": 3000, "previews": 16, "stream": True}
    sent = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive():
        return next(sent, None) or await asyncio.Event().wait()

    async def send(message):
        assert not futures[-1].done(), "it is at work"
        raise OSError("nobody reads")

    scope = {
        **{"type": "http", "method": "POST", "path": "/v1/generate", "query_string": b""},
        **{"headers": [], "state": {"request": "a"}, "http_version": "1.1", "scheme": "http"},
        **{"raw_path": b"/v1/generate", "root_path": "", "asgi": {"spec_version": "2.3"}},
    }
    engine.start()
    try:
        with pytest.raises((OSError, ExceptionGroup)):
            asyncio.run(app(scope, receive, send))
        assert [f.cancelled() for f in futures] == [True]
    finally:
        engine.close()


def test_a_request_is_cancelled_by_its_id(toy):
    body = {"parts": [text("row"), hole("image")], "sampler": {"kind": "euler", "steps": 100}}
    body |= {"n": 10, "guidance": 2}
    slow = {}

    def ask() -> None:
        slow["answer"] = toy.ask("POST", "/v1/generate", json.dumps(body), x_request_id="mine-1")

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(2000):
        status, _, answer = toy.ask("POST", "/v1/requests/mine-1/cancel")
        if status == 200 or not asking.is_alive():
            break
    asking.join(60)
    assert status == 200 and json.loads(answer)["cancelled"]
    assert slow["answer"][0] == 499 and error(slow["answer"][2])["code"] == "cancelled"
    assert toy.ask("POST", "/v1/requests/mine-1/cancel")[0] == 404


def test_a_key_cancels_its_own_requests_alone():
    other, left = "another-key-that-is-long-enough", []
    body = {"parts": [text("row"), hole("image")], "steps": 20_000, "sampler": "euler"}
    with serving(models.pipeline("transfusion"), "toy", Limits(steps=10**6), (KEY, other)) as live:

        def ask() -> None:
            left.append(live.ask("POST", "/v1/generate", json.dumps(body), x_request_id="1")[0])

        asking = threading.Thread(target=ask)
        asking.start()
        end = time.monotonic() + 20
        while live.engine.idle:
            assert time.monotonic() < end
        assert live.ask("POST", "/v1/requests/1/cancel", key=other)[0] == 404
        assert live.ask("POST", "/v1/requests/1/cancel")[0] == 200
        asking.join(20)
    assert left == [499]
