"""The objects of one place in an object store: what is read, written and listed there, and how its refusals are told.

The store may be of S3 or of anything that speaks like it (`s3://bucket/name`, with the variables AWS_*), of Google (`gs://`) or
of Azure (`az://container/name`). `memory://name/...` lies in the memory of this process.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache, partial
from importlib import import_module
from typing import Any, NamedTuple

from logitstore.core.place import split_scheme
from logitstore.errors import BadInput, StorageError, one_line
from logitstore.store.remote.settings import endpoints, retried_seconds

PIECE_BYTES, PIECES = 8 << 20, 4
"""A larger object is fetched in a first piece of so many bytes and then in at most so many others at the same time."""

_EXPIRED = re.compile(
    r"ExpiredToken|RequestExpired|TokenRefreshRequired|ExpiredAuthentication|token .*expired", re.IGNORECASE
)
_DENIED = re.compile(
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|Unauthorized|credential", re.IGNORECASE
)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|The specified bucket does not exist", re.IGNORECASE)

_NO_KEYS = re.compile(r"169\.254\.169\.254|metadata\.google\.internal", re.IGNORECASE)
"""Where credentials of a rented machine are asked for, because the environment has none."""
_NAMED = "For s3:// set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for another server, AWS_ENDPOINT_URL."

_NO_RANGE = re.compile(r"\b416\b|InvalidRange")
_LATE = re.compile(r"<Code>RequestTimeout</Code>")
"""S3 answers so, with a status that is not tried again, where a request came in too slowly; nothing was done then."""

_CUT = re.compile(rf"{_LATE.pattern}|response body|connection (closed|reset)|incomplete message", re.IGNORECASE)

CUTS, CONFLICTS = 4, 10
"""How often an answer that is cut off, or a request that came too slowly, is asked for again, and a write that the store
refuses although nothing is there."""

LATE_SECONDS = 0.5
"""The pause after the first request that came too slowly; the next ones are longer."""

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
        scheme, rest = split_scheme(address)
        bucket, _, name = (rest := rest.rstrip("/")).partition("/")
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
            return self._found(self._again(name, partial(library().head, self._store, self._key(name)), _LATE))
        except FileNotFoundError:
            return None
        except StorageError:
            # a refusal of this request has no words; one of a byte says why
            try:
                return self._found(self._get(name, options={"range": (0, 1)})[1])
            except FileNotFoundError:
                return None

    def read(self, name: str) -> bytes:
        """Return the contents of an object. Raises FileNotFoundError: there is none."""
        return self.read_tagged(name)[0]

    def read_tagged(self, name: str) -> tuple[bytes, dict[str, Any]]:
        """Return the contents of an object, and what `swap` needs to know that it is still the same."""
        content, meta = self._get(name)
        return content, {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes of an object from `start` on and before `stop`; fewer where it ends before."""
        ask = partial(library().get_range, self._store, self._key(name), start=start, end=stop)
        return bytes(self._again(name, ask, _LATE))

    def begin(self, name: str, count: int) -> tuple[bytes, int]:
        """Return at most so many first bytes of an object, and its size: one request.

        Raises:
            FileNotFoundError: there is none.
        """
        try:
            content, meta = self._get(name, options={"range": (0, count)})
        except StorageError as error:
            # of an object without bytes no range can be asked for
            if not _NO_RANGE.search(str(error.__cause__)):
                raise
            return b"", 0
        return content, int(meta["size"])

    def rest(self, name: str, begun: bytes, size: int) -> bytes:
        """Return an object of which the beginning is there: the rest in several requests at a time where it is large."""
        left = size - len(begun)
        if left <= 0:
            return begun
        pieces = min(-(-left // PIECE_BYTES), PIECES)
        edges = [len(begun) + left * place // pieces for place in range(pieces + 1)]
        spans = {"starts": edges[:-1], "ends": edges[1:], "coalesce": 0}
        return b"".join(
            [begun, *self._again(name, partial(library().get_ranges, self._store, self._key(name), **spans), _LATE)]
        )

    def put(self, name: str, content: bytes) -> None:
        """Write an object; one that is there is replaced."""
        self._put(name, content)

    def put_first(self, name: str, content: bytes) -> bool:
        """Write an object if there is none; return False if there is one with other contents.

        A store may have written an object although its answer got lost; then the request that is made again finds it there.
        So the contents decide who was first. Of two writers at the same moment a store may refuse both.
        """
        for _ in range(CONFLICTS):
            try:
                self._put(name, content, mode="create")
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
            self._put(name, content, mode=known)
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
                _pause(error, attempt, _CUT)

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

    def _get(self, name: str, **options: Any) -> tuple[bytes, Any]:
        """Return what a store answers, and what it tells of the object."""

        def ask() -> tuple[bytes, Any]:
            answer = library().get(self._store, self._key(name), **options)
            return bytes(answer.bytes()), answer.meta

        content, meta = self._again(name, ask, _LATE)
        return content, meta

    def _put(self, name: str, content: bytes, **mode: Any) -> None:
        ask = partial(library().put, self._store, self._key(name), content, use_multipart=False, **mode)
        self._again(name, ask, _LATE)

    def _again(self, name: str, ask: Callable[[], Any], faults: re.Pattern[str] = _CUT) -> Any:
        """Ask, and ask again after faults after which obstore does not: a cut answer, but for contents, or _LATE."""
        for attempt in range(CUTS + 1):
            try:
                with self._told(name):
                    return ask()
            except StorageError as error:
                _pause(error, attempt, faults)
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


def _pause(error: StorageError, attempt: int, faults: re.Pattern[str]) -> None:
    """Wait until a request is made again. Raises the error after other faults, or after too many."""
    said = str(error.__cause__)
    if attempt == CUTS or not faults.search(said):
        raise error
    if _LATE.search(said):
        time.sleep(LATE_SECONDS * 2**attempt)


def _reason(error: BaseException) -> str:
    text = str(error).partition("Debug source")[0]
    said = _said(text)
    if _NO_BUCKET.search(text):
        return f"the bucket does not exist ({said}). Make it, or write the address of another one."
    if _NO_KEYS.search(text):
        return f"no credentials are given, and this machine has none of its own ({said}). {_NAMED}"
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
    retry = {
        "max_retries": 20,
        "retry_timeout": timedelta(seconds=retried_seconds()),
        "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
    }
    is_open = any(url.startswith("http://") for url in endpoints())
    try:
        return stores.from_url(
            f"{scheme}://{bucket}", retry_config=retry, client_options={"allow_http": True} if is_open else None
        )
    except (import_module("obstore.exceptions").BaseError, OSError, ValueError) as error:
        said = _said(str(error).partition("Debug source")[0])
        raise BadInput(f"{scheme}://{bucket}: the store cannot be opened ({said}).") from error
