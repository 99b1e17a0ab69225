"""The sources of the data: how they are spelled, and what is taken of each."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from logitstore.core.registry import suggest
from logitstore.core.tasks import task_of

_OPTIONS = ("share", "limit", "domain", "split", "column")

_SPELLED = re.compile(r"(?s)(?P<place>.+?)(?P<options>(,[A-Za-z_]+=[^,]*)*)")

_ENDINGS = re.compile(r"(?i)(\.(jsonl?|ndjson|parquet|arrow|csv|tsv|txt|md|rst|gz|bz2|xz|zst))+$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source of documents.

    Attributes:
        place: a file, a glob, a folder, or the name of a hub data set (`name` or `name:config`).
        share: keep this share of the documents, evenly spread; None keeps all.
        limit: keep the first N documents.
        domain: the domain of all documents.
        split: its split; None takes that of all sources.
        column: its column; None takes that of all sources.
    """

    place: str
    share: float | None = None
    limit: int | None = None
    domain: str | None = None
    split: str | None = None
    column: str | None = None

    @property
    def name(self) -> str:
        """The name of the source without folders and endings: its domain, if nothing else says one."""
        names = [_ENDINGS.sub("", part) for part in self.place.split("/")]
        return next((name for name in reversed(names) if name.strip("*?.~")), self.place)


def source_of(text: str) -> Source:
    """Return the source that a text PLACE,NAME=VALUE,... spells. A text that is a path as it stands has no options.

    Raises:
        ValueError: an option is unknown, given twice, or has an impossible value.
    """
    match = _SPELLED.fullmatch(text)
    if match is None or not match["options"] or Path(os.path.expanduser(text)).exists():
        return Source(place=text)
    given: dict[str, Any] = {}
    for pair in match["options"][1:].split(","):
        name, _, value = pair.partition("=")
        if name not in _OPTIONS:
            raise ValueError(f"no option of a source is named '{name}'. {suggest(name, list(_OPTIONS))}")
        if name in given:
            raise ValueError(f"{name} is given twice. Give it once")
        given[name] = _value(name, value)
    if "share" in given and "limit" in given:
        raise ValueError("share and limit both say how many documents to keep. Give one of them")
    return Source(place=match["place"], **given)


def _value(name: str, value: str) -> Any:
    if not value.strip():
        raise ValueError(f"{name} has no value")
    try:
        if name == "limit":
            limit = int(value)
            if limit < 1:
                raise ValueError
            return limit
        if name == "share":
            share = float(value)
            if not 0 < share < 1:
                raise ValueError
            return share
    except ValueError:
        wanted = (
            "a count from 1" if name == "limit" else "above 0 and below 1. A cache keeps each document at most once"
        )
        raise ValueError(f"{name}={value} must be {wanted}") from None
    return value


def _checked(given: Any, info: ValidationInfo) -> Any:
    """Return one source as a text, and several as a list of texts. Raises ValueError: one that cannot be."""
    if isinstance(given, list | tuple):
        if not given or not all(isinstance(each, str) for each in given):
            raise ValueError("give one source as a text, or several as a list of texts")
        given = given[0] if len(given) == 1 else list(given)
    takes_several = task_of(info.data["task"]).takes_sources if "task" in info.data else True
    if isinstance(given, list) and not takes_several:
        raise ValueError(f"the task {info.data['task']} takes one source of data. Give one")
    if takes_several and isinstance(given, str | list):
        _check_several([source_of(given)] if isinstance(given, str) else [_one_of(each) for each in given])
    return given


def _one_of(text: str) -> Source:
    """Return one of several sources. Raises ValueError: one that cannot be; it names the source."""
    try:
        return source_of(text)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from None


def _check_several(sources: list[Source]) -> None:
    seen: dict[tuple[str, str | None, str | None], Source] = {}
    for source in sources:
        place = Path(os.path.expanduser(source.place))
        resolved = str(place.resolve()) if place.exists() else source.place
        if seen.setdefault((resolved, source.split, source.column), source) is not source:
            raise ValueError(f"{source.place} is given twice, so that its documents would be there twice. Give it once")
    names: dict[str, Source] = {}
    for source in sources:
        other = names.setdefault(source.name, source) if source.domain is None else source
        if other is not source:
            raise ValueError(
                f"{other.place} and {source.place} would both be the domain '{source.name}'. Give each a name, such as "
                f"{other.place},domain=first"
            )


Sources = Annotated[str | list[str], BeforeValidator(_checked)]
"""One source of data as a text, or several as a list of texts. See `source_of`."""


def sources_of(data: str | list[str]) -> list[Source]:
    """Return the sources of a setting that was checked."""
    return [source_of(each) for each in ([data] if isinstance(data, str) else data)]
