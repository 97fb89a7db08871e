"""A stand-in for the Hugging Face hub: the part of its HTTP interface that the client uses.

Contents of repositories are kept in memory, as commits. Large files go by Git LFS, as they do for
clients without xet.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_token-of-the-owner"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes]) -> str:
        oid = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[oid] = files
        return oid


class Hub(ThreadingHTTPServer):
    """The server; `asked` lists what was asked of it."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}  # by Git LFS
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, files: dict[str, bytes], **changes) -> str:
        """Makes a repository, or changes its files; returns the commit."""
        return self.repositories.setdefault(repo, Repository(**changes)).commit(files)


@contextmanager
def serving():
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()


class Refused(Exception):
    """Ends a request with a status and the hub's own word for what is wrong."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *arguments):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self):
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size)
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        try:
            if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
                raise Refused(401, None, "Invalid credentials in Authorization header")
            self.route(parts)
        except Refused as refused:
            status, code, message = refused.args
            headers = {"X-Error-Code": code} if code else {}
            self.answer(b"", status, **headers, **({"X-Error-Message": message} if message else {}))

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def route(self, parts):
        match parts:
            case ["api", "repos", "create"]:
                self.create(json.loads(self.body))
            case ["api", "validate-yaml"]:
                self.answer({"errors": [], "warnings": []})
            case ["api", "models", owner, name]:
                self.info(self.opened(owner, name), f"{owner}/{name}", "main")
            case ["api", "models", owner, name, "revision", revision]:
                self.info(self.opened(owner, name), f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "tree", revision]:
                self.tree(self.opened(owner, name), revision)
            case ["api", "models", owner, name, "preupload", "main"]:
                self.preupload(self.opened(owner, name, write=True))
            case ["api", "models", owner, name, "commit", "main"]:
                self.commit(self.opened(owner, name, write=True))
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self.opened(owner, name.removesuffix(".git"), write=True)
                self.batch(json.loads(self.body)["objects"])
            case ["lfs", "verify"]:
                self.answer({})
            case ["lfs", oid] if self.command == "PUT":
                assert hashlib.sha256(self.body).hexdigest() == oid
                self.server.stored[oid] = self.body
                self.answer(b"")
            case ["lfs", oid]:
                self.answer(self.server.stored[oid], ETag=f'"{oid}"')
            case [owner, name, "resolve", revision, *file]:
                self.resolve(self.opened(owner, name), revision, "/".join(file))
            case _:
                raise Refused(404, None, None)

    def opened(self, owner, name, write=False):
        repository = self.server.repositories.get(f"{owner}/{name}")
        known = self.headers.get("Authorization") is not None
        if repository is None or (repository.private and not known):
            raise Refused(404 if known else 401, "RepoNotFound", None)
        if repository.gated or (write and not known):
            raise Refused(403, "GatedRepo" if repository.gated else None, None)
        return repository

    def at(self, repository, revision):
        commit = repository.head if revision == "main" else revision
        if commit not in repository.commits:
            raise Refused(404, "RevisionNotFound", None)
        return commit, repository.commits[commit]

    def create(self, wanted):
        if self.headers.get("Authorization") is None:
            raise Refused(401, None, None)
        repo = f"{wanted['organization']}/{wanted['name']}"
        if repo in self.server.repositories:
            self.answer({"url": f"{self.server.address}/{repo}"}, 409)
            return
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.server.add(repo, {".gitattributes": b""}, private=bool(private))
        self.answer({"url": f"{self.server.address}/{repo}", "name": repo})

    def info(self, repository, repo, revision):
        commit, files = self.at(repository, revision)
        siblings = [{"rfilename": file} for file in files]
        answer = {"_id": "0", "id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
        self.answer(answer | {"private": repository.private, "gated": False, "tags": []})

    def tree(self, repository, revision):
        _, files = self.at(repository, revision)
        listed = []
        for path, content in files.items():
            entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            if path.endswith(".safetensors"):
                sum_ = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sum_, "size": len(content), "pointerSize": 134}
            listed.append(entry)
        self.answer(listed)

    def resolve(self, repository, revision, file):
        commit, files = self.at(repository, revision)
        if file not in files:
            raise Refused(404, "EntryNotFound", None)
        content = files[file]
        if not file.endswith(".safetensors"):
            self.answer(content, ETag=f'"{git_oid(content)}"', X_Repo_Commit=commit)
            return
        oid = hashlib.sha256(content).hexdigest()
        self.server.stored[oid] = content
        linked = {"X_Linked_Etag": f'"{oid}"', "X_Linked_Size": str(len(content))}
        # On another host, as on the hub: the client does not follow it before it knows the size.
        where = f"http://localhost:{self.server.server_port}/lfs/{oid}"
        self.answer(b"", 302, Location=where, X_Repo_Commit=commit, **linked)

    def preupload(self, repository):
        there = repository.commits[repository.head]
        files = []
        for file in json.loads(self.body)["files"]:
            path = file["path"]
            mode = "lfs" if path.endswith(".safetensors") else "regular"
            oid = git_oid(there[path]) if path in there and mode == "regular" else None
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": files})

    def batch(self, objects):
        where = f"{self.server.address}/lfs"
        for wanted in objects:
            upload = {"href": f"{where}/{wanted['oid']}", "header": {}}
            wanted["actions"] = {"upload": upload, "verify": {"href": f"{where}/verify"}}
        self.answer({"transfer": "basic", "objects": objects})

    def commit(self, repository):
        files = dict(repository.commits[repository.head])
        for operation in map(json.loads, self.body.splitlines()):
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server.stored[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        oid = repository.commit(files)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/c/{oid}"}
        self.answer(answer | {"pullRequestUrl": None})
