"""All errors that a user can cause or meet, in one tree. A message names the value, the expectation and the way out.

LogitstoreError
├── BadInput          a path, option, recipe or data set that cannot be used
├── ModelError        a teacher, student or tokenizer that cannot be loaded or cannot do the requested work
├── NotACache         a folder that is not a logitstore cache, or a cache of a newer format
├── CacheDamaged      a cache whose files are missing, truncated or changed
├── CacheMismatch     a sound cache that does not fit the plan, the teacher or the student it is used with
└── StorageError      the target cannot be written: disk full, read-only, no permission
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class LogitstoreError(Exception):
    """Base of all errors that the user can correct; the command line prints them as one line and exits with 2."""


class BadInput(LogitstoreError):
    """A path, option, recipe or data set that cannot be used."""


class ModelError(LogitstoreError):
    """A teacher, student or tokenizer that cannot be loaded or cannot do the requested work."""


class NotACache(LogitstoreError):
    """A folder that is not a logitstore cache, or a cache of a newer format version."""


class CacheDamaged(LogitstoreError):
    """A cache whose files are missing, truncated or changed."""


class CacheMismatch(LogitstoreError):
    """A sound cache that does not fit the plan, the teacher or the student it is used with."""


class StorageError(LogitstoreError):
    """The target cannot be written."""


_STORAGE = {
    errno.ENOSPC: "no space left on the device. Free some space",
    errno.EDQUOT: "the disk quota is used up. Free some space",
    errno.EROFS: "the file system is read-only. Choose another folder",
    errno.EACCES: "permission denied. Choose a folder you may write to",
    errno.EPERM: "permission denied. Choose a folder you may write to",
    errno.ENOTDIR: "a part of the path is a file, not a folder. Choose another folder",
    errno.EEXIST: "a file stands where a folder is needed. Choose another folder",
}


@contextmanager
def storage_errors(target: object, then: str = "run the same command again") -> Iterator[None]:
    """Retell the operating system's refusals to write below `target` as a StorageError; let other errors pass."""
    try:
        yield
    except OSError as error:
        reason = _STORAGE.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageError(f"{target}: cannot write: {reason} and {then}.") from error


def one_line(error: BaseException) -> str:
    """Return the message of a library's error on one line, short enough to be quoted in an error of logitstore."""
    return " ".join(str(error).split())[:300] or type(error).__name__
