"""All errors that a user can cause or meet, in one tree. A message names the value, the expectation and the way out.

LogitstoreError
├── BadInput          a path, option, recipe or data set that cannot be used
│   └── NoShare       a share of the parts that lies wholly beyond the last one, as that of the last jobs of an array
├── ModelError        a teacher, student or tokenizer that cannot be loaded or cannot do the requested work
├── NotACache         a folder that is not a logitstore cache, or a cache of a newer format
├── CacheDamaged      a cache whose files are missing, truncated or changed
├── CacheMismatch     a sound cache that does not fit the plan, the teacher or the student it is used with
├── StorageError      the system refuses to read or write: disk full, read-only, no permission, a failing disk
├── ProcessDied       processes of a command that ended by themselves before their work was done
└── PartsFailed       parts of a cache at which several workers failed; all others are written
"""

from __future__ import annotations

import errno
import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager


class LogitstoreError(Exception):
    """Base of all errors that the user can correct; the command line prints them as one line and exits with 2."""


class BadInput(LogitstoreError):
    """A path, option, recipe or data set that cannot be used."""


class NoShare(BadInput):
    """A share of the parts that lies wholly beyond the last one. The command line says so, writes nothing, and exits with 0."""


class ModelError(LogitstoreError):
    """A teacher, student or tokenizer that cannot be loaded or cannot do the requested work."""


class NotACache(LogitstoreError):
    """A folder that is not a logitstore cache, or a cache of a newer format version."""


class CacheDamaged(LogitstoreError):
    """A cache whose files are missing, truncated or changed."""


class CacheMismatch(LogitstoreError):
    """A sound cache that does not fit the plan, the teacher or the student it is used with."""


class StorageError(LogitstoreError):
    """The system refuses to read or write a file."""


class ProcessDied(LogitstoreError):
    """Processes of a command that ended by themselves before their work was done."""


class PartsFailed(LogitstoreError):
    """Parts of a cache at which several workers failed; all others are written. The command line exits with 1."""


_PLACE = re.compile(
    r"(?P<cache>.+?)(/taps/[a-z]+(-[0-9]+)?)?(/parts/[0-9]{5,})?(/rows\.zarr|/samples\.arrow|/(cache|tap|part)\.json)?"
    r"(: among the rows .*)?",
    re.DOTALL,
)
"""A cache, or a place in it: of a tap, a part, a file, and of some rows."""


def way_out_of(place: object) -> str:
    """Return the way out where something in a cache is damaged, as the end of a message.

    Args:
        place: the cache, or a place in it as messages name it.
    """
    found = _PLACE.fullmatch(str(place))
    cache = "CACHE" if found is None else shlex.quote(found["cache"])
    return f"Run `logitstore verify {cache} --repair`, then the command that wrote it again."


_REASONS = {
    errno.ENOSPC: "no space left on the device. Free some space",
    errno.EDQUOT: "the disk quota is used up. Free some space",
    errno.EROFS: "the file system is read-only. Choose another folder",
    errno.EACCES: "permission denied. Change the permissions, or choose another place",
    errno.EPERM: "permission denied. Change the permissions, or choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder. Choose another folder",
    errno.EEXIST: "a file stands where a folder is needed. Choose another folder",
    errno.EISDIR: "a folder stands where a file is needed. Choose another name",
    errno.ENOENT: "no such file or folder. Check that nobody removes it meanwhile",
    errno.ENAMETOOLONG: "the name is too long for the file system. Choose a shorter path",
    errno.ELOOP: "its links lead in a circle. Choose another path",
    errno.EIO: "the disk, or the connection to it, failed. Check it",
    errno.ESTALE: "the network file system no longer knows the file. Mount it again",
    errno.EMFILE: "too many open files. Raise the limit with `ulimit -n`",
    errno.ENFILE: "too many open files in the whole system. Close other programs",
    errno.ENOMEM: "out of memory. Close other programs",
    errno.EOPNOTSUPP: "the file system does not support this. Choose a folder on another one",
    errno.ENOSYS: "the file system does not support this. Choose a folder on another one",
    errno.EINVAL: "the file system does not support this. Choose a folder on another one",
}
_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_OF_THE_CACHE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV}
"""What is wrong with the cache itself when one of its files is read: something else, or nothing, stands there."""

_BUGS = {errno.EBADF, errno.EFAULT, errno.ECHILD, errno.ENOTTY, errno.EPIPE, errno.EINTR}
"""What only a program does wrong, or what is no refusal: these stay tracebacks."""

_NUMBERED = re.compile(
    r"\(os error (\d+)\)|^unable to .*file.*: .* \((\d+)\)$|can't allocate memory: .* Error code (\d+) ", re.DOTALL
)
"""How Rust's libraries, torch's maps and torch's memory tell a refusal: by its number."""

_OF_TORCH = re.compile(r"PytorchStreamWriter|inline_container|unexpected pos|iostream error|cannot be opened")


def refusal_of(error: BaseException) -> OSError | None:
    """Return the refusal of the operating system that is behind an error; None if there is none, or if only a bug causes it.

    The libraries tell it in their own ways: Rust and torch's maps by the number in the text, Arrow's maps by the system's words
    at the end of it, torch's writer by neither. A CacheDamaged counts if it was raised because the system could not read,
    which says nothing about what is in the file.
    """
    if isinstance(error, OSError):
        number = error.errno or _number_in_words(str(error))
        if not number or number in _BUGS:
            return None
        return error if error.errno else OSError(number, os.strerror(number))
    if isinstance(error, MemoryError):
        return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    if isinstance(error, LogitstoreError):
        refusal = None if error.__cause__ is None else refusal_of(error.__cause__)
        return refusal if refusal and isinstance(error, CacheDamaged) and refusal.errno not in _OF_THE_CACHE else None
    if found := _NUMBERED.search(str(error)):
        number = int(next(filter(None, found.groups())))
        return None if number in _BUGS else OSError(number, os.strerror(number))
    if isinstance(error, RuntimeError) and _OF_TORCH.search(str(error)):
        before = error.__cause__ or error.__context__
        # most often the disk is full; a writer that cannot say why has only that to say
        return (None if before is None else refusal_of(before)) or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return None


def _number_in_words(text: str) -> int | None:
    """Return the number of the refusal whose words end a text."""
    return next((number for number in errno.errorcode if text.endswith(f": {os.strerror(number)}")), None)


def retold(refusal: OSError, target: object = None, then: str = "run the same command again") -> StorageError:
    """Return a refusal of the operating system as an error of logitstore's.

    Args:
        refusal: what the system said.
        target: the place that was worked on; None to name the file alone.
        then: what to do when the reason is gone.
    """
    number = refusal.errno or 0
    name = errno.errorcode.get(number, str(number))
    reason = _REASONS.get(number) or f"{os.strerror(number)} ({name}). Mend that"
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOENT) and name not in reason:
        head, dot, tail = reason.partition(". ")
        reason = f"{head} ({name}){dot}{tail}"
    what = "cannot write" if number in _WRITES else "cannot read or write"
    file = None if refusal.filename is None else os.fsdecode(refusal.filename)
    if target is None:
        place = f"{file or 'a file'}: {what}"
    else:
        place = f"{target}: {what}" + (f" {file}" if file and number not in _WRITES else "")
    return StorageError(f"{place}: {reason} and {then}.")


@contextmanager
def storage_errors(target: object, then: str = "run the same command again") -> Iterator[None]:
    """Retell the operating system's refusals below `target` as a StorageError; let other errors pass.

    A file that is not there passes too: the callers know what it means.
    """
    try:
        yield
    except LogitstoreError:
        raise
    except Exception as error:
        refusal = refusal_of(error)
        if refusal is None or isinstance(error, FileNotFoundError):
            raise
        raise retold(refusal, target, then) from error


def one_line(error: BaseException) -> str:
    """Return the message of a library's error on one line, short enough to be quoted in an error of logitstore."""
    return " ".join(str(error).split())[:300] or type(error).__name__
