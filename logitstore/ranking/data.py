"""The user's queries and documents: which columns are read, and what is in them.

Axes: D documents of a query.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from logitstore.core.registry import suggest
from logitstore.dump.data import is_saved, load, load_saved
from logitstore.errors import BadInput
from logitstore.settings.dump import DumpSettings

QUERIES = ("query", "anchor", "question")
POSITIVES = ("positive", "pos", "answer")
LISTS = ("documents", "passages", "candidates", "docs")
DOCUMENTS = ("document", "passage", "doc", "text")
LABELS = ("labels", "label", "relevance", "relevances", "rel")
"""Columns, as data sets call them, in the order in which they are looked for."""

NEGATIVE = "negative"
"""How the columns of worse documents begin, each of a text or of a list of texts."""

MOST = (1 << 31) - 1
"""The highest label that can be stored."""

Form = Literal["triples", "lists", "rows"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query with its documents as the data have them.

    Attributes:
        text: the query.
        documents: the documents, at least one.
        labels: how relevant each is; -1 where the data do not say.
    """

    text: str
    documents: list[str]
    labels: list[int]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that were read, and how they say what belongs to a query."""

    form: Form
    query: str
    document: str
    negatives: tuple[str, ...] = ()
    label: str | None = None

    @property
    def told(self) -> str:
        """Which columns were read, for people."""
        if self.form == "triples":
            return f"queries of '{self.query}', documents of '{self.document}' (1) and {_named(self.negatives)} (0)"
        labels = f"labels of '{self.label}'" if self.label else "no labels"
        each = "lists of documents" if self.form == "lists" else "a document in each row"
        return f"queries of '{self.query}', {each} of '{self.document}', {labels}"


def _named(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def ranked_queries(settings: DumpSettings) -> tuple[Columns, list[Query]]:
    """Read the user's data. Rows of one document are grouped by their query, in the order in which queries first come.

    Raises:
        BadInput: the data cannot be read, are empty, or a column does not exist, is not known or holds something else.
    """
    source = settings.source
    if not isinstance(settings.data, str) and len(settings.data) > 1:
        raise BadInput(f"--data {source}: queries come from one source. Name several files with a glob.")
    table = load_saved(source, settings.split) if is_saved(Path(source)) else load(source, settings.split)
    if settings.limit is not None:
        table = table.select(range(min(settings.limit, len(table))))
    if not len(table):
        raise BadInput(f"--data {source}: the data set is empty. Give one with at least one query.")
    columns = columns_of(settings, table.column_names, table[0])
    read = [columns.query, columns.document, *columns.negatives, *filter(None, [columns.label])]
    rows = table.select_columns(list(dict.fromkeys(read)))[:]
    values = [dict(zip(rows, each, strict=True)) for each in zip(*rows.values(), strict=True)]
    found = list(_queries(columns, values))
    if not settings.labels:
        found = [Query(text=each.text, documents=each.documents, labels=[-1] * len(each.labels)) for each in found]
    return columns, found


def columns_of(settings: DumpSettings, names: list[str], first: dict[str, Any]) -> Columns:
    """Return the columns to read. Raises BadInput: one is not there, or none is known."""
    asked = {
        "--column": settings.column,
        "--pair-column": settings.pair_column,
        "--label-column": settings.label_column,
    }
    for option, wanted in asked.items():
        if wanted is not None and wanted not in names:
            raise BadInput(f"{option}: no column named '{wanted}'. {suggest(wanted, names)}")
    if settings.label_column is not None and not settings.labels:
        raise BadInput(
            f"--label-column {settings.label_column}: with --no-labels no labels are read. Leave one of them out."
        )
    query = settings.column or next((name for name in QUERIES if name in names), None)
    known = (*POSITIVES, *LISTS, *DOCUMENTS)
    document = settings.pair_column or next((name for name in known if name in names and name != query), None)
    if query is None or document is None:
        option, usual = ("--column", QUERIES) if query is None else ("--pair-column", known)
        raise BadInput(
            f"--data {settings.source}: no column of {'queries' if query is None else 'documents'} ({_named(usual)}). Name it "
            f"with {option}. Known: {', '.join(names)}."
        )
    negatives = tuple(sorted(name for name in names if name.startswith(NEGATIVE)))
    label = settings.label_column or next((name for name in LABELS if name in names), None)
    if isinstance(first[document], list):
        return Columns(form="lists", query=query, document=document, label=label if settings.labels else None)
    if negatives and settings.label_column is None:
        return Columns(form="triples", query=query, document=document, negatives=negatives)
    return Columns(form="rows", query=query, document=document, label=label if settings.labels else None)


def _queries(columns: Columns, rows: list[dict[str, Any]]) -> Iterator[Query]:
    if columns.form == "rows":
        groups: dict[str, list[tuple[str, int]]] = {}
        for number, row in enumerate(rows, 1):
            document = _text(row[columns.document], columns.document, number)
            label = _label(row[columns.label], columns.label, number) if columns.label else -1
            groups.setdefault(_text(row[columns.query], columns.query, number), []).append((document, label))
        for text, pairs in groups.items():
            yield Query(text=text, documents=[each for each, _ in pairs], labels=[label for _, label in pairs])
        return
    for number, row in enumerate(rows, 1):
        text = _text(row[columns.query], columns.query, number)
        better = _texts(row[columns.document], columns.document, number)
        if columns.form == "triples":
            worse = [each for name in columns.negatives for each in _texts(row[name], name, number)]
            labels = [1] * len(better) + [0] * len(worse)
            better += worse
        elif columns.label is None:
            labels = [-1] * len(better)
        else:
            labels = _labels(row[columns.label], columns.label, number, len(better))
        if not better:
            raise BadInput(f"row {number} of the data: its query has no document. Leave the row out.")
        yield Query(text=text, documents=better, labels=labels)


def _text(value: Any, column: str, row: int) -> str:
    if not isinstance(value, str):
        raise BadInput(
            f"row {row} of the data: column '{column}' holds {value!r:.80} where a text is expected. Leave the row out, or "
            "name another column."
        )
    return value


def _texts(value: Any, column: str, row: int) -> list[str]:
    """Return the documents of a column: a text, a list of texts, or nothing."""
    if value is None:
        return []
    return [_text(each, column, row) for each in (value if isinstance(value, list) else [value])]


def _labels(value: Any, column: str, row: int, documents: int) -> list[int]:
    if value is None:
        return [-1] * documents
    if not isinstance(value, list) or len(value) != documents:
        raise BadInput(
            f"row {row} of the data: column '{column}' holds {value!r:.80} where {documents} labels are expected, one for each "
            "document. Name another --label-column, or give --no-labels."
        )
    return [_label(each, column, row) for each in value]


def _label(value: Any, column: str, row: int) -> int:
    """Return a label: a whole number from 0, true or false; nothing means that nobody judged the document."""
    if value is None or value == "" or value != value:
        return -1
    number = float(value) if isinstance(value, bool | int | float | str) and _is_number(value) else -1.0
    if not number.is_integer() or not 0 <= number <= MOST:
        raise BadInput(
            f"row {row} of the data: column '{column}' holds {value!r:.80} where a whole number from 0 is expected: how "
            "relevant the document is. Write 0 for one that is not, and nothing for one that was not judged."
        )
    return int(number)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
