"""Load a data set from a file, a glob, a folder or the hub; the library `datasets` reads it."""

from __future__ import annotations

import glob
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.core.registry import suggest
from logitstore.errors import BadInput, one_line

if TYPE_CHECKING:
    import datasets

BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
}


def library() -> Any:
    """Import the library `datasets`. It takes half a second, so whoever reads no data set does not import it."""
    return importlib.import_module("datasets")


def load(source: str, split: str) -> datasets.Dataset:
    """Return the rows of a split of a data set; there may be none.

    Args:
        source: a file, a glob, a folder, or the name of a hub data set (`name` or `name:config`).
        split: name of the split; files without splits are `train`.

    Raises:
        BadInput: the file, data set or split does not exist; the files are of different or unknown kinds, or cannot be read.
    """
    library().disable_progress_bars()
    name, options = _builder(source)
    try:
        return library().load_dataset(name, split=split, **options)
    except ValueError as error:
        raise BadInput(f"--data {source}, --split {split}: {one_line(error)}") from error
    except Exception as error:
        raise _unreadable(source, error) from error


def is_saved(folder: Path) -> bool:
    """Return True if `save_to_disk` wrote the folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def files_of(source: str) -> list[Path]:
    """Return the files that a path or glob names, sorted; an empty list if there are none."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(path)) else []
    return [Path(match) for match in matches if Path(match).is_file()]


def load_saved(source: str, split: str) -> datasets.Dataset:
    """Return the rows of a split in a folder that `save_to_disk` wrote, without copying them.

    `datasets` stores the results of `map` in the same folder.

    Raises:
        BadInput: there is no such split, or files cannot be read.
    """
    try:
        saved: Any = library().load_from_disk(str(Path(source).expanduser()))
    except Exception as error:
        raise _unreadable(source, error) from error
    splits = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
    if split not in splits:
        raise BadInput(f"--data {source}: no split named '{split}'. {suggest(split, list(splits))}")
    return splits[split]


def _builder(source: str) -> tuple[str, dict[str, object]]:
    """Return the builder name and the options for `load_dataset`.

    Raises:
        BadInput: there are no such files, or they are empty, of different kinds, or of an unknown kind.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return str(path), {}
    files = files_of(source)
    if not files:
        if path.suffix.lower() in BUILDERS or glob.has_magic(source) or source.startswith((".", "/", "~")):
            raise BadInput(f"--data {source}: no such file. Give a file, a glob, a folder or a hub data set.")
        name, _, config = source.partition(":")
        return name, {"name": config} if config else {}
    if not any(file.stat().st_size for file in files):
        raise BadInput(f"--data {source}: the data set is empty. Give one that is not.")
    kinds = {file.suffix.lower() for file in files}
    builders = {BUILDERS.get(kind) for kind in kinds}
    if len(builders) != 1 or None in builders:
        raise BadInput(
            f"--data {source}: files ending in {', '.join(sorted(kinds))}. "
            f"Give files of one kind, ending in {', '.join(BUILDERS)}."
        )
    options: dict[str, object] = {"data_files": [str(file) for file in files]}
    if kinds <= {".txt", ".md", ".rst"}:
        options["sample_by"] = "document"
    if kinds == {".tsv"}:
        options["sep"] = "\t"
    return str(builders.pop()), options


def _unreadable(source: str, error: Exception) -> BadInput:
    # builders raise many kinds of errors, even StopIteration; the message keeps the reason, the caller chains the traceback
    return BadInput(f"--data {source}: cannot be read as a data set: {one_line(error.__cause__ or error)}")
