"""Visible tables of names. A table returns the object with a name, and imports it only then."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from logitstore.errors import BadInput


def suggest(name: str, known: list[str]) -> str:
    """Return the last sentence of an error about an unknown name: the nearest known name, then all known names."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {', '.join(sorted(known))}."


def resolve(target: str) -> Any:
    """Import and return the object `package.module:attribute`. The late import keeps torch out of commands without it."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Table(Mapping[str, Any]):
    """A mapping from names to objects, which are given as `package.module:attribute`.

    Args:
        noun: what an entry is called in error messages, such as "transform".
        entries: name -> target.
    """

    def __init__(self, noun: str, entries: dict[str, str]) -> None:
        self.noun = noun
        self._entries = entries

    def __getitem__(self, name: str) -> Any:
        """Return the object named `name`. Raises BadInput, with the nearest known name, if the name is unknown."""
        if name not in self._entries:
            raise BadInput(f"no {self.noun} named '{name}'. {suggest(name, list(self._entries))}")
        return resolve(self._entries[name])

    def __contains__(self, name: object) -> bool:
        """Return True for a known name; nothing is imported."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
