"""Open the user's documents, and find the column to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from logitstore.core.registry import suggest
from logitstore.dump.data import load
from logitstore.errors import BadInput
from logitstore.text.chat import is_chat, is_chat_text

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

    Raises:
        BadInput: the file, data set, split or column does not exist; there are no documents; the column holds neither texts
            nor chats.
    """
    documents = load(spec.source, spec.split)
    if spec.limit is not None:
        documents = documents.select(range(min(spec.limit, len(documents))))
    if len(documents) == 0:
        raise BadInput(f"--data {spec.source}: the data set is empty. Give one with at least one document.")
    column = _column(documents, spec)
    if spec.domain_column is not None and spec.domain_column not in documents.column_names:
        raise BadInput(
            f"--domain-column: no column named '{spec.domain_column}'. {suggest(spec.domain_column, documents.column_names)}"
        )
    return documents, column, _is_chat(documents, column, spec)


def _column(documents: datasets.Dataset, spec: DataSpec) -> str:
    names: list[str] = list(documents.column_names)
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


def _is_chat(documents: datasets.Dataset, column: str, spec: DataSpec) -> bool:
    """Return True for a column of chats (lists of {role, content}, or the same as JSON text), and False for one of strings.

    Raises:
        BadInput: the column holds other values.
    """
    first = next((value for value in documents[:100][column] if value is not None), None)
    if is_chat(first) or is_chat_text(first):
        return True
    if first is None or isinstance(first, str):
        return False
    raise BadInput(
        f"--data {spec.source}: column '{column}' holds {type(first).__name__} values. "
        "Give a column of strings, or of chats (lists of {role, content})."
    )
