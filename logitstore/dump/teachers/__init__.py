"""Teachers: the table that says who answers, by the scheme of a name, and the teachers of this package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from logitstore.core.registry import resolve
from logitstore.core.types import ModelRef
from logitstore.dump.teachers.source import TeacherSource
from logitstore.errors import BadInput
from logitstore.models.placing.placement import WHOLE, Placement

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


def open_source(name: str, *, trust_remote_code: bool = False, placement: Placement = WHOLE) -> TeacherSource:
    """Return what is known of a teacher before its weights are loaded.

    Args:
        name: as the user gives it.
        trust_remote_code: run the code that comes with a model of transformers.
        placement: how such a model is spread and packed.

    Raises:
        BadInput: what a plugin provides is no `TeacherSource`, or its code is to be trusted, which was installed, or it is to
            be spread.
        ModelError: there is no such teacher.
    """
    scheme, rest = scheme_of(name) or "transformers", _rest(name)
    if scheme == "transformers":
        model = partial(resolve(TEACHERS[scheme]), trust_remote_code=trust_remote_code, placement=placement)
        return _called(model, rest, scheme)
    if option := "--trust-remote-code" if trust_remote_code else placement.given:
        raise BadInput(f"{option}: teachers of '{scheme}' are no models of transformers. Leave it out.")
    return _called(resolve(TEACHERS[scheme]) if scheme in TEACHERS else _plugins()[scheme].load(), rest, scheme)


def model_of(name: str, *, trust_remote_code: bool = False) -> ModelRef:
    """Return the model of transformers with that name, for a task that asks no other teachers.

    Args:
        name: as the user gives it.
        trust_remote_code: run the code that comes with it.

    Raises:
        BadInput: the scheme of the name is that of another teacher.
    """
    scheme = scheme_of(name)
    if scheme not in (None, "transformers"):
        raise BadInput(f"--teacher {name}: teachers of '{scheme}' answer about texts. Give a model of transformers.")
    return ModelRef.parse(_rest(name), trust_remote_code=trust_remote_code)


def _rest(name: str) -> str:
    return name if scheme_of(name) is None else name.partition(":")[2]


def _called(target: Callable[[str], Any], rest: str, scheme: str) -> TeacherSource:
    source = target(rest)
    if not isinstance(source, TeacherSource):
        raise BadInput(f"the teacher '{scheme}' gives no {TeacherSource.__module__}.TeacherSource. Repair the plugin.")
    return source
