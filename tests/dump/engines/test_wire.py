"""What stands between this process and a server: addresses, proxies, pauses, and a line for each way to fail."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from logitstore.dump.engines.servers import wire
from logitstore.dump.engines.servers.address import KEY, Address
from logitstore.dump.engines.servers.vllm import _entries
from logitstore.dump.engines.servers.wire import Closed, Wire
from logitstore.errors import BadInput, ModelError
from tests.parts.warm import free_port


@pytest.mark.parametrize(
    ("name", "url", "model", "here"),
    [
        ("http://localhost:8000", "http://localhost:8000", None, True),
        ("http://localhost:8000/v1/#owner/model", "http://localhost:8000", "owner/model", True),
        ("https://API.example.org/api/v1#m::f.gguf", "https://api.example.org/api", "m::f.gguf", False),
        ("http://[::1]:30000/#/a/folder", "http://[::1]:30000", "/a/folder", True),
        ("http://10.0.0.7", "http://10.0.0.7", None, False),
        ("http://127.8.9.1:1/v1", "http://127.8.9.1:1", None, True),
    ],
)
def test_an_address_is_taken_apart(name: str, url: str, model: str | None, here: bool) -> None:
    address = Address.parse(name)
    assert (address.url, address.model, address.is_here) == (url, model, here)


@pytest.mark.parametrize(
    "name",
    [
        "ftp://host",
        "http:host",
        "http://",
        "http://host:99999",
        "http://ho\tst",
        "http://[::1",
        "http://a..b:1",
        "http://.:1",
    ],
)
def test_what_is_no_address_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="Write http://HOST:PORT or http://HOST:PORT#MODEL"):
        Address.parse(name)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("0", 0, 0),
        ("17", 17, 17),
        ("", 0, 0),
        ("soon", 0, 0),
        ("-3", 0, 0),
        ("nan", 0, 0),
        ("9" * 400, 1e11, 1e12),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2015 07:28:00", 0, 0),
        ("Wed, 99 Foo 2015", 0, 0),
        ("Mon, 01 Jan 2020 00:00:00 +999999999999999", 0, 0),
    ],
)
def test_what_a_server_asks_to_wait_is_understood(text: str, low: float, high: float) -> None:
    assert low <= wire._seconds_after(text) <= high


def test_a_server_may_name_the_moment() -> None:
    text = format_datetime(datetime.now(UTC) + timedelta(seconds=1000), usegmt=True)
    assert 900 <= wire._seconds_after(text) <= 1000


class Listening:
    """A server that answers each request with the same bytes, and keeps what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.got: list[bytes] = []
        self._answer = answer
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.got.append(connection.recv(1 << 16))
                connection.sendall(self._answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def answer(status: str, content: bytes = b"", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{more}\r\n".encode() + content


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    with closing(Listening(answer("200 OK", b'{"via": "proxy"}'))) as running:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{running.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        yield running


def test_a_proxy_of_the_environment_is_used_but_not_for_this_machine(proxy: Listening) -> None:
    with closing(Wire(Address.parse("http://server.invalid:81"))) as far:
        assert far.get("/about") == {"via": "proxy"}
    assert proxy.got[0].startswith(b"GET http://server.invalid:81/about HTTP/1.1\r\n")
    with (
        closing(Listening(answer("200 OK", b'{"via": "nothing"}'))) as own,
        closing(Wire(Address.parse(f"http://localhost:{own.port}"))) as near,
    ):
        assert near.get("/about") == {"via": "nothing"}
    assert len(proxy.got) == 1


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("http_proxy", "socks5://me:hunter2@127.0.0.1:9"),
        ("http_proxy", "foo://me:hunter2@x"),
        ("SSL_CERT_FILE", "/no/where"),
    ],
)
def test_a_proxy_or_certificates_that_cannot_be_used_are_told_without_their_password(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput, match="the proxy or the certificates that the environment names") as told:
        Wire(Address.parse("https://server.invalid:81"))
    assert "hunter2" not in str(told.value)


def test_a_number_that_64_bits_do_not_hold_is_none_that_is_counted() -> None:
    content = b'{"id": 12345678901234567890123, "low": -' + b"9" * 400 + b', "logprob": -1, "most": 999999999999999999}'
    with (
        closing(Listening(answer("200 OK", content))) as own,
        closing(Wire(Address.parse(f"http://localhost:{own.port}"))) as wired,
    ):
        said = wired.get("/about")
    assert said == {"id": 12345678901234567890123.0, "low": -math.inf, "logprob": -1, "most": 999999999999999999}
    assert isinstance(said["id"], float)
    assert _entries({"9" * 30: {"logprob": -1.0, "rank": 1}}, "9" * 30) is None


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (
            answer("302 Found", b"", "Location: http://127.0.0.1:1/secret\r\n"),
            "to another address (status 302), which is not",
        ),
        (
            answer("404 Not Found", b"secret"),
            "it has no POST /about (status 404). Check the address, and that --engine names",
        ),
        (answer("400 Bad Request", b"secret"), "it refuses POST /about (status 400). Its log says why."),
        (answer("403 Forbidden", b"secret"), "it refuses the key in LOGITSTORE_API_KEY (status 403)"),
        (answer("200 OK", b"[1]"), "its answer to POST /about is no JSON object"),
        (answer("200 OK", b"[" * 100_000), "its answer to POST /about is no JSON object"),
        (answer("200 OK", b"\xff\xfe"), "its answer to POST /about is no JSON object"),
        (answer("501 Not Implemented", b"secret"), "it refuses POST /about (status 501)"),
    ],
)
def test_what_does_not_pass_is_told_at_once(sent: bytes, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    with closing(Listening(sent)) as server, closing(Wire(Address.parse(f"http://127.0.0.1:{server.port}"))) as asked:
        with pytest.raises(ModelError) as caught:
            asked.post("/about", {})
        assert says in str(caught.value)
        assert "secret" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert b"uthorization: Bearer secret" in server.got[0]
        if not sent.startswith(b"HTTP/1.1 30"):
            assert asked.post("/about", {}, optional=True) is None


@pytest.mark.parametrize("sent", [b"", b"nonsense\r\n\r\n", answer("503 Busy"), answer("200 OK", b"{}")[:-1]])
def test_what_may_pass_is_asked_again_until_the_server_counts_as_gone(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "GONE", 0.4)
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.05)
    with (
        closing(Listening(sent)) as server,
        closing(Wire(Address.parse(f"http://127.0.0.1:{server.port}"))) as asked,
        pytest.raises(ModelError, match=r"It was given up after 0 minutes\. What is committed stays"),
    ):
        asked.post("/about", {})
    assert 3 <= len(server.got) <= 6


def test_a_server_that_was_never_there_is_told_at_once() -> None:
    with (
        closing(Wire(Address.parse(f"http://127.0.0.1:{free_port()}"))) as asked,
        pytest.raises(ModelError, match=r"nobody answers there\. Start the server, or correct the address"),
    ):
        asked.get("/about")


def test_pauses_grow_and_closing_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Listening(answer("503 Busy"))) as server:
        asked = Wire(Address.parse(f"http://127.0.0.1:{server.port}"))
        monkeypatch.setattr(wire, "FIRST_PAUSE", 60.0)
        ended: list[BaseException] = []

        def ask() -> None:
            try:
                asked.get("/about")
            except Closed as error:
                ended.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not server.got:
            time.sleep(0.01)
        time.sleep(0.1)
        asked.close()
        thread.join(2)
        assert not thread.is_alive()
        assert len(ended) == 1
        with pytest.raises(Closed):
            asked.get("/about")
