"""Teachers: the table that says who answers, by the scheme of a name, and the teachers of this package."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from transformers import PreTrainedTokenizerBase

from logitstore.core.registry import resolve
from logitstore.core.types import ModelRef
from logitstore.dump.teachers.source import TeacherSource
from logitstore.errors import BadInput
from logitstore.format.needs import HIDDEN, LOGITS, TOP_LOGPROBS, Gives
from logitstore.models.placing.placement import WHOLE, Placement
from logitstore.settings.models.engine import EngineChoices, ServingChoices, engine_options

TEACHERS: Mapping[str, str] = {"transformers": "logitstore.dump.teachers.causal_lm:source"}
"""Who answers to `--teacher SCHEME:REST`: a function, called with REST, that returns a `TeacherSource`.

A name without a scheme of this table, of ENGINES or of a plugin is that of a model of transformers.
"""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A kind of teacher that an engine serves.

    Attributes:
        source: the import string of a function that is called with a `Named` and returns a `TeacherSource`.
        gives: what it can be asked for.
        takes: names of the options of `ServingChoices` that mean something to it.
    """

    source: str
    gives: Gives
    takes: frozenset[str]


_LISTS: Gives = frozenset({TOP_LOGPROBS})
_SERVER = Engine(
    source="logitstore.dump.engines.servers.server:source",
    gives=_LISTS,
    takes=frozenset({"engine", "tokenizer", "concurrency"}),
)

ENGINES: Mapping[str, Engine] = {
    "vllm": Engine(
        source="logitstore.dump.engines.in_process.vllm:source",
        gives=frozenset({LOGITS, HIDDEN}),
        takes=frozenset({"tokenizer", "engine_arg"}),
    ),
    "http": _SERVER,
    "https": _SERVER,
    "recorded": Engine(source="logitstore.dump.engines.recorded:source", gives=_LISTS, takes=frozenset()),
}
"""Teachers that an engine serves, by the scheme of their names."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A teacher that an engine serves, as the user names it.

    Attributes:
        name: all of it.
        scheme: what stands before the first colon.
        rest: what stands behind it.
        choices: which engine, and how it is asked.
        tokenizer: loads the tokenizer that is taken where `choices` names none; None where that is left to the engine.
    """

    name: str
    scheme: str
    rest: str
    choices: ServingChoices
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None


PLUGINS = "logitstore.teachers"
"""The entry-point group in which other packages name teachers of theirs."""


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the teachers of installed packages, not yet imported. Raises BadInput when two have one name."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=PLUGINS):
        if entry.name in TEACHERS or entry.name in ENGINES or entry.name in found:
            raise BadInput(f"the teacher '{entry.name}' of {entry.value}: the name is taken. Rename the plugin's.")
        found[entry.name] = entry
    return found


def scheme_of(name: str) -> str | None:
    """Return the scheme of a teacher's name; None where it has none that is known, as `C:/models` or `folder::file.gguf`."""
    scheme, colon, rest = name.partition(":")
    is_scheme = colon and rest and not rest.startswith(":")
    return scheme if is_scheme and (scheme in TEACHERS or scheme in ENGINES or scheme in _plugins()) else None


def open_source(
    name: str,
    *,
    trust_remote_code: bool = False,
    placement: Placement = WHOLE,
    engine: EngineChoices | None = None,
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None,
) -> TeacherSource:
    """Return what is known of a teacher before its weights are loaded.

    Args:
        name: as the user gives it.
        trust_remote_code: run the code that comes with a model of transformers.
        placement: how such a model is spread and packed.
        engine: which engine serves the teacher, and how it is asked.
        tokenizer: loads the tokenizer of a teacher that an engine serves, where `engine` names none.

    Raises:
        BadInput: what a plugin provides is no `TeacherSource`, or its code is to be trusted, which was installed, or it is to
            be spread; or options of an engine are given, and none answers.
        ModelError: there is no such teacher.
    """
    scheme, rest = scheme_of(name) or "transformers", _rest(name)
    given = engine_options(engine or EngineChoices())
    if scheme in ENGINES:
        if option := "--trust-remote-code" if trust_remote_code else placement.given:
            raise BadInput(f"{option}: it means nothing to an engine, such as that of {scheme}:. Leave it out.")
        if option := next((option for option in given if option not in ENGINES[scheme].takes), None):
            raise BadInput(f"{_flag(option)}: it means nothing to the engine of {scheme}:. Leave it out.")
        named = Named(
            name=name,
            scheme=scheme,
            rest=os.path.expanduser(rest),
            choices=ServingChoices(**given),
            tokenizer=tokenizer,
        )
        return _checked(resolve(ENGINES[scheme].source)(named), scheme)
    if option := next(iter(given), None):
        raise BadInput(
            f"{_flag(option)}: no engine serves {name}. Leave it out, or give --teacher vllm:FOLDER or http://HOST:PORT#MODEL."
        )
    if scheme == "transformers":
        model = partial(resolve(TEACHERS[scheme]), trust_remote_code=trust_remote_code, placement=placement)
        return _called(model, rest, scheme)
    if option := "--trust-remote-code" if trust_remote_code else placement.given:
        raise BadInput(f"{option}: teachers of '{scheme}' are no models of transformers. Leave it out.")
    return _called(resolve(TEACHERS[scheme]) if scheme in TEACHERS else _plugins()[scheme].load(), rest, scheme)


def is_server(name: str) -> bool:
    """Whether a server answers, and the user says of which kind it is."""
    known = ENGINES.get(scheme_of(name) or "")
    return known is not None and "engine" in known.takes


def chooses_dtype(name: str) -> bool:
    """Whether the number format of a teacher is for the user to choose. A server has its own."""
    known = ENGINES.get(scheme_of(name) or "")
    return known is None or HIDDEN in known.gives


def gives_of(name: str, *, trust_remote_code: bool = False) -> Gives:
    """Return what a teacher can be asked for. An engine is not asked."""
    known = ENGINES.get(scheme_of(name) or "")
    if known is not None:
        return known.gives
    return open_source(name, trust_remote_code=trust_remote_code).gives


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


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _rest(name: str) -> str:
    return name if scheme_of(name) is None else name.partition(":")[2]


def _called(target: Callable[[str], Any], rest: str, scheme: str) -> TeacherSource:
    return _checked(target(rest), scheme)


def _checked(source: Any, scheme: str) -> TeacherSource:
    if not isinstance(source, TeacherSource):
        raise BadInput(f"the teacher '{scheme}' gives no {TeacherSource.__module__}.TeacherSource. Repair the plugin.")
    return source
