"""Where far caches are read through on this node, and how large that folder may become: what the environment says.

Environment variables, because every process of a run has to agree, those that it starts too. The options of the commands
set them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from logitstore.core.place import Place, split_scheme
from logitstore.core.types import bytes_of
from logitstore.errors import BadInput

FOLDER = "LOGITSTORE_CACHE"
SIZE = "LOGITSTORE_CACHE_SIZE"
ONE_WRITER = "LOGITSTORE_ONE_WRITER"
RETRY = "LOGITSTORE_RETRY_SECONDS"

RETRIED_SECONDS = 180.0
"""How long one request is tried again, where the environment does not say. Longer ones outlive their signature."""

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "GOOGLE_BASE_URL")
"""The variables that name a server. One without encryption, as in a local network, is believed where it is named so."""


def use_local_cache(places: Iterable[Place], folder: Path | None, size: str | None) -> None:
    """Let this process, and those that it starts from now on, read far caches through a folder within a bound.

    Args:
        places: the caches that are read or written.
        folder: where parts are brought to; None leaves what the environment says.
        size: most bytes of it, as a text such as 500GB; None leaves what the environment says.

    Raises:
        BadInput: no cache lies in another storage, or `size` is no size.
    """
    if folder is None and size is None:
        return
    if not any(split_scheme(place)[0] for place in places):
        option = f"--local-cache-size {size}" if folder is None else f"--local-cache {folder}"
        raise BadInput(f"{option}: no cache of this command lies in an object store. Leave it out.")
    if size is not None:
        try:
            bytes_of(size)
        except ValueError as error:
            raise BadInput(f"--local-cache-size {size}: {error}. Write a size such as 500GB.") from error
        os.environ[SIZE] = size
    if folder is not None:
        # processes that are started may work in other folders
        os.environ[FOLDER] = os.path.abspath(os.path.expanduser(folder))


def local_cache() -> Path:
    """Return the folder: that of LOGITSTORE_CACHE, else `logitstore` in the user's folder of caches."""
    given = os.environ.get(FOLDER)
    return Path(given or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / ("" if given else "logitstore")


def local_cache_size() -> int | None:
    """Return the bytes that the folder may take, as LOGITSTORE_CACHE_SIZE says; None for no bound.

    Raises:
        BadInput: it says no size.
    """
    given = os.environ.get(SIZE)
    try:
        return bytes_of(given) if given else None
    except ValueError as error:
        raise BadInput(f"{SIZE}={given}: {error}. Write a size such as 500GB.") from error


def one_writer() -> bool:
    """Say whether the user has said that one command writes at a time, for stores that cannot refuse a second writer."""
    return os.environ.get(ONE_WRITER, "") not in ("", "0")


def retried_seconds() -> float:
    """Return how long one request is tried again, as LOGITSTORE_RETRY_SECONDS says.

    Raises:
        BadInput: it says no number of seconds.
    """
    given = os.environ.get(RETRY)
    try:
        seconds = float(given) if given else RETRIED_SECONDS
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise BadInput(f"{RETRY}={given}: give a number of seconds up to 86400, such as 180.")
    return seconds


def endpoints() -> list[str]:
    """Return the servers that the environment names.

    Raises:
        BadInput: one without http:// or https://.
    """
    named = {name: url for name in ENDPOINTS if (url := os.environ.get(name))}
    for name, url in named.items():
        if not url.startswith(("http://", "https://")):
            raise BadInput(f"{name}={url}: write http:// or https:// before it.")
    return list(named.values())
