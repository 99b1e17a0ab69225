"""Tell the format of a source by its first bytes, or by its columns."""

from __future__ import annotations

from pathlib import Path

from logitstore.dump.files.places import ending_of
from logitstore.errors import BadInput
from logitstore.settings.foreign.formats import FORMATS
from logitstore.text.foreign.tables import Tables, files_in, reading

ENDINGS = (".parquet", ".arrow", ".jsonl", ".json", ".ndjson", ".npz")
"""Files that have columns. Those of JSON and NumPy are looked at where there is neither Parquet nor Arrow."""


def recognised(source: Path, split: str) -> str:
    """Return the name of the format of a source.

    Raises:
        BadInput: its columns are those of no format.
    """
    if (told := _begins(source.expanduser())) is not None:
        return told
    files = files_in(source, ENDINGS, split)
    tables = [file for file in files if ending_of(file) in (".parquet", ".arrow")]
    names = set(Tables.of((tables or files)[:1]).schema.names)
    found = next((name for name, each in FORMATS.items() if any(columns <= names for columns in each.columns)), None)
    if found is None:
        raise BadInput(
            f"{source}: its columns ({', '.join(sorted(names))}) are those of no known format. If they are lists of ids and "
            "logprobs under other names, say --format generic, and which is which with --columns."
        )
    return found


def _begins(path: Path) -> str | None:
    if not path.is_file():
        return None
    with reading(path), path.open("rb") as file:
        first = file.read(64)
    return next((name for name, each in FORMATS.items() if each.begins and first.startswith(each.begins)), None)
