"""Visible tables of names: a name in, the thing it stands for out, imported only when asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from logitstore.errors import BadInput


def suggest(name: str, known: list[str]) -> str:
    """A closing sentence for an error about an unknown name: the nearest known one, then all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return f"{hint}Known: {', '.join(sorted(known))}."


def resolve(target: str) -> Any:
    """The object behind `package.module:attribute`; the late import keeps torch out of the commands without it."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Table(Mapping[str, Any]):
    """A mapping from names to objects, written down as `package.module:attribute`.

    Args:
        noun: what an entry is called in error messages, such as "transform".
        entries: name -> target.
    """

    def __init__(self, noun: str, entries: dict[str, str]) -> None:
        self.noun = noun
        self._entries = entries

    def __getitem__(self, name: str) -> Any:
        """Raises BadInput with the nearest known name when `name` is unknown."""
        if name not in self._entries:
            raise BadInput(f"no {self.noun} named '{name}'. {suggest(name, list(self._entries))}")
        return resolve(self._entries[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
