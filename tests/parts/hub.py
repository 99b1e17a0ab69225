"""A stand-in of the Hub on this machine: the requests of its HTTP API that a cache needs, for data set repositories in memory.

Every file is written within a commit (upload mode `regular`). The other mode, in which large files go to a store of their own
before the commit, is that of huggingface_hub and not tried here.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Repositories = dict[str, dict[str, bytes]]
"""Files by path, by the name of the repository, and `name@revision` for another branch than main."""


class Hub:
    """The repositories by name, their files by path, and the commits with the count of files of each."""

    def __init__(self) -> None:
        self.repositories: Repositories = {}
        self.private: set[str] = set()
        self.commits: list[int] = []
        self.refuse_commits_after: int | None = None
        self.before_commit: Callable[[], None] = lambda: None
        self.heads: dict[str, str] = {}
        self.lock = threading.Lock()
        self.address = ""

    @staticmethod
    def branch(name: str, revision: str) -> str:
        return name if revision == "main" else f"{name}@{revision}"

    def head(self, branch: str) -> str:
        return self.heads.get(branch, "0" * 40)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, code: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _json(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._answer(404, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"})

    def _lacks(self, branch: str) -> bool:
        """Answer that there is no such branch or repository, if so."""
        if branch in self.hub.repositories:
            return False
        self._missing("RevisionNotFound" if branch.partition("@")[0] in self.hub.repositories else "RepoNotFound")
        return True

    def _steps(self) -> list[str]:
        # a slash within a step, as in a revision, is quoted
        return [unquote(step) for step in urlsplit(self.path).path.strip("/").split("/")]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, steps = urlsplit(self.path).path, self._steps()
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name not in self.hub.repositories:
                self.hub.repositories[name] = {}
                if asked.get("private") or asked.get("visibility") == "private":
                    self.hub.private.add(name)
                self._json({"url": f"{self.hub.address}/datasets/{name}"})
            else:
                self._answer(
                    409,
                    json.dumps({"url": f"{self.hub.address}/datasets/{name}"}).encode(),
                    {"Content-Type": "application/json"},
                )
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif steps[:2] == ["api", "datasets"] and steps[4] == "preupload":
            files = json.loads(body)["files"]
            self._json(
                {"files": [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]}
            )
        elif steps[:2] == ["api", "datasets"] and steps[4] == "commit":
            self.hub.before_commit()
            with self.hub.lock:
                self._commit(
                    self.hub.branch("/".join(steps[2:4]), steps[5]), [json.loads(line) for line in body.splitlines()]
                )
        else:
            self._missing("EntryNotFound")

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        hub = self.hub
        if hub.refuse_commits_after is not None and len(hub.commits) >= hub.refuse_commits_after:
            self._answer(403, b'{"error": "storage limit reached"}', {"Content-Type": "application/json"})
            return
        if self._lacks(name):
            return
        parent = next(line["value"] for line in lines if line["key"] == "header").get("parentCommit")
        if parent not in (None, hub.head(name)):
            self._answer(412, b'{"error": "A commit has happened since."}', {"Content-Type": "application/json"})
            return
        files = [line["value"] for line in lines if line["key"] == "file"]
        hub.repositories[name] |= {each["path"]: base64.b64decode(each["content"]) for each in files}
        hub.commits.append(len(files))
        oid = hub.heads[name] = f"{len(hub.commits):040x}"
        url = f"{hub.address}/datasets/{name.partition('@')[0]}/commit/{oid}"
        self._json({"commitUrl": url, "commitOid": oid, "commitMessage": ""})

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        steps = self._steps()
        if steps[:2] == ["api", "datasets"] and steps[4] == "tree":
            recursive = parse_qs(parts.query).get("recursive", ["false"])[0].lower() == "true"
            self._tree(self.hub.branch("/".join(steps[2:4]), steps[5]), "/".join(steps[6:]), recursive)
        elif steps[:2] == ["api", "datasets"] and steps[4] == "revision":
            branch = self.hub.branch("/".join(steps[2:4]), steps[5])
            if not self._lacks(branch):
                self._json({"id": "/".join(steps[2:4]), "sha": self.hub.head(branch)})
        elif steps[0] == "datasets" and steps[3] == "resolve":
            self._file(self.hub.branch("/".join(steps[1:3]), steps[4]), "/".join(steps[5:]))
        else:
            self._missing("EntryNotFound")

    def _tree(self, name: str, folder: str, recursive: bool) -> None:
        if self._lacks(name):
            return None
        files = self.hub.repositories[name]
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, content in files.items():
            if not path.startswith(prefix):
                continue
            below = path[len(prefix) :].split("/")
            for depth in range(1, len(below) if recursive else min(len(below), 2)):
                place = prefix + "/".join(below[:depth])
                found[place] = {"type": "directory", "path": place, "oid": "0" * 40, "size": 0}
            if recursive or len(below) == 1:
                found[path] = {"type": "file", "path": path, "oid": "0" * 40, "size": len(content)}
        if folder and not found:
            return self._missing("EntryNotFound")
        return self._json(list(found.values()))

    def _file(self, name: str, path: str) -> None:
        if self._lacks(name):
            return None
        content = self.hub.repositories[name].get(path)
        if content is None:
            return self._missing("EntryNotFound")
        asked = self.headers.get("Range")
        if asked is None:
            return self._answer(200, content)
        first, last = asked.removeprefix("bytes=").split("-")
        start, stop = int(first), min(int(last) + 1, len(content))
        if start >= len(content):
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        return self._answer(206, content[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})


@contextmanager
def served_hub() -> Iterator[Hub]:
    """Start a server without repositories."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
