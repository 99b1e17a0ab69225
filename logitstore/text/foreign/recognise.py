"""Tell the format of a source by its first bytes, or by its columns."""

from __future__ import annotations

from pathlib import Path

from logitstore.errors import BadInput
from logitstore.settings.foreign.formats import FORMATS
from logitstore.text.foreign.tables import Tables, files_in, reading


def recognised(source: Path, split: str) -> str:
    """Return the name of the format of a source.

    Raises:
        BadInput: its columns are those of no format.
    """
    if (told := _begins(source.expanduser())) is not None:
        return told
    names = set(Tables.of(files_in(source, (".parquet", ".arrow"), split)[:1]).schema.names)
    found = next((name for name, each in FORMATS.items() if any(columns <= names for columns in each.columns)), None)
    if found is None:
        raise BadInput(
            f"{source}: its columns ({', '.join(sorted(names))}) are those of no known format. Say what it is with "
            "--format, and name "
            "its columns with --columns."
        )
    return found


def _begins(path: Path) -> str | None:
    if not path.is_file():
        return None
    with reading(path), path.open("rb") as file:
        first = file.read(64)
    return next((name for name, each in FORMATS.items() if each.begins and first.startswith(each.begins)), None)
