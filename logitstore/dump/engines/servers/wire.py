"""JSON over HTTP to the server of a language model: an answer comes back, or the dump ends with one line.

Nothing that a server sends stands in an error: neither the body of an answer nor a header. A key is in no error and no file.
"""

from __future__ import annotations

import _thread
import json
import logging
import random
import socket
import ssl
import time
import weakref
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from logitstore.dump.engines.servers.address import KEY, Address, key_from
from logitstore.errors import BadInput, ModelError

GONE = 600.0
"""Seconds without an answer after which a server is given up, counted from the first failure of a request."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
"""Seconds until a request is tried again; each pause is twice as long as the one before, less up to a half by chance."""

CONNECTING, ANSWERING = 5.0, 600.0
"""Seconds that a connection, and an answer, may take."""

MOST_ERRORS = 3
"""How often a route that a server need not have may end in an error of its own (status 500)."""

KEPT = 4.0
"""Seconds that an idle connection is kept. Servers close theirs after 5 seconds or later."""

# at this level the library writes the headers of answers into logs
logging.getLogger("httpcore2").setLevel(logging.INFO)


class Closed(Exception):
    """The wire was closed while a request was under way."""


class Wire:
    """Connections to one server. Any number of threads may ask at the same time.

    A proxy of the environment is used, but not for a server on this machine. Redirects are not followed.
    """

    def __init__(self, address: Address, *, connections: int = 1, keys: tuple[str, ...] = (KEY,)) -> None:
        """Connect to nothing yet.

        Args:
            address: of the server.
            connections: most connections that are open at the same time.
            keys: the environment variables that a key is taken from; the first that is set counts.

        Raises:
            BadInput: the key cannot be one, or the environment names a proxy or certificates that cannot be used.
        """
        self.server = address.url
        self._variable, key = key_from(*keys)
        self._has_key, self._answered, self._is_closed = key is not None, False, False
        limits = httpx2.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEPT
        )
        try:
            self._client = httpx2.Client(
                headers={"Authorization": f"Bearer {key}"} if key else None,
                timeout=httpx2.Timeout(ANSWERING, connect=CONNECTING, pool=None),
                limits=limits,
                trust_env=not address.is_here,
                follow_redirects=False,
            )
        except (ImportError, ValueError, OSError, httpx2.InvalidURL):
            # its text may hold the password of a proxy
            way_out = (
                "Set HTTP_PROXY, HTTPS_PROXY or ALL_PROXY to http://HOST:PORT, SSL_CERT_FILE to a file of them, or none"
            )
            what = f"{self.server}: the proxy or the certificates that the environment names cannot be used. {way_out}."
            raise BadInput(what) from None
        # what a thread waits on is made of C: see `logitstore.core.background`
        self._until_closed, self._guard = _thread.allocate_lock(), _thread.allocate_lock()
        self._until_closed.acquire()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def get(self, route: str, *, optional: bool = False) -> dict[str, Any] | None:
        """Ask for what stands at a route; see `post`."""
        return self._asked("GET", route, None, optional, "Its log says why.")

    def post(
        self, route: str, body: dict[str, Any], *, optional: bool = False, way_out: str = "Its log says why."
    ) -> dict[str, Any] | None:
        """Send a request, again and again where it fails in passing, and return the answer.

        Args:
            route: from the root of the server, such as `/v1/completions`.
            body: what is sent, as JSON.
            optional: whether None is returned where the server has no such route, or does not do what is asked; a key that it
                refuses is found by the next request that is not optional.
            way_out: ends the error where the server refuses what was sent.

        Raises:
            ModelError: the server refuses, or cannot be understood, or is gone. The line holds nothing that it sent.
            Closed: the wire was closed meanwhile.
        """
        return self._asked("POST", route, body, optional, way_out)

    def close(self) -> None:
        """End all requests, those under way too: their threads get `Closed`."""
        self._is_closed = True
        with suppress(RuntimeError):
            self._until_closed.release()
        with self._guard:
            for each in list(self._sockets):
                _shut(each)
        self._client.close()

    def _asked(
        self, method: str, route: str, body: dict[str, Any] | None, optional: bool, way_out: str
    ) -> dict[str, Any] | None:
        status, content = self._answer(method, route, body, MOST_ERRORS if optional else None)
        if optional and (400 <= status < 500 or status in (500, 501)):
            return None
        if not 200 <= status < 300:
            raise ModelError(f"{self.server}: {self._refusal(status, f'{method} {route}', way_out)}")
        try:
            answer = json.loads(content, parse_int=_whole)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            if optional:
                return None
            raise ModelError(
                f"{self.server}: its answer to {method} {route} is no JSON object, or only the beginning of one. Check the "
                "address, and what stands between here and the server."
            )
        return answer

    def _answer(
        self, method: str, route: str, body: dict[str, Any] | None, most_errors: int | None
    ) -> tuple[int, bytes]:
        """Return the status and the body of an answer that is no passing failure, or of the last of so many errors."""
        since, pause, errors = None, FIRST_PAUSE, 0
        while True:
            at_least = 0.0
            try:
                if self._is_closed:
                    raise Closed
                response = self._client.request(
                    method, f"{self.server}{route}", json=body, extensions={"trace": self._seen}
                )
                status, content = response.status_code, response.content
            except (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol) as error:
                raise ModelError(f"{self.server}: no request can be sent there: {type(error).__name__}.") from None
            except (httpx2.RequestError, RuntimeError, OSError) as error:
                if self._is_closed:
                    raise Closed from None
                if not isinstance(error, httpx2.RequestError):
                    raise
                trouble = self._trouble(error)
            else:
                self._answered = True
                errors += status == 500
                if errors == most_errors or not (
                    status in (408, 425, 429) or (status >= 500 and status not in (501, 505))
                ):
                    return status, content
                trouble = f"it answers {method} {route} with status {status}"
                at_least = _seconds_after(response.headers.get("retry-after", ""))
            now = time.monotonic()
            since = now if since is None else since
            wait = max(at_least, pause * random.uniform(0.5, 1.0))
            if now - since + wait > GONE:
                asks = f", and asks to wait for {at_least:,.0f} seconds" if at_least > GONE else ""
                raise ModelError(
                    f"{self.server}: {trouble}{asks}. It was given up after {(now - since) / 60:.0f} minutes. What is "
                    "committed stays; run the same command again when the server answers."
                )
            if self._until_closed.acquire(timeout=wait):
                self._until_closed.release()
                raise Closed
            pause = min(2 * pause, LONGEST_PAUSE)

    def _trouble(self, error: httpx2.RequestError) -> str:
        """Say what became of a request. Raises ModelError where it never works: nobody listens there."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
            what = (
                "no encrypted connection can be made; is its certificate known here?"
                if cause
                else "nobody answers there"
            )
            if not self._answered:
                raise ModelError(
                    f"{self.server}: {what.rstrip('?')}. Start the server, or correct the address."
                ) from None
            return what
        if isinstance(error, httpx2.TimeoutException):
            return f"no answer came within {ANSWERING:.0f} seconds"
        return "the connection broke off"

    def _refusal(self, status: int, request: str, way_out: str) -> str:
        """Say why there is no answer, and what to do."""
        if status in (401, 403):
            refused = f"the key in {self._variable}" if self._has_key else "a request without a key"
            return f"it refuses {refused} (status {status}). Set the environment variable {self._variable} to its key."
        if status in (404, 405):
            return (
                f"it has no {request} (status {status}). Check the address, and that --engine names what serves there."
            )
        if 300 <= status < 400:
            return f"it sends {request} to another address (status {status}), which is not followed. Give that address."
        return f"it refuses {request} (status {status}). {way_out}"

    def _seen(self, event: str, info: dict[str, Any]) -> None:
        """Note the sockets, so that `close` can end what waits for them."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            made = info["return_value"].get_extra_info("socket")
            if isinstance(made, socket.socket):
                with self._guard:
                    self._sockets.add(made)
                if self._is_closed:
                    _shut(made)


def _shut(made: socket.socket) -> None:
    """Wake who waits for a socket."""
    with suppress(OSError, ValueError):
        made.shutdown(socket.SHUT_RDWR)


def _whole(digits: str) -> int | float:
    """Return a number of JSON; one that 64 bits do not hold is no count and no id, and becomes a float."""
    return int(digits) if len(digits) < 19 else float(digits)


def _seconds_after(text: str) -> float:
    """Return the seconds that a header Retry-After asks to wait: a count, or a date."""
    if text.strip().isdecimal():
        return float(text[:12])
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max((until - datetime.now(UTC)).total_seconds(), 0.0)
