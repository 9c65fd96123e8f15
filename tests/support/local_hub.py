"""A small Hugging Face Hub on the loopback interface, for the real client to speak with.

Answers, headers and error codes are those that ``huggingface_hub`` relies on.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

TOKEN = "hf_" + "loopbackSECRET" * 2


def refused(done: subprocess.CompletedProcess[str], pattern: str) -> str:
    """Exit code 1, one line on stderr, nothing on stdout, no token anywhere."""
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.startswith("gguffast: error: ")
    assert done.stderr.count("\n") == 1
    assert re.search(pattern, done.stderr), done.stderr
    return done.stderr


@dataclass
class Repo:
    """One repo; every branch in `branches` has the same files."""

    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    private: bool = False
    branches: list[str] = field(default_factory=lambda: ["main"])
    messages: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        content = repr(sorted((name, _sha256(data)) for name, data in self.files.items()))
        return hashlib.sha1(content.encode()).hexdigest()


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


class LocalHub:
    """The server; use as a context manager.

    Attributes
    ----------
    repos : dict of str to Repo
    requests : list of Request
        What was asked, in order.
    cut_after : dict of str to int
        File names whose next download is cut after so many bytes: the connection is closed.
    hold_after : dict of str to int
        File names whose next download stops after so many bytes; `held` is set then.
    broken : int
        Status of every answer, if not 0.
    refuse_uploads : bool
        Answer uploads of large files with an error.
    instead : dict of str to callable
        By ``"METHOD /path"``, a regular expression: what is done instead of answering; gets the handler.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.cut_after: dict[str, int] = {}
        self.hold_after: dict[str, int] = {}
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.broken = 0
        self.refuse_uploads = False
        self.instead: dict[str, Callable[[Any], object]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # Large files lie on another host, as those of the real one do.
        self.elsewhere = f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def downloads(self) -> list[str]:
        """Names of the files whose contents were asked for, in order."""
        found = (
            re.search(r"/resolve/[^/]+/(.*)", unquote(r.path)) for r in self.requests if r.method == "GET"
        )
        return [match[1] for match in found if match]


def git_hash(data: bytes) -> str:
    """What git calls a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_large(name: str) -> bool:
    return name.endswith((".gguf", ".safetensors", ".bin"))


def _handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._serve()

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def do_PUT(self) -> None:
            self._serve()

        def _serve(self) -> None:
            self.body = self._read_body()
            path = urlsplit(self.path).path
            hub.requests.append(Request(self.command, path, dict(self.headers)))
            authorization = self.headers.get("Authorization")
            self.known = authorization == f"Bearer {TOKEN}"
            if hub.broken:
                return self._fail(hub.broken, "", f"upstream trouble, you sent {authorization}")
            if authorization and not self.known:
                return self._fail(401, "", "Invalid credentials in Authorization header")
            for pattern, do in hub.instead.items():
                if re.fullmatch(pattern, f"{self.command} {path}"):
                    return self._do(do)
            for pattern, answer in ROUTES:
                match = re.fullmatch(pattern, f"{self.command} {path}")
                if match:
                    return answer(self, **{k: unquote(v) for k, v in match.groupdict().items()})
            return self._fail(404, "", f"no route {self.command} {path}")

        def _do(self, something: Callable[[Any], object]) -> None:
            try:
                something(self)
            except OSError:  # whoever asked has heard enough
                self.close_connection = True

        def answer(self, status: int, body: bytes = b"", **headers: object) -> None:
            """Send any answer; ``X_Repo_Commit=`` is a header."""
            self._send(status, body, {name.replace("_", "-"): value for name, value in headers.items()})

        def stream(self, status: int, pieces: Iterable[bytes], **headers: object) -> None:
            """Send an answer without saying how long it is."""
            self.send_response(status)
            for name, value in {"Transfer-Encoding": "chunked", **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            for piece in pieces:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def _read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        # -- answers

        def _send(self, status: int, body: bytes, headers: dict[str, Any]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _json(self, value: object, status: int = 200) -> None:
            self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _fail(self, status: int, code: str, message: str) -> None:
            body = b"" if self.command == "HEAD" else json.dumps({"error": message}).encode()
            self._send(status, body, {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}))

        def _repo(self, name: str, revision: str = "main") -> Repo | None:
            repo = hub.repos.get(name)
            if repo is None or (repo.private and not self.known):
                self._fail(404 if self.known else 401, "RepoNotFound", "Repository not found")
            elif revision not in (*repo.branches, repo.sha):
                self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            else:
                return repo
            return None

        # -- reading

        def model_info(self, repo: str, revision: str = "main") -> None:
            if found := self._repo(repo, revision):
                siblings = [{"rfilename": name} for name in found.files]
                self._json({"id": repo, "modelId": repo, "sha": found.sha, "siblings": siblings, "tags": []})

        def tree(self, repo: str, revision: str) -> None:
            if found := self._repo(repo, revision):
                self._json([self._entry(name, data) for name, data in found.files.items()])

        def _entry(self, name: str, data: bytes) -> dict[str, Any]:
            entry = {
                "type": "file",
                "path": name,
                "size": len(data),
                "oid": git_hash(data),
            }
            if _is_large(name):
                entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 100}
            return entry

        def resolve(self, repo: str, revision: str, name: str) -> None:
            found = self._repo(repo, revision)
            if not found:
                return
            if found.gated and not self.known:
                self._fail(401, "GatedRepo", f"Access to model {repo} is restricted.")
            elif found.gated:
                self._fail(
                    403, "GatedRepo", f"Access to model {repo} is restricted, you are not on the list."
                )
            elif name not in found.files:
                self._fail(404, "EntryNotFound", "Entry not found")
            elif _is_large(name):
                digest = _sha256(found.files[name])
                place = f"{hub.elsewhere}/storage/{repo}/resolve/{digest}"
                headers = {
                    "Location": f"{place}/{quote(name)}?signature=x%2Fy",
                    "X-Linked-ETag": f'"{digest}"',
                    "X-Linked-Size": len(found.files[name]),
                    "X-Repo-Commit": found.sha,
                }
                self._send(302, b"", headers)
            else:
                self._send_file(found, name)

        def storage(self, repo: str, name: str) -> None:
            assert "Authorization" not in self.headers
            self._send_file(hub.repos[repo], name)

        def _send_file(self, repo: Repo, name: str) -> None:
            data = repo.files[name]
            first = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or [0, 0])[1])
            self.send_response(206 if first else 200)
            headers = {
                "Content-Length": len(data) - first,
                "Accept-Ranges": "bytes",
                "ETag": f'"{_sha256(data) if _is_large(name) else git_hash(data)}"',
                "X-Repo-Commit": repo.sha,
            }
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            for header, value in headers.items():
                self.send_header(header, str(value))
            self.end_headers()
            if self.command == "GET":
                self._send_data(name, data[first:])

        def _send_data(self, name: str, data: bytes) -> None:
            cut, hold = hub.cut_after.pop(name, None), hub.hold_after.pop(name, None)
            try:
                self.wfile.write(data[: cut or hold])
                if cut is not None:
                    self.close_connection = True
                elif hold is not None:
                    self.wfile.flush()
                    hub.held.set()
                    hub.go_on.wait(60)
                    self.close_connection = True
            except OSError:
                self.close_connection = True

        # -- writing

        def _writable(self, repo: str, revision: str = "main") -> Repo | None:
            found = self._repo(repo, revision)
            if found and not self.known:
                self._fail(403, "", "You need a token with write access")
                return None
            return found

        def create(self) -> None:
            wanted = json.loads(self.body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in hub.repos:
                return self._json({"url": f"{hub.url}/{name}", "error": "You already created this"}, 409)
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            hub.repos[name] = Repo({".gitattributes": b""}, private=private)
            return self._json({"url": f"{hub.url}/{name}", "name": name})

        def branch(self, repo: str, name: str) -> None:
            if found := self._writable(repo):
                if name in found.branches:
                    return self._fail(409, "", "Reference already exists")
                found.branches.append(name)
                self._json({})
            return None

        def preupload(self, repo: str, revision: str) -> None:
            if self._writable(repo, revision):
                files = json.loads(self.body)["files"]
                self._json(
                    {
                        "files": [
                            {
                                "path": f["path"],
                                "uploadMode": "lfs" if _is_large(f["path"]) else "regular",
                                "shouldIgnore": False,
                            }
                            for f in files
                        ]
                    }
                )

        def lfs_batch(self, repo: str) -> None:
            if self._writable(repo):
                objects = []
                for wanted in json.loads(self.body)["objects"]:
                    answer = {"oid": wanted["oid"], "size": wanted["size"]}
                    if wanted["oid"] not in hub.blobs:
                        answer["actions"] = {"upload": {"href": f"{hub.url}/lfs/{wanted['oid']}"}}
                    objects.append(answer)
                self._json({"transfer": "basic", "objects": objects})

        def lfs_put(self, oid: str) -> None:
            if hub.refuse_uploads:
                return self._fail(403, "", "no more storage for you")
            if _sha256(self.body) != oid:
                return self._fail(400, "", "content does not match its digest")
            hub.blobs[oid] = self.body
            return self._json({})

        def commit(self, repo: str, revision: str) -> None:
            found = self._writable(repo, revision)
            if not found:
                return
            for line in self.body.splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header":
                    found.messages.append(value["summary"])
                elif item["key"] == "file":
                    found.files[value["path"]] = base64.b64decode(value["content"])
                else:
                    found.files[value["path"]] = hub.blobs[value["oid"]]
            self._json({"commitUrl": f"{hub.url}/{repo}/commit/{found.sha}", "commitOid": found.sha})

        def validate_yaml(self) -> None:
            self._json({"errors": [], "warnings": []})

    repo = r"(?P<repo>[^/]+/[^/]+)"
    api = f"/api/models/{repo}"
    ROUTES = [
        (f"GET {api}", Handler.model_info),
        (f"GET {api}/revision/(?P<revision>[^/]+)", Handler.model_info),
        (f"GET {api}/tree/(?P<revision>[^/]+)", Handler.tree),
        (rf"(?:GET|HEAD) /{repo}/resolve/(?P<revision>[^/]+)/(?P<name>.+)", Handler.resolve),
        (rf"GET /storage/{repo}/resolve/[0-9a-f]+/(?P<name>.+)", Handler.storage),
        ("POST /api/repos/create", Handler.create),
        ("POST /api/validate-yaml", Handler.validate_yaml),
        (f"POST {api}/branch/(?P<name>[^/]+)", Handler.branch),
        (f"POST {api}/preupload/(?P<revision>[^/]+)", Handler.preupload),
        (f"POST {api}/commit/(?P<revision>[^/]+)", Handler.commit),
        (rf"POST /{repo}\.git/info/lfs/objects/batch", Handler.lfs_batch),
        ("PUT /lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_put),
    ]
    return Handler
