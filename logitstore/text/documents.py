"""Open the user's documents, and find the column to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from logitstore.core.registry import suggest
from logitstore.dump.data import open_columns
from logitstore.dump.files.spelling import Spell, as_json, as_text
from logitstore.errors import BadInput
from logitstore.text.chat import ASKED_WITH, is_chat, is_chat_text

if TYPE_CHECKING:
    import datasets


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
    is_chat = _is_chat(columns.head(column, 100, _TextsOrChats()), column, spec)
    needed = [column] + ["prompt"] * (column == "completion" and "prompt" in columns.names)
    read: dict[str, Spell] = dict.fromkeys(ASKED_WITH, as_json) if is_chat else {}
    read |= {} if domain is None else {domain: as_text}
    read |= {name: _TextsOrChats() for name in needed}
    documents = columns.load(read, needed)
    if spec.limit is not None:
        documents = documents.select(range(min(spec.limit, len(documents))))
    if len(documents) == 0:
        raise _empty(spec)
    return documents, column, is_chat


def _empty(spec: DataSpec) -> BadInput:
    return BadInput(f"--data {spec.source}: the data set is empty. Give one with at least one document.")


class _TextsOrChats:
    """Keep the values of a column of texts as they are, and those of a column of chats as JSON."""

    def __init__(self) -> None:
        self._texts = False

    def __call__(self, value: Any) -> str | None:
        if isinstance(value, str):
            self._texts = self._texts or not is_chat_text(value)
            return value
        if not is_chat(value):
            raise ValueError("where a string is expected, or a chat: a list of messages. Check --column.")
        if value and self._texts:
            raise ValueError("where a string is expected, as in the rows before it. Check --column.")
        return as_json(value) if value else None


def _column(names: list[str], spec: DataSpec) -> str:
    if spec.column is not None:
        if spec.column not in names:
            raise BadInput(f"--column: no column named '{spec.column}'. {suggest(spec.column, names)}")
        return spec.column
    usual = ["messages", "text"] + ["completion"] * ("prompt" in names)
    found = next((name for name in usual if name in names), None)
    if found is not None:
        return found
    raise BadInput(
        f"--data {spec.source}: no column named 'text' or 'messages'. "
        f"Name the one to read with --column. Known: {', '.join(names)}."
    )


def _is_chat(values: list[Any], column: str, spec: DataSpec) -> bool:
    """Return True for a column of chats (lists of {role, content}, or the same as JSON text), and False for one of strings.

    Raises:
        BadInput: the column holds other values.
    """
    first = next((value for value in values if value is not None), None)
    if is_chat(first) or is_chat_text(first):
        return True
    if first is None or isinstance(first, str):
        return False
    raise BadInput(
        f"--data {spec.source}: column '{column}' holds {type(first).__name__} values. "
        "Give a column of strings, or of chats (lists of {role, content})."
    )
