"""`braid serve` from the command line: it serves, and says at once why it does not."""

from __future__ import annotations

import dataclasses
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from braid.cli import app, main
from braid.errors import BraidError
from braid.serving.limits import Limits

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
KEY = "a-key-of-more-than-sixteen-characters"


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as e:
        main(["serve", *map(str, arguments)])
    assert e.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


@pytest.fixture
def keyless(monkeypatch):
    monkeypatch.delenv("BRAID_API_KEYS", raising=False)


def ask(port: int, method: str, path: str, body=None, **heads: str):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body and json.dumps(body), heads)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("keys", ["", pytest.param(KEY, marks=pytest.mark.slow)])
def test_the_command_serves_until_a_signal_comes(keys):
    command = [sys.executable, "-m", "braid", "serve", "mini", "--port", "0", "--device", "cpu"]
    environment = os.environ | {"BRAID_API_KEYS": keys}
    if not keys:
        del environment["BRAID_API_KEYS"]
    one = subprocess.Popen(
        [*command, "--name", "tiny", "--limit", "steps=7"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert one.stdout is not None
        said = one.stdout.readline()
        found = re.search(r"serving tiny \(text, image, audio\) on http://127.0.0.1:(\d+);", said)
        assert found, said
        port = int(found[1])
        given = {"authorization": f"Bearer {keys}"} if keys else {}
        body = {"prompt": "a red circle", "steps": 7, "seed": 1}
        status, drawn = ask(port, "POST", "/v1/images/generations", body, **given)
        assert status == 200 and len(drawn["data"]) == 1
        status, told = ask(port, "POST", "/v1/images/generations", body | {"steps": 8}, **given)
        assert status == 400 and told["error"]["param"] == "steps"
        status, told = ask(port, "GET", "/v1/models", authorization="Bearer of-another-server-00")
        assert status == (401 if keys else 200)
        if not keys:  # what another site has a browser send here
            status, told = ask(port, "GET", "/v1/models", origin="https://example.org")
            assert status == 403 and told["error"]["code"] == "foreign_site"
            assert ask(port, "GET", "/v1/models", host="example.org")[0] == 403
            assert ask(port, "GET", "/v1/models", origin=f"http://127.0.0.1:{port}")[0] == 200
        one.send_signal(signal.SIGTERM)
        _, err = one.communicate(timeout=60)
    finally:
        one.kill()
        one.wait()
    assert one.returncode == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert {line["route"] for line in lines if line["event"] == "request"} >= {
        "/v1/images/generations"
    }
    assert "red circle" not in err and KEY not in err


def test_a_port_in_use_is_told_of_before_the_model_is_loaded(capsys, keyless):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}" in refused(capsys, "no/model", "--port", port)


def test_others_are_not_served_without_a_key(capsys, keyless, tmp_path):
    assert "--insecure" in refused(capsys, "mini", "--host", "0.0.0.0")
    file = tmp_path / "keys"
    file.write_text("short\n")
    file.chmod(0o600)
    assert "at least 16 characters" in refused(capsys, "mini", "--key-file", file)


def test_wrong_options_are_refused(capsys, keyless):
    assert "did you mean 'steps'" in refused(capsys, "mini", "--limit", "step=3")
    assert "give one as steps=200" in refused(capsys, "mini", "--limit", "steps=many")
    assert "rows 0 must be at least 1" in refused(capsys, "mini", "--rows", 0)
    assert "must be a positive number" in refused(capsys, "mini", "--shutdown-seconds", 0)
    assert "no/model" in refused(capsys, "no/model", "--port", 0)


@pytest.mark.parametrize("line", re.findall(r"^    (braid serve [^#\n]*)", PAGE, re.M))
def test_the_documentations_commands_take_their_options(line):
    command = get_command(app).commands["serve"]
    known = {name for option in command.params for name in option.opts}
    assert {word for word in line.split() if word.startswith("--")} <= known


def test_the_documentation_has_every_limit():
    for field in dataclasses.fields(Limits):
        assert f"`{field.name}`" in PAGE


def test_limits_are_numbers_that_can_be():
    assert Limits.of(["steps=3", "seconds=1.5"]) == Limits(steps=3, seconds=1.5)
    for wrong in ({"steps": 0}, {"seconds": float("nan")}, {"seconds": -1.0}):
        with pytest.raises(BraidError, match="must be"):
            Limits(**wrong)
