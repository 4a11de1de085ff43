"""The server's page: three files that hold nothing, and load and run nothing but themselves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from braid.serving import page
from braid.serving.asked import Served
from braid.serving.engine import Engine
from braid.serving.limits import Limits
from braid.serving.metrics import Metrics
from braid.serving.routes import Routes
from tests.laws import models
from tests.serving.live import error, served

FOLDER = files("braid.serving") / "page"
NAMES = ("index.html", "page.css", "page.js")
SOURCES = {name: (FOLDER / name).read_text(encoding="utf-8") for name in NAMES}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
NEEDS_NODE = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")


@pytest.fixture(scope="module")
def live():
    """Run the server's paths behind a guard with a key."""
    pipe = models.pipeline("transfusion")
    routes = Routes(Engine(pipe), Served(pipe, "a", Limits()), Metrics())
    with served(routes.app(), open_paths=page.PATHS) as one:
        yield one


class Elements(HTMLParser):
    """The elements of a page, with their attributes and the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag):
        self._within = ""

    def handle_data(self, data):
        if self._within in ("script", "style") and data.strip():
            self.inline.append(data)


PAGE = Elements(SOURCES["index.html"])


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/page.js", "page.js", "text/javascript; charset=utf-8"),
        ("/page.css", "page.css", "text/css; charset=utf-8"),
    ],
)
def test_each_file_is_read_without_a_key_and_says_what_it_may_load(live, path, name, kind):
    status, head, body = live.ask("GET", path, key=None)
    assert status == 200 and body == SOURCES[name].encode()
    assert head["content-type"] == kind and head["content-security-policy"] == POLICY
    assert head["referrer-policy"] == "no-referrer"
    assert head["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in head


def test_the_interface_needs_a_key_all_the_same(live):
    for method, path in (("GET", "/v1/models"), ("POST", "/"), ("HEAD", "/page.js")):
        assert live.ask(method, path, key=None)[0] == 401
    assert live.ask("GET", "/v1/models")[0] == 200


@pytest.mark.parametrize(
    "path",
    ["/index.html", "/page/", "/page/page.js", "/page.js/", "/page.css/../page.py", "//page.js"]
    + ["/page.py", "/page%2ejs", "/page.js%00", "/../page.py", "/%2e%2e/page.py", "//"],
)
def test_no_other_path_is_a_file(live, path):
    assert live.ask("GET", path, key=None)[0] == 401
    status, _, body = live.ask("GET", path)
    if path != "/page%2ejs":  # which is the file's name, but needs a key when spelt like this
        assert status == 404 and error(body)["code"] == "not_found"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_comes_from_elsewhere(name):
    assert not re.findall(r"https?:|wss?:|[\"'(]//|@import|\burl\(", SOURCES[name])


def test_the_page_holds_no_script_style_or_handler_of_its_own():
    assert PAGE.inline == []
    for tag, attributes in PAGE.found:
        assert "style" not in attributes and tag not in ("style", "base", "iframe", "object")
        assert not [name for name in attributes if name.startswith("on")]
    loaded = [a.get("src") or a.get("href") for t, a in PAGE.found if t in ("script", "link")]
    assert loaded == ["data:,", "page.css", "page.js"]


def test_the_script_makes_no_markup_and_keeps_no_cookie():
    markup = ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "DOMParser", "srcdoc")
    code = ("eval(", "Function(", "javascript:", "import(")
    for word in (*markup, *code, "document.cookie", "localStorage"):
        assert word not in SOURCES["page.js"]


def test_what_the_script_looks_for_is_in_the_page():
    ids = [attributes["id"] for _, attributes in PAGE.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'\$\("([^"]+)"\)', SOURCES["page.js"]))
    options = re.findall(r'for \(const name of (\["n".*?\])\)', SOURCES["page.js"])
    assert len(used) > 30 and len(options) == 1
    assert used | set(json.loads(options[0])) <= set(ids)
    named = {a.get("name") for t, a in PAGE.found if t == "input"}
    assert set(re.findall(r"input\[name=(\w+)\]", SOURCES["page.js"])) <= named
    pointed = [a[k] for _, a in PAGE.found for k in ("for", "aria-labelledby") if k in a]
    assert set(pointed) <= set(ids)


def test_every_field_has_a_name():
    labels = {a["for"] for t, a in PAGE.found if t == "label" and "for" in a}
    within = re.findall(r"<label.*?</label>", SOURCES["index.html"], re.DOTALL)
    for tag, attributes in PAGE.found:
        if tag in ("input", "select", "textarea"):
            id = attributes.get("id")
            inside = any(f'id="{id}"' in label for label in within if id)
            radio = attributes.get("type") == "radio"  # all stand within labels
            assert radio or id in labels or inside, attributes


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(scheme):
    light, dark = re.findall(r":root \{(.*?)\}", SOURCES["page.css"], re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", light if scheme == "light" else dark))
    for ground in ("paper", "card"):
        for name in ("ink", "soft", "accent", "mark"):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
        assert contrast(colors["edge"], colors[ground]) >= 3  # of fields and buttons
    assert contrast(colors["on-accent"], colors["accent"]) >= 4.5


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colors, 1 to 21, as WCAG defines it."""

    def luminance(color: str) -> float:
        shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def run(script: str) -> object:
    """Return what a script makes `found` after the page's script was read, without a page."""
    lines = (
        "const vm = require('vm');",
        "const page = vm.createContext({ document: { addEventListener() {} }, TextDecoder });",
        f"vm.runInContext({json.dumps(SOURCES['page.js'])}, page);",
        f"vm.runInContext({json.dumps(f'(async () => {{ {script} }})()')}, page)",
        "  .then((found) => console.log(JSON.stringify(found)));",
    )
    done = subprocess.run(
        ["node", "-"], input="\n".join(lines), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@NEEDS_NODE
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_stream_is_read_however_it_is_cut(size):
    told = [{"text": "caf\u00e9 \U0001f600 data: x"}, {"a": 1}, {"error": {"message": "no"}}]
    lines = [f"data: {json.dumps(one, ensure_ascii=False)}\n\n" for one in told]
    stream = "".join([": ping\n\n", *lines, "data: [DONE]\n\n"]).encode()
    script = f"""
        const data = {[*stream]};
        const pieces = [];
        for (let i = 0; i < data.length; i += {size}) pieces.push(data.slice(i, i + {size}));
        const reader = {{ read: async () => pieces.length
            ? {{ done: false, value: Uint8Array.from(pieces.shift()) }} : {{ done: true }} }};
        const found = [];
        for await (const one of events({{ getReader: () => reader }})) found.push(one);
        return found;"""
    assert run(script) == told


@NEEDS_NODE
@pytest.mark.parametrize(
    ("modalities", "names"),
    [
        ({"text": "M", "image": "M", "audio": "M"}, "Draw Read Edit Infill Refine Speak Listen"),
        ({"text": "M", "vision": None}, "Read"),
        ({"text": "M", "vision": None, "image": "M"}, "Draw Read Edit Infill Refine"),
        ({"text": "Autoregressive", "image": "Autoregressive"}, "Draw Read Edit Infill"),
        ({"text": None, "audio": "M"}, "Speak"),
        ({"label": None, "image": "M"}, ""),
    ],
)
def test_only_what_the_model_can_do_is_offered(modalities, names):
    told = {
        name: {"process": process, "tokens": [4, 4] if name == "image" else [4]}
        for name, process in modalities.items()
    }
    script = f"return STARTS.filter((s) => possible(s, {json.dumps(told)})).map((s) => s.name);"
    assert run(script) == names.split()


PICTURE = "data:image/png;base64," + "A" * 4000
BODY = {
    "model": "mini",
    "parts": [
        {"type": "text", "text": 'it\'s "a"\n$HOME `x` \\'},
        {"type": "image", "image": PICTURE},
        {
            "type": "hole",
            "modality": "image",
            "draft": {"type": "image", "image": PICTURE},
            "keep": [[True, False], [False, True]],
            "start": 0.5,
        },
    ],
    "n": 2,
    "seed": 7,
    "guidance": 2,
    "stream": True,
    "previews": 8,
}


@NEEDS_NODE
def test_the_command_passes_a_shell_unharmed(tmp_path):
    command = run(f"return curl({json.dumps(BODY)}, 'http://here/v1/generate', true);")
    (tmp_path / "curl").write_text('#!/bin/sh\nfor one in "$@"; do printf "%s\\0" "$one"; done\n')
    (tmp_path / "curl").chmod(0o755)
    said = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"PATH": str(tmp_path), "BRAID_API_KEY": "k"},
        capture_output=True,
        check=True,
    )
    *words, body, _ = said.stdout.decode().split("\0")
    assert words == [
        *("-N", "http://here/v1/generate", "-H", "authorization: Bearer k"),
        *("-H", "content-type: application/json", "-d"),
    ]
    short = PICTURE[:40] + "..."
    assert json.loads(body) == json.loads(json.dumps(BODY).replace(PICTURE, short))


@NEEDS_NODE
def test_the_python_code_asks_for_the_same():
    code = run(f"return python({json.dumps(BODY)}, 'mini');")
    asked = {}

    class Braid:
        Hole = staticmethod(lambda *args, **words: ("hole", args, words))
        load = staticmethod(lambda name: lambda parts, **words: asked.update(parts=parts, **words))

    picture = type("Picture", (), {"open": staticmethod(lambda path: path)})
    lines = [x for x in code.splitlines() if not x.startswith(("import", "from", "print"))]
    assert {"import braid", "from PIL import Image"} <= set(code.splitlines())
    exec("\n".join(lines), {"braid": Braid, "Image": picture})
    hole = {"draft": "draft.png", "keep": BODY["parts"][2]["keep"], "start": 0.5}
    assert asked == {
        "parts": [BODY["parts"][0]["text"], "part-2.png", ("hole", ("image",), hole)],
        **{"guidance": 2, "seed": 7, "n": 2},
    }


@NEEDS_NODE
def test_what_is_painted_is_not_kept_and_samples_are_read():
    assert run("return kept([, true, , , false, true], 2, 3);") == [
        [True, False, True],
        [True, True, False],
    ]
    wav = b"RIFF....WAVEfmt " + bytes([2, 0, 0, 0, 1, 1]) + b"data" + bytes([4, 0, 0, 0])
    wav += (16384).to_bytes(2, "little") + (-32768).to_bytes(2, "little", signed=True)
    assert run(f"return samples(Uint8Array.from({[*wav]}));") == [0.5, -1.0]
