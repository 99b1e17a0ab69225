"""Open the user's documents, and find the column to read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.core.registry import suggest
from logitstore.dump.data import open_columns
from logitstore.dump.files.spelling import Spell, as_json, as_text
from logitstore.errors import BadInput
from logitstore.text.chat import ASKED_WITH, is_chat, is_chat_text

if TYPE_CHECKING:
    import datasets


CHATS = "messages"
"""The column that is read before others, if it exists."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The specification of the documents to read.

    Attributes:
        source: a file, a glob, a folder, or the name of a hub data set (`name` or `name:config`).
        split: the split of the data set.
        column: the column to read; None takes `messages` (chats) if it exists, else `text`, else `completion` beside `prompt`.
        domain_column: a column that names the domain of a document.
        limit: the largest count of documents.
    """

    source: str
    split: str = "train"
    column: str | None = None
    domain_column: str | None = None
    limit: int | None = None


def open_documents(spec: DataSpec) -> tuple[datasets.Dataset, str, bool]:
    """Return the documents, the name of the column to read, and True if that column holds chats.

    The documents have the columns that make samples: the one to read, the prompt beside a completion, what chats are asked
    with, and the domain. Other columns are not read.

    Raises:
        BadInput: the file, data set, split or column does not exist; there are no documents; the column holds neither texts
            nor chats.
    """
    columns = open_columns(spec.source, spec.split)
    if not columns.names:
        raise _empty(spec)
    column = _column(columns.names, spec)
    domain = spec.domain_column
    if domain is not None and domain not in columns.names:
        raise BadInput(f"--domain-column: no column named '{domain}'. {suggest(domain, columns.names)}")
    is_chat = _is_chat(columns.values(column, _text_or_chat), column, spec)
    if column == CHATS and spec.column is None and not is_chat:
        raise BadInput(
            f"--data {spec.source}: column '{CHATS}' holds no chats (lists of messages, each with a role and a content, or the "
            "same as JSON). Mend it, or say with --column which texts to read."
        )
    spell = _chats if is_chat else _texts
    needed = {column: spell("as in the first rows. Check --column.")}
    if column == "completion" and "prompt" in columns.names:
        needed["prompt"] = spell("as in the column 'completion'. Give both as texts, or as chats.")
    read: dict[str, Spell] = dict.fromkeys(ASKED_WITH, as_json) if is_chat else {}
    read |= {} if domain is None else {domain: as_text}
    documents = columns.load(read | needed, needed)
    if spec.limit is not None:
        documents = documents.select(range(min(spec.limit, len(documents))))
    if len(documents) == 0:
        raise _empty(spec)
    return documents, column, is_chat


def _empty(spec: DataSpec) -> BadInput:
    return BadInput(f"--data {spec.source}: the data set is empty. Give one with at least one document.")


def _text_or_chat(value: Any) -> str:
    if isinstance(value, str) or is_chat(value):
        return as_json(value)
    raise ValueError("where a string is expected, or a chat: a list of messages. Check --column.")


def _texts(ending: str) -> Spell:
    """Return what keeps texts as they are, and refuses other values."""

    def spell(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"where a string is expected, {ending}")
        return value

    return spell


def _chats(ending: str) -> Spell:
    """Return what keeps chats as JSON, and refuses other values; a text may hold a chat."""

    def spell(value: Any) -> str:
        if not (isinstance(value, str) or is_chat(value)):
            raise ValueError(f"where a chat is expected, {ending}")
        return as_json(value)

    return spell


def _column(names: list[str], spec: DataSpec) -> str:
    if spec.column is not None:
        if spec.column not in names:
            raise BadInput(f"--column: no column named '{spec.column}'. {suggest(spec.column, names)}")
        return spec.column
    usual = [CHATS, "text"] + ["completion"] * ("prompt" in names)
    found = next((name for name in usual if name in names), None)
    if found is not None:
        return found
    raise BadInput(
        f"--data {spec.source}: no column named 'text' or 'messages'. "
        f"Name the one to read with --column. Known: {', '.join(names)}."
    )


def _is_chat(values: Iterable[Any], column: str, spec: DataSpec) -> bool:
    """Return True for a column of chats (lists of {role, content}, or the same as JSON text), and False for one of strings.

    The first value that is not empty decides.

    Raises:
        BadInput: the column holds other values.
    """
    first = next((value for value in values if not _is_empty(value)), None)
    if is_chat(first) or is_chat_text(first):
        return True
    if first is None or isinstance(first, str):
        return False
    raise BadInput(
        f"--data {spec.source}: column '{column}' holds {type(first).__name__} values. "
        "Give a column of strings, or of chats (lists of {role, content})."
    )


def _is_empty(value: Any) -> bool:
    """Return True for values that texts and chats have in common: nothing, or no words and no messages."""
    return value is None or (value.strip() in ("", "[]") if isinstance(value, str) else value == [])
