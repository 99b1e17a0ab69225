"""Where a server listens, and the key that it wants. A password or a key is in no error, no log and no file."""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from logitstore.errors import BadInput

KEY = "LOGITSTORE_API_KEY"
"""The environment variable that a server's key is taken from."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens, and which of its models is meant.

    Attributes:
        url: scheme, host, port and path; without the `/v1` at the end of the path, which belongs to the routes.
        model: what stands behind '#'; None where nothing does.
    """

    url: str
    model: str | None

    @classmethod
    def parse(cls, name: str) -> Address:
        """Take an address apart, such as `http://localhost:8000/v1#owner/model`.

        Raises:
            BadInput: it is no such address, or holds a user, a password or a query.
        """
        try:
            parts = urlsplit(name)
            host, port = parts.hostname, parts.port
            is_address = parts.scheme in ("http", "https") and host and port != 0 and name.isprintable()
            # a name whose parts are empty, or longer than any, has no such form
            is_address = is_address and (":" in str(host) or bool(str(host).encode("idna")))
        except ValueError:
            is_address = False
        if not is_address or host is None or " " in name.partition("#")[0]:
            raise BadInput(
                "--teacher: this is no address of a server. Write http://HOST:PORT or http://HOST:PORT#MODEL."
            )
        place = f"[{host}]" if ":" in host else host
        url = f"{parts.scheme}://{place}" + ("" if port is None else f":{port}")
        if parts.username is not None or parts.password is not None or parts.query or "?" in name.partition("#")[0]:
            raise BadInput(
                f"--teacher {url}: a user, a password or a query in an address would be stored with the cache. Leave it out; "
                f"a key belongs into the environment variable {KEY}."
            )
        return cls(url=url + parts.path.rstrip("/").removesuffix("/v1").rstrip("/"), model=parts.fragment or None)

    @property
    def is_here(self) -> bool:
        """True for a server on this machine."""
        host = urlsplit(self.url).hostname or ""
        with suppress(ValueError):
            return ipaddress.ip_address(host).is_loopback
        return host == "localhost" or host.endswith(".localhost")


def key_from(*variables: str) -> tuple[str, str | None]:
    """Return the environment variable that a key is taken from, the first that is set, and the key.

    Raises:
        BadInput: the key has characters that no header can carry.
    """
    for variable in variables:
        if key := os.environ.get(variable, "").strip():
            if not key.isascii() or not key.isprintable() or " " in key:
                raise BadInput(f"{variable}: the key has spaces or characters that no key has. Set the variable again.")
            return variable, key
    return variables[0], None
