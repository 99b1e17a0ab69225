"""Let the system refuse one call of this very process, by the audit events that Python raises before its calls."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EVENTS = frozenset(
    ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.listdir", "os.scandir", "os.truncate")
)


class Refused:
    """Calls on the files of a folder, of which one is refused.

    Attributes:
        calls: how many there were.
    """

    def __init__(self, folder: Path, at: int, number: int) -> None:
        self.calls = 0
        self._folder, self._at, self._number = str(folder), at, number
        self._lock = threading.Lock()

    def hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in EVENTS or not isinstance(arguments[0], str | os.PathLike):
            return
        # of what has two names, the second is the one that appears
        path = os.fspath(arguments[1 if event in ("os.rename", "os.link") else 0])  # type: ignore[call-overload]
        if not str(path).startswith(self._folder):
            return
        with self._lock:
            self.calls += 1
            is_the_one = self.calls == self._at
        if is_the_one:
            raise OSError(self._number, os.strerror(self._number), path)


_heard: list[Refused] = []
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _heard:
        _heard[-1].hear(event, arguments)


@contextmanager
def refusing(folder: Path, at: int, number: int) -> Iterator[Refused]:
    """Refuse the call number `at` on files below a folder with the error `number`. Calls of other languages are not heard."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _heard.append(Refused(folder, at, number))
    try:
        yield _heard[-1]
    finally:
        _heard.pop()
