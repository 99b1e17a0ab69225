"""Tell the format of a source by its columns."""

from __future__ import annotations

from pathlib import Path

from logitstore.errors import BadInput
from logitstore.settings.foreign.formats import FORMATS
from logitstore.text.foreign.tables import Tables, files_in


def recognised(source: Path, split: str) -> str:
    """Return the name of the format of a source.

    Raises:
        BadInput: its columns are those of no format.
    """
    names = set(Tables.of(files_in(source, (".parquet", ".arrow"), split)[:1]).schema.names)
    found = next((name for name, each in FORMATS.items() if any(columns <= names for columns in each.columns)), None)
    if found is None:
        raise BadInput(
            f"{source}: its columns ({', '.join(sorted(names))}) are those of no known format. Say what it is with "
            "--format, and name "
            "its columns with --columns."
        )
    return found
