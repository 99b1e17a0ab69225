"""The objects of one place in an object store: what is read, written and listed there, and how its refusals are told.

The store may be of S3 or of anything that speaks like it (`s3://bucket/name`, with the variables AWS_*), of Google (`gs://`) or
of Azure (`az://container/name`). `memory://name/...` lies in the memory of this process.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple

from logitstore.core.place import split_scheme
from logitstore.errors import BadInput, StorageError, one_line

RETRIED_SECONDS = 180
"""How long one request is tried again, in seconds: LOGITSTORE_RETRY_SECONDS changes it. Longer ones outlive their signature."""

LARGEST_OBJECT = 5 * 2**30
"""Most bytes that S3 takes in one request, and so the most of a part, whose one request is its commit."""

PIECE_BYTES, PIECES = 8 << 20, 4
"""A larger object is fetched in a first piece of so many bytes and then in at most so many others at the same time."""

_EXPIRED = re.compile(
    r"ExpiredToken|RequestExpired|TokenRefreshRequired|ExpiredAuthentication|token .*expired", re.IGNORECASE
)
_DENIED = re.compile(
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|Unauthorized|credential", re.IGNORECASE
)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|The specified bucket does not exist", re.IGNORECASE)

_NO_RANGE = re.compile(r"\b416\b|InvalidRange")
_CUT = re.compile(r"response body|connection (closed|reset)|incomplete message", re.IGNORECASE)

CUTS, CONFLICTS = 4, 10
"""How often an answer that is cut off is asked for again, and a write that the store refuses although nothing is there."""

_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "GOOGLE_BASE_URL")
"""The variables that name a server. One without encryption, as in a local network, is believed where it is named so."""

_MEMORY: dict[str, Any] = {}
_LOCK = threading.Lock()

_USED: dict[str, int] = {}
"""The process that has asked a store: the threads of obstore are not there in those that it forks."""


class Found(NamedTuple):
    """An object, as a store tells of it; `modified` in seconds since 1970, 0 where it does not say."""

    name: str
    size: int
    modified: float


@cache
def library() -> Any:
    """Return obstore. Raises BadInput where it is not installed."""
    try:
        return import_module("obstore")
    except ImportError as error:
        raise BadInput(
            f"a cache in an object store needs obstore ({one_line(error)}). Install it: pip install 'logitstore[s3]'."
        ) from error


class Objects:
    """The objects below one address. Names are relative to it.

    A request that meets a busy or broken server, or a cut connection, is made again for some minutes, later and later.
    """

    def __init__(self, address: str) -> None:
        """Take the address; nothing is asked.

        Raises:
            BadInput: obstore is not installed, or the address names no bucket.
        """
        scheme, rest = split_scheme(address.rstrip("/"))
        bucket, _, name = rest.partition("/")
        if not bucket or any(step in ("", ".", "..") for step in rest.split("/")):
            raise BadInput(
                f"{address}: no bucket, or a step of the name is empty, '.' or '..'. Write {scheme}://bucket/name."
            )
        self.address = f"{scheme}://{rest}"
        self._prefix = f"{name}/" if name else ""
        self._store = _opened(scheme, bucket)

    def within(self, folder: str) -> Objects:
        """Return the objects below a folder."""
        return Objects(f"{self.address}/{folder}")

    def head(self, name: str) -> Found | None:
        """Return what the store tells of an object; None if there is none."""
        try:
            with self._told(name):
                return self._found(library().head(self._store, self._key(name)))
        except FileNotFoundError:
            return None
        except StorageError:
            # a refusal of this request has no words; one of a byte says why
            try:
                with self._told(name):
                    library().get(self._store, self._key(name), options={"range": (0, 1)})
            except FileNotFoundError:
                return None
            raise

    def read(self, name: str) -> bytes:
        """Return the contents of an object. Raises FileNotFoundError: there is none."""
        return self.read_tagged(name)[0]

    def read_tagged(self, name: str) -> tuple[bytes, dict[str, Any]]:
        """Return the contents of an object, and what `swap` needs to know that it is still the same."""
        with self._told(name):
            answer = library().get(self._store, self._key(name))
            tag = {name: answer.meta[name] for name in ("e_tag", "version") if answer.meta[name] is not None}
            return bytes(answer.bytes()), tag

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes of an object from `start` on and before `stop`; fewer where it ends before."""
        with self._told(name):
            return bytes(library().get_range(self._store, self._key(name), start=start, end=stop))

    def begin(self, name: str, count: int) -> tuple[bytes, int]:
        """Return at most so many first bytes of an object, and its size: one request.

        Raises:
            FileNotFoundError: there is none.
        """
        try:
            with self._told(name):
                answer = library().get(self._store, self._key(name), options={"range": (0, count)})
                return bytes(answer.bytes()), int(answer.meta["size"])
        except StorageError as error:
            # of an object without bytes no range can be asked for
            if not _NO_RANGE.search(str(error.__cause__)):
                raise
            return b"", 0

    def rest(self, name: str, begun: bytes, size: int) -> bytes:
        """Return an object of which the beginning is there: the rest in several requests at a time where it is large."""
        left = size - len(begun)
        if left <= 0:
            return begun
        pieces = min(-(-left // PIECE_BYTES), PIECES)
        edges = [len(begun) + left * place // pieces for place in range(pieces + 1)]
        with self._told(name):
            found = library().get_ranges(self._store, self._key(name), starts=edges[:-1], ends=edges[1:], coalesce=0)
            return b"".join([begun, *found])

    def put(self, name: str, content: bytes) -> None:
        """Write an object; one that is there is replaced."""
        with self._told(name):
            library().put(self._store, self._key(name), content, use_multipart=False)

    def put_first(self, name: str, content: bytes) -> bool:
        """Write an object if there is none; return False if there is one with other contents.

        A store may have written an object although its answer got lost; then the request that is made again finds it there.
        So the contents decide who was first. Of two writers at the same moment a store may refuse both.
        """
        for _ in range(CONFLICTS):
            try:
                with self._told(name):
                    library().put(self._store, self._key(name), content, mode="create", use_multipart=False)
                    return True
            except FileExistsError:
                with suppress(FileNotFoundError):
                    return self._holds(name, content)
        raise StorageError(
            f"{self.address}/{name}: the store says that it is there, and that it is not. Try again later."
        )

    def swap(self, name: str, known: dict[str, Any], content: bytes) -> bool:
        """Replace an object that nobody has changed since it was read with `read_tagged`; return False if somebody has."""
        try:
            with self._told(name):
                library().put(self._store, self._key(name), content, mode=known, use_multipart=False)
        except FileExistsError:
            return self._holds(name, content)
        return True

    def _holds(self, name: str, content: bytes) -> bool:
        begun, size = self.begin(name, PIECE_BYTES)
        return size == len(content) and self.rest(name, begun, size) == content

    def below(self, prefix: str) -> Iterator[Found]:
        """Return all objects whose names begin with a prefix that ends with a slash, or is empty, in order."""
        last = None
        for attempt in range(CUTS + 1):
            try:
                with self._told(prefix):
                    for page in library().list(self._store, self._key(prefix) or None, offset=last, chunk_size=1000):
                        last = page[-1]["path"] if page else last
                        yield from map(self._found, page)
                    return
            except StorageError as error:
                if attempt == CUTS or not _CUT.search(str(error.__cause__)):
                    raise

    def right_below(self, folder: str) -> list[str]:
        """Return the names of the folders and objects right below a folder."""
        whole = self._key(f"{folder}/" if folder else "")
        found = self._again(folder, lambda: library().list_with_delimiter(self._store, whole or None))
        names = [*found["common_prefixes"], *(each["path"] for each in found["objects"])]
        return sorted(name[len(whole) :].rstrip("/") for name in names)

    def delete(self, names: list[str]) -> None:
        """Remove objects; those that are not there are left out."""
        for name in names:
            with suppress(FileNotFoundError):
                self._again(name, partial(library().delete, self._store, self._key(name)))

    def _again(self, name: str, ask: Callable[[], Any]) -> Any:
        """Ask what may be asked twice, and ask again where the answer was cut off, which obstore does for contents alone."""
        for attempt in range(CUTS + 1):
            try:
                with self._told(name):
                    return ask()
            except StorageError as error:
                if attempt == CUTS or not _CUT.search(str(error.__cause__)):
                    raise
        return None

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _found(self, meta: Any) -> Found:
        return Found(meta["path"][len(self._prefix) :], int(meta["size"]), meta["last_modified"].timestamp())

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """Retell what obstore raises: FileExistsError where another writer was first, FileNotFoundError, or StorageError."""
        where = f"{self.address}/{name}" if name else self.address
        known = import_module("obstore.exceptions")
        if _USED.setdefault("process", os.getpid()) != os.getpid():
            raise StorageError(
                f"{where}: this process was forked from one that had used a store, and would wait for ever. Start it with "
                "'spawn', such as DataLoader(..., multiprocessing_context='spawn')."
            )
        try:
            yield
        except (known.AlreadyExistsError, known.PreconditionError) as error:
            raise FileExistsError(errno.EEXIST, "another writer was first", where) from error
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise StorageError(f"{where}: {_reason(error)}") from error
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where) from error
        except (known.BaseError, OSError, ValueError) as error:
            raise StorageError(f"{where}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = str(error).partition("Debug source")[0]
    said = _said(text)
    if _NO_BUCKET.search(text):
        return f"the bucket does not exist ({said}). Make it, or write the address of another one."
    if _EXPIRED.search(text):
        return f"the credentials have expired ({said}). Renew them; the same command then goes on where it stopped."
    if type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError") or _DENIED.search(text):
        return f"the store refuses access ({said}). Check the credentials (AWS_ACCESS_KEY_ID, ... for s3://) and the rights."
    return f"the store did not answer as it should ({said}). Check the connection and the address; then run the command again."


def _said(text: str) -> str:
    """Return what a store said, short enough for one line."""
    code, message = re.search(r"<Code>(.*?)</Code>", text), re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    if code is not None:
        return f"{code[1]}: {message[1]}"[:200] if message is not None else code[1]
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"...{text[-200:]}"


def _opened(scheme: str, bucket: str) -> Any:
    stores = import_module(f"{library().__name__}.store")
    if scheme == "memory":
        with _LOCK:
            return _MEMORY.setdefault(bucket, stores.MemoryStore())
    seconds = float(os.environ.get("LOGITSTORE_RETRY_SECONDS", RETRIED_SECONDS))
    retry = {
        "max_retries": 20,
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
    }
    is_open = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    try:
        return stores.from_url(
            f"{scheme}://{bucket}", retry_config=retry, client_options={"allow_http": True} if is_open else None
        )
    except (import_module("obstore.exceptions").BaseError, OSError, ValueError) as error:
        said = _said(str(error).partition("Debug source")[0])
        raise BadInput(f"{scheme}://{bucket}: the store cannot be opened ({said}).") from error
