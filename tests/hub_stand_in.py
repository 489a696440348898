"""A small Hugging Face Hub on the loopback interface, for tests of everything that talks to the Hub.

It keeps repositories in memory and speaks just the part of the Hub's HTTP interface that `huggingface_hub` uses to
look at, download, create and commit to model repositories. Give its `endpoint` to a function, or to a subprocess by
the environment variable `HF_ENDPOINT` (which is read when `huggingface_hub` is imported).
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Repository:
    """Commits, oldest first: `(sha, files by path)`."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    private: bool = False
    names: dict[str, str] = field(default_factory=dict)  # branch or tag -> sha, "main" follows the last commit

    def commit(self, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(str(len(self.commits)).encode())
        for path in sorted(files):
            digest.update(path.encode() + b"\0" + files[path])
        self.commits.append((digest.hexdigest(), dict(files)))
        self.names["main"] = digest.hexdigest()
        return digest.hexdigest()

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        sha = self.names.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == sha), None)


class HubStandIn:
    """The server, as a context manager.

    Example:

        with HubStandIn() as hub:
            hub.add_folder("you/my-mug", folder)
            snapshot_download("you/my-mug", endpoint=hub.endpoint)
    """

    valid_token = "hf_stand_in"

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []  # (method, path), as they came
        self._connections: list[socket.socket] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> HubStandIn:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server, as if the network were down. May be called again."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._connections:
            with suppress(OSError):  # closed by the other side
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add_folder(self, repo_id: str, folder: str | Path, *, private: bool = False) -> str:
        """Commits the whole content of `folder` to a repository, made if needed. Returns the commit's sha."""
        folder = Path(folder)
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        repository = self.repositories.setdefault(repo_id, Repository())
        repository.private = private
        return repository.commit(files)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository by path."""
        commit = self.repositories[repo_id].at(revision)
        if commit is None:
            raise KeyError(revision)
        return commit[1]


class _Handler(BaseHTTPRequestHandler):
    hub: HubStandIn
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub._connections.append(self.connection)

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def _route(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, url.path))
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts == ["api", "whoami-v2"]:
            authorized = self._authorized()
            return self._json(
                {"name": "you", "type": "user", "orgs": []} if authorized else {}, 200 if authorized else 401
            )
        if parts == ["api", "validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts[:2] == ["api", "models"]:
            return self._api("/".join(parts[2:4]), parts[4:], parse_qs(url.query), body)
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        return self._error(404, "", f"no such endpoint: {self.command} {self.path}")

    # --- endpoints ---

    def _create(self, payload: dict) -> None:
        repo_id = f"{payload.get('organization') or 'you'}/{payload['name']}"
        if not self._authorized():
            return self._error(401, "", "Invalid username or password.")
        if repo_id in self.hub.repositories:
            return self._json(
                {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{repo_id}"}, 409
            )
        private = payload.get("visibility") == "private" or bool(payload.get("private"))
        repository = self.hub.repositories[repo_id] = Repository(private=private)
        repository.commit({".gitattributes": b""})
        return self._json({"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id, "id": repo_id})

    def _api(self, repo_id: str, rest: list[str], query: dict[str, list[str]], body: bytes) -> None:
        repository = self._repository(repo_id)
        if repository is None:
            return self._error(401, "RepoNotFound", "Repository not found")
        action, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        commit = repository.at(revision)
        if commit is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        sha, files = commit
        if action == "revision":
            siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
            return self._json(
                {
                    "_id": repo_id,
                    "id": repo_id,
                    "modelId": repo_id,
                    "sha": sha,
                    "private": repository.private,
                    "gated": False,
                    "disabled": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": siblings,
                }
            )
        if action == "tree":
            prefix = "/".join(rest[2:])
            prefix = prefix + "/" if prefix else ""
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            entries = {}
            for path, data in files.items():
                if not path.startswith(prefix):
                    continue
                head, _, tail = path.removeprefix(prefix).partition("/")
                if tail and not recursive:
                    entries[prefix + head] = {"type": "directory", "path": prefix + head, "oid": "0" * 40, "size": 0}
                else:
                    entries[path] = {"type": "file", "path": path, "oid": _etag(data), "size": len(data)}
            return self._json(list(entries.values()))
        if action == "preupload":
            return self._json(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                        for f in json.loads(body)["files"]
                    ]
                }
            )
        if action == "commit":
            return self._commit(repo_id, repository, files, body)
        return self._error(404, "", f"no such endpoint: {self.path}")

    def _commit(self, repo_id: str, repository: Repository, files: dict[str, bytes], body: bytes) -> None:
        if not self._authorized():
            return self._error(401, "", "Invalid username or password.")
        files = dict(files)
        for line in body.decode().splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "deletedFolder":
                files = {
                    path: data for path, data in files.items() if not path.startswith(value["path"].rstrip("/") + "/")
                }
            elif key != "header":
                return self._error(400, "", f"unknown operation {key}")
        sha = repository.commit(files)
        return self._json(
            {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{sha}"}
        )

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository = self._repository(repo_id)
        if repository is None:
            return self._error(401, "RepoNotFound", "Repository not found")
        commit = repository.at(revision)
        if commit is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        sha, files = commit
        if path not in files:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": sha})
        return self._send(200, files[path], {"ETag": f'"{_etag(files[path])}"', "X-Repo-Commit": sha})

    # --- answers ---

    def _authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.valid_token}"

    def _repository(self, repo_id: str) -> Repository | None:
        repository = self.hub.repositories.get(repo_id)
        return repository if repository is None or not repository.private or self._authorized() else None

    def _json(self, payload: object, status: int = 200) -> None:
        self._send(status, json.dumps(payload).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        headers = {
            "Content-Type": "application/json",
            "X-Error-Code": code,
            "X-Error-Message": message,
            **(headers or {}),
        }
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
