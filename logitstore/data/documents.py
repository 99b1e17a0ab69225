"""Finding and loading the user's documents; `datasets` does the reading."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

import datasets

from logitstore.errors import BadInput, one_line
from logitstore.registry import suggest

BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
}


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which documents to read.

    Attributes:
        source: a file, a glob, a folder, or the name of a hub data set (`name` or `name:config`).
        split: the split of the data set.
        column: the column to read; None takes `messages` (a chat) or `text`, whichever there is.
        domain_column: a column that names where a document comes from.
        limit: at most this many documents.
    """

    source: str
    split: str = "train"
    column: str | None = None
    domain_column: str | None = None
    limit: int | None = None


def open_documents(spec: DataSpec) -> tuple[datasets.Dataset, str, bool]:
    """The documents, the name of the column to read, and whether that column holds chats.

    Raises:
        BadInput: no such file, data set, split or column; no documents in it; a column that is neither text nor a chat.
    """
    documents = _load(spec)
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


def _load(spec: DataSpec) -> datasets.Dataset:
    name, options = _source(spec.source)
    try:
        return datasets.load_dataset(name, split=spec.split, **options)
    except ValueError as error:
        raise BadInput(f"--data {spec.source}, --split {spec.split}: {one_line(error)}") from error
    except Exception as error:
        # each builder fails in its own way, down to StopIteration; the reason is kept, the traceback chained
        cause = error.__cause__ or error
        raise BadInput(f"--data {spec.source}: cannot be read as a data set: {one_line(cause)}") from error


def _source(source: str) -> tuple[str, dict[str, object]]:
    """The name and options for `load_dataset`, from a file, glob, folder or hub name."""
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path), {}
    files = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else [str(path)]
    files = [file for file in files if Path(file).is_file()]
    if not files:
        if path.suffix.lower() in BUILDERS or glob.has_magic(source) or source.startswith((".", "/", "~")):
            raise BadInput(f"--data {source}: no such file. Give a file, a glob, a folder or a hub data set.")
        name, _, config = source.partition(":")
        return name, {"name": config} if config else {}
    if not any(Path(file).stat().st_size for file in files):
        raise BadInput(f"--data {source}: the data set is empty. Give one with at least one document.")
    kinds = {Path(file).suffix.lower() for file in files}
    builders = {BUILDERS.get(kind) for kind in kinds}
    if len(builders) != 1 or None in builders:
        raise BadInput(
            f"--data {source}: files ending in {', '.join(sorted(kinds))}. "
            f"Give files of one kind, ending in {', '.join(BUILDERS)}."
        )
    options: dict[str, object] = {"data_files": files}
    if kinds <= {".txt", ".md", ".rst"}:
        options["sample_by"] = "document"
    if kinds == {".tsv"}:
        options["sep"] = "\t"
    return str(builders.pop()), options


def _column(documents: datasets.Dataset, spec: DataSpec) -> str:
    names = documents.column_names
    if spec.column is not None:
        if spec.column not in names:
            raise BadInput(f"--column: no column named '{spec.column}'. {suggest(spec.column, names)}")
        return spec.column
    for usual in ("messages", "text"):
        if usual in names:
            return usual
    raise BadInput(
        f"--data {spec.source}: no column named 'text' or 'messages'. "
        f"Name the one to read with --column. Known: {', '.join(names)}."
    )


def _is_chat(documents: datasets.Dataset, column: str, spec: DataSpec) -> bool:
    """Chats are lists of {role, content}; texts are strings."""
    first = next((value for value in documents[:100][column] if value is not None), None)
    if isinstance(first, list) and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in first):
        return True
    if first is None or isinstance(first, str):
        return False
    raise BadInput(
        f"--data {spec.source}: column '{column}' holds {type(first).__name__} values. "
        "Give a column of strings, or of chats (lists of {role, content})."
    )
