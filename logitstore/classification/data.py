"""The user's labelled texts: which columns are read, and what is in them.

Axes: N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore.core.registry import resolve, suggest
from logitstore.core.types import Array
from logitstore.dump.data import is_saved, load, load_saved
from logitstore.dump.files.class_names import numbered
from logitstore.errors import BadInput
from logitstore.settings.dump import DumpSettings

PAIRS = {
    "text": "text_pair",
    "sentence1": "sentence2",
    "premise": "hypothesis",
    "question1": "question2",
    "question": "sentence",
}
"""Columns of the first and the second text of pairs, as data sets call them."""

TEXTS = ("text", "sentence", "content")
"""Columns of single texts, in the order in which they are looked for."""

LABELS = ("label", "labels")
"""Columns of classes, in the order in which they are looked for."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Texts with labels, as the data have them.

    Attributes:
        column, pair_column, label_column: the columns that were read; None for what there is none of.
        texts: the texts.
        pairs: the second text of each; None where they are no pairs.
        labels: int64[N], numbers of the data's classes; -1 without one.
        names: names of these classes; None where they have numbers only.
    """

    column: str
    pair_column: str | None
    label_column: str | None
    texts: list[str]
    pairs: list[str] | None
    labels: Array
    names: list[str] | None

    @property
    def told(self) -> str:
        """Which columns were read, for people."""
        of_pairs = f" with '{self.pair_column}'" if self.pair_column else ""
        labels = f"labels of '{self.label_column}'" if self.label_column else "no labels"
        return f"texts of column '{self.column}'{of_pairs}, {labels}"


def labelled_texts(settings: DumpSettings) -> Labelled:
    """Read the user's data.

    Raises:
        BadInput: the data cannot be read, are empty, or a column does not exist, is not known or holds something else.
    """
    table = table_of(settings)
    column, pair_column = text_columns(settings, table.column_names)
    label_column = _label_column(settings, table.column_names)
    labels, names = numbered([None] * len(table), None)
    if label_column is not None:
        feature = table.features[label_column]
        is_named = isinstance(feature, resolve("datasets:ClassLabel"))
        labels, names = numbered(_labels(values_in(table, label_column)), list(feature.names) if is_named else None)
    return Labelled(
        column=column,
        pair_column=pair_column,
        label_column=label_column,
        texts=texts_in(table, column),
        pairs=None if pair_column is None else texts_in(table, pair_column),
        labels=labels,
        names=names,
    )


def table_of(settings: DumpSettings) -> Any:
    """Return the one source of a dump, cut to its limit. Raises BadInput: it cannot be read, is empty, or is one of several."""
    source = settings.source
    if not isinstance(settings.data, str) and len(settings.data) > 1:
        raise BadInput(f"--data {source}: the task reads one source. Name several files with a glob.")
    table = load_saved(source, settings.split) if is_saved(Path(source)) else load(source, settings.split)
    if settings.limit is not None:
        table = table.select(range(min(settings.limit, len(table))))
    if not len(table):
        raise BadInput(f"--data {source}: the data set is empty. Give one with at least one text.")
    return table


def values_in(table: Any, column: str) -> list[Any]:
    """Return what a column holds, row by row."""
    return list(table.select_columns([column])[:][column])


def texts_in(table: Any, column: str) -> list[str]:
    """Return the texts of a column. Raises BadInput: a value is no text."""
    values = values_in(table, column)
    wrong = next((row for row, value in enumerate(values) if not isinstance(value, str)), None)
    if wrong is not None:
        raise BadInput(
            f"row {wrong + 1} of the data: column '{column}' holds {values[wrong]!r:.80} where a text is expected. "
            "Leave the row out, or name another --column."
        )
    return values


def _labels(values: Sequence[Any]) -> list[Any]:
    """Return labels with None for what stands for none: an empty name, and a number that is NaN."""
    whole = [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
    return [None if value == "" or value != value else value for value in whole]


def text_columns(settings: DumpSettings, names: list[str]) -> tuple[str, str | None]:
    """Return the columns of the texts and of the second texts of pairs. Raises BadInput: one is not there, or none is known."""
    for option, wanted in (("--column", settings.column), ("--pair-column", settings.pair_column)):
        if wanted is not None and wanted not in names:
            raise BadInput(f"{option}: no column named '{wanted}'. {suggest(wanted, names)}")
    if settings.column is not None:
        return settings.column, settings.pair_column
    for first, second in PAIRS.items():
        if first in names and second in names and settings.pair_column in (None, second):
            return first, second
    found = next((name for name in TEXTS if name in names), None)
    if found is None:
        usual = ", ".join([*(f"'{name}'" for name in TEXTS), *(f"'{a}' with '{b}'" for a, b in PAIRS.items())])
        raise BadInput(
            f"--data {settings.source}: no column by which texts are known ({usual}). Name the one to read with --column. "
            f"Known: {', '.join(names)}."
        )
    return found, settings.pair_column


def _label_column(settings: DumpSettings, names: list[str]) -> str | None:
    wanted = settings.label_column
    if not settings.labels:
        if wanted is not None:
            raise BadInput(f"--label-column {wanted}: with --no-labels no labels are read. Leave one of them out.")
        return None
    if wanted is not None and wanted not in names:
        raise BadInput(f"--label-column: no column named '{wanted}'. {suggest(wanted, names)}")
    return wanted or next((name for name in LABELS if name in names), None)
