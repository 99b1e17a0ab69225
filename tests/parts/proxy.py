"""What stands between a client and a store and does what networks do at times: it refuses, waits, cuts, loses, repeats."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Rule:
    """What happens to some requests.

    Attributes:
        method, path: expressions that the request must match, the path with its query.
        does: "answer" with a status and a code of S3; be "slow"; "cut" the answer in its middle; send the request on "twice";
            "lose" the answer of a request that was served; close in the middle of an "upload"; "strip" a header; add a "query".
        value: seconds, (status, code), the name of a header, or a query.
        times: how many requests it holds for; the first `skip` that match are left alone.
        then: is called in the middle: before the connection is closed.
    """

    method: str
    path: str
    does: str
    value: object = None
    times: int = 1
    skip: int = 0
    then: Callable[[], None] = field(default=lambda: None)


class Proxy:
    """Rules, the address to use in place of the server's, and the requests that came."""

    def __init__(self, server: str) -> None:
        self.server = urlsplit(server).netloc
        self.rules: list[Rule] = []
        self.requests: list[str] = []
        self._lock = threading.Lock()

        class Handler(_Handler):
            proxy = self

        self.listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.listening.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.listening.server_port}"

    def add(self, method: str, path: str, does: str, value: object = None, **more: object) -> Rule:
        rule = Rule(method, path, does, value, **more)  # type: ignore[arg-type]
        self.rules.append(rule)
        return rule

    def count(self, pattern: str) -> int:
        """How many requests matched, as "METHOD path range"."""
        return sum(re.search(pattern, request) is not None for request in list(self.requests))

    def rule_for(self, method: str, path: str, span: str) -> Rule | None:
        with self._lock:
            self.requests.append(f"{method} {path} {span}".rstrip())
            for rule in self.rules:
                if rule.times and re.fullmatch(rule.method, method) and re.search(rule.path, path):
                    if rule.skip:
                        rule.skip -= 1
                        continue
                    rule.times -= 1
                    return rule
        return None


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        rule = self.proxy.rule_for(self.command, self.path, self.headers.get("Range", ""))
        does, value = (rule.does, rule.value) if rule else ("", None)
        size = int(self.headers.get("Content-Length") or 0)
        if does == "upload":
            self.rfile.read(size // 2)
            return self._leave(rule)
        body = self.rfile.read(size)
        if isinstance(value, tuple) and does == "answer":
            text = f"<Error><Code>{value[1]}</Code><Message>as the test says</Message></Error>".encode()
            return self._answer(value[0], [("Content-Type", "application/xml")], text)
        if does == "slow":
            time.sleep(float(str(value)))
        if does == "query":
            self.path += f"{'&' if '?' in self.path else '?'}{value}"
        if does == "strip":
            del self.headers[str(value)]
        for _ in range(2 if does == "twice" else 1):
            status, headers, content = self._passed_on(body)
        if does == "lose":
            return self._leave(rule)
        return self._answer(status, headers, content, rule if does == "cut" else None)

    def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.proxy.server, timeout=60)
        connection.request(self.command, self.path, body or None, dict(self.headers.items()))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        left_out = {"connection", "transfer-encoding", "date", "server"} | ({"content-length"} if content else set())
        return answer.status, [(k, v) for k, v in answer.getheaders() if k.lower() not in left_out], content

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: Rule | None = None) -> None:
        self.send_response(status)
        if content or self.command != "HEAD":
            headers = [
                *((k, v) for k, v in headers if k.lower() != "content-length"),
                ("Content-Length", str(len(content))),
            ]
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self._leave(cut)

    def _leave(self, rule: Rule | None) -> None:
        self.wfile.flush()
        if rule is not None:
            rule.then()
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def between(server: str) -> Iterator[Proxy]:
    """Start a proxy before a server."""
    proxy = Proxy(server)
    thread = threading.Thread(target=proxy.listening.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.listening.shutdown()
        proxy.listening.server_close()
