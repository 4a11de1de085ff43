"""A small Hub on this machine: the routes that huggingface_hub asks, over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

Files = dict[str, bytes]
TOKEN = "hf_of_the_owner"


@dataclass
class Repository:
    """Commits by their hash, and the branches that name them."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: Files, message: str) -> str:
        """Add a commit to a branch."""
        sha = hashlib.sha1(f"{len(self.commits)} {branch} {sorted(files)}".encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def files(self, revision: str) -> Files:
        """Return the files of a branch or a commit."""
        return self.commits[self.branches.get(revision, revision)]


class Hub:
    """The repositories, and the server that shows them."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.stored: Files = {}  # large files by their hash
        self.asked: list[str] = []
        self.large = 10**9
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self.server.shutdown()
        self.server.server_close()


class _Refused(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, code: str = "") -> None:
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def _answer(self, method: str) -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.asked.append(f"{method} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        self.body = (
            self._chunks() if self.headers.get("Transfer-Encoding") else self.rfile.read(length)
        )
        try:
            for verb, pattern, name in ROUTES:
                if verb in (method, "GET" if method == "HEAD" else method):
                    found = re.fullmatch(pattern, path)
                    if found:
                        return getattr(self, name)(**found.groupdict())
            raise _Refused(404)
        except _Refused as refused:
            self._send(b"{}", refused.status, {"X-Error-Code": refused.code})

    def _chunks(self) -> bytes:
        out = b""
        while size := int(self.rfile.readline(), 16):
            out += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return out

    def _send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json"})

    def _owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, repo: str, write: bool = False) -> Repository:
        found = self.state.repositories.get(repo)
        if found is None or (found.private and not self._owner()):
            raise _Refused(401, "RepoNotFound")
        if write and not self._owner():
            raise _Refused(403)
        return found

    def _files(self, repo: str, revision: str) -> Files:
        try:
            return self._repository(repo).files(revision)
        except KeyError:
            raise _Refused(404, "RevisionNotFound") from None

    def create(self) -> None:
        if not self._owner():
            raise _Refused(401)
        asked = json.loads(self.body)
        repo = f"{asked['organization'] or 'me'}/{asked['name']}"
        if repo in self.state.repositories:
            return self._json({"url": f"{self.state.address}/{repo}"}, 409)
        made = self.state.repositories[repo] = Repository(asked.get("visibility") == "private")
        made.commit("main", {".gitattributes": b""}, "initial commit")
        return self._json({"url": f"{self.state.address}/{repo}"})

    def info(self, repo: str, revision: str = "main") -> None:
        files = self._files(repo, revision)
        found = self._repository(repo)
        sha = found.branches.get(revision, revision)
        self._json({"id": repo, "sha": sha, "siblings": [{"rfilename": f} for f in files]})

    def tree(self, repo: str, revision: str) -> None:
        files = self._files(repo, revision).items()
        self._json(
            [
                {"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                for p, b in files
            ]
        )

    def branch(self, repo: str, branch: str) -> None:
        found = self._repository(repo, write=True)
        if branch in found.branches:
            raise _Refused(409)
        found.branches[branch] = found.branches["main"]
        self._json({})

    def preupload(self, repo: str, revision: str) -> None:
        self._repository(repo, write=True)
        files = json.loads(self.body)["files"]
        large = {f["path"]: f["size"] >= self.state.large for f in files}
        modes = {path: "lfs" if is_large else "regular" for path, is_large in large.items()}
        self._json(
            {
                "files": [
                    {"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()
                ]
            }
        )

    def card(self) -> None:
        header = yaml.safe_load(json.loads(self.body)["content"].split("---")[1])
        if header["library_name"] != "braid":
            raise _Refused(400)
        self._json({"errors": [], "warnings": []})

    def batch(self, repo: str) -> None:
        self._repository(repo, write=True)
        objects = json.loads(self.body)["objects"]
        where = f"{self.state.address}/stored/"
        self._json(
            {
                "transfer": "basic",
                "objects": [
                    {**o, "actions": {"upload": {"href": where + o["oid"], "header": {}}}}
                    for o in objects
                ],
            }
        )

    def store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(422)
        self.state.stored[oid] = self.body
        self._json({})

    def commit(self, repo: str, revision: str) -> None:
        found = self._repository(repo, write=True)
        files, message = dict(self._files(repo, revision)), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.state.stored[value["oid"]]
        sha = found.commit(revision, files, message)
        self._json({"commitUrl": f"{self.state.address}/{repo}/commit/{sha}", "commitOid": sha})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        files = self._files(repo, revision)
        if path not in files:
            raise _Refused(404, "EntryNotFound")
        sha = self._repository(repo).branches.get(revision, revision)
        tag = hashlib.sha1(files[path]).hexdigest()
        self._send(files[path], headers={"ETag": f'"{tag}"', "X-Repo-Commit": sha})


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES = (
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "card"),
    ("GET", f"/api/models/{_REPO}", "info"),
    ("GET", f"/api/models/{_REPO}/revision/{_REVISION}", "info"),
    ("GET", f"/api/models/{_REPO}/tree/{_REVISION}", "tree"),
    ("POST", rf"/api/models/{_REPO}/branch/(?P<branch>[^/]+)", "branch"),
    ("POST", f"/api/models/{_REPO}/preupload/{_REVISION}", "preupload"),
    ("POST", f"/api/models/{_REPO}/commit/{_REVISION}", "commit"),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/stored/(?P<oid>\w+)", "store"),
    ("GET", rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", "resolve"),
)
