"""Teachers: the table that says who answers, by the scheme of a name, and the teachers of this package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from logitstore.core.registry import resolve
from logitstore.core.types import ModelRef
from logitstore.dump.teachers.source import TeacherSource
from logitstore.errors import BadInput

TEACHERS: Mapping[str, str] = {"transformers": "logitstore.dump.teachers.causal_lm:source"}
"""Who answers to `--teacher SCHEME:REST`: a function, called with REST, that returns a `TeacherSource`.

A name without a scheme of this table or of a plugin is that of a model of transformers.
"""

PLUGINS = "logitstore.teachers"
"""The entry-point group in which other packages name teachers of theirs."""


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the teachers of installed packages, not yet imported. Raises BadInput when two have one name."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=PLUGINS):
        if entry.name in TEACHERS or entry.name in found:
            raise BadInput(f"the teacher '{entry.name}' of {entry.value}: the name is taken. Rename the plugin's.")
        found[entry.name] = entry
    return found


def scheme_of(name: str) -> str | None:
    """Return the scheme of a teacher's name; None where it has none that is known, as `C:/models` or `folder::file.gguf`."""
    scheme, colon, rest = name.partition(":")
    is_scheme = colon and rest and not rest.startswith(":")
    return scheme if is_scheme and (scheme in TEACHERS or scheme in _plugins()) else None


def open_source(name: str) -> TeacherSource:
    """Return what is known of a teacher before its weights are loaded.

    Args:
        name: as the user gives it.

    Raises:
        BadInput: what a plugin provides is no `TeacherSource`.
        ModelError: there is no such teacher.
    """
    scheme = scheme_of(name)
    if scheme is None:
        return _called(resolve(TEACHERS["transformers"]), name, "transformers")
    target = resolve(TEACHERS[scheme]) if scheme in TEACHERS else _plugins()[scheme].load()
    return _called(target, name.partition(":")[2], scheme)


def model_of(name: str) -> ModelRef:
    """Return the model of transformers with that name, for a task that asks no other teachers.

    Raises:
        BadInput: the scheme of the name is that of another teacher.
    """
    scheme = scheme_of(name)
    if scheme not in (None, "transformers"):
        raise BadInput(f"--teacher {name}: teachers of '{scheme}' answer about texts. Give a model of transformers.")
    return ModelRef.parse(name if scheme is None else name.partition(":")[2])


def _called(target: Any, rest: str, scheme: str) -> TeacherSource:
    source = target(rest)
    if not isinstance(source, TeacherSource):
        raise BadInput(f"the teacher '{scheme}' gives no {TeacherSource.__module__}.TeacherSource. Repair the plugin.")
    return source
