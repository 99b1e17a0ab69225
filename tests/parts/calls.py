"""Calls of the system that this process makes: what is opened, and which folders are listed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_WATCHED = ("open", "os.listdir", "os.scandir")
_SEEN: list[list[str]] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _SEEN and event in _WATCHED:
        for seen in _SEEN:
            seen.append(f"{event.removeprefix('os.')} {arguments[0]}")


@contextmanager
def calls_below(folder: object) -> Iterator[list[str]]:
    """Give the calls about what lies below a folder, relative to it, as they come; a hook of Python's cannot be taken away."""
    if _watch not in _HOOKED:
        sys.addaudithook(_watch)
        _HOOKED.append(_watch)
    seen: list[str] = []
    found: list[str] = []
    _SEEN.append(seen)
    try:
        yield found
    finally:
        _SEEN.remove(seen)
        found += [call.replace(f" {folder}/", " ") for call in seen if f" {folder}/" in call]


_HOOKED: list[object] = []
