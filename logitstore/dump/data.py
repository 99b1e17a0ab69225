"""Load a data set from a file, a glob, a folder or the hub; the library `datasets` reads it."""

from __future__ import annotations

import contextlib
import glob
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from logitstore.core.place import below, globbed
from logitstore.core.registry import resolve, suggest
from logitstore.dump.files.dataset import Columns, WholeTable
from logitstore.dump.files.found import refuse_left_out, refuse_twice
from logitstore.dump.files.places import ending_of
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

_BY_COLUMN = ("json", "csv", "parquet", "arrow", "text")
"""Builders whose files are read here, column by column."""


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
    path = Path(source).expanduser()
    if path.is_dir() and not _EXPANDED.search(str(path.absolute())):
        _split_of_folder(path, split)  # which refuses to pass over files
    name, options = _builder(source)
    with _refusals_of(source, split):
        return library().load_dataset(name, split=split, **options)


@contextlib.contextmanager
def _refusals_of(source: str, split: str) -> Iterator[None]:
    """Raise BadInput in place of what `datasets` raises about a data set."""
    try:
        yield
    except ValueError as error:
        raise BadInput(f"--data {source}, --split {split}: {one_line(error)}") from error
    except Exception as error:
        raise _unreadable(source, error) from error


def open_columns(source: str, split: str) -> Columns:
    """Return the columns of a split of a data set. Of JSON, CSV, Parquet and Arrow files, only those that are loaded are read.

    Args:
        source: a file, a glob, a folder, or the name of a hub data set (`name` or `name:config`).
        split: name of the split; files without splits are `train`.

    Raises:
        BadInput: see `load`.
    """
    library().disable_progress_bars()
    kind, files = _files_by_column(source, split)
    if not files:
        return WholeTable(load(source, split))
    columns: Columns = resolve("logitstore.dump.files.columns:FileColumns")(kind, files)
    return columns


def _files_by_column(source: str, split: str) -> tuple[str, list[Path]]:
    """Return the kind and the files of a split, if they are read here; no files otherwise.

    Raises:
        BadInput: see `load`; or a file is named twice, or a folder has files that belong to no split.
    """
    path = Path(source).expanduser()
    if is_saved(path):
        kind, files = "arrow", [Path(file["filename"]) for file in load_saved(source, split).cache_files]
    elif path.is_dir() and not _EXPANDED.search(str(path.absolute())):
        kind, files = _split_of_folder(path, split)
    else:
        files = _files_below(source, path) if path.is_dir() else files_of(source)
        kind = _builder_name(source, files) if files and split == "train" else ""
    if kind not in _BY_COLUMN:
        return kind, []
    if not is_saved(path):
        refuse_twice(source, files)
    return "document" if kind == "text" and not path.is_dir() else kind, files


def _split_of_folder(folder: Path, split: str) -> tuple[str, list[Path]]:
    """Return the builder name and the files of a split of a folder; no files if `datasets` has to read them.

    Raises:
        BadInput: there is no such split, or data files belong to none.
    """
    with _refusals_of(str(folder), split):
        builder = library().load_dataset_builder(str(folder))
    config = builder.config
    splits = {name: [Path(file) for file in files] for name, files in (config.data_files or {}).items()}
    files = splits.get(split, [])
    usual = vars(type(config)()) | {name: getattr(config, name) for name in ("name", "data_files")}
    if getattr(config, "sep", None) == "\t" and any(ending_of(file) == ".tsv" for file in files):
        usual["sep"] = "\t"
    # the folder's README may say how its files are to be read
    is_plain = vars(config) == usual and builder.info.features is None
    are_known = all(file.is_file() and BUILDERS.get(ending_of(file)) == builder.name for file in files)
    if not is_plain or not are_known:
        return "", []
    refuse_left_out(folder, BUILDERS, {file for some in splits.values() for file in some})
    return builder.name, files


def is_saved(folder: Path) -> bool:
    """Return True if `save_to_disk` wrote the folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def files_of(source: str) -> list[Path]:
    """Return the files that a path or glob names, sorted; an empty list if there are none."""
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    return [match for match in globbed(_pattern(path)) if match.is_file()] if glob.has_magic(str(path)) else []


def _pattern(path: Path) -> str:
    """Return a glob in which the leading folders that exist under their own names stand for themselves."""
    found, parts = Path(), list[str]()
    for place, part in enumerate(path.parts):
        found /= part
        if not found.exists():
            return str(Path(*parts, *path.parts[place:]))
        parts.append(glob.escape(part))
    return str(Path(*parts))


_EXPANDED = re.compile(r"[*?\[\]{}\ud800-\udfff]|::|:/")
"""What `datasets` or fsspec reads as a pattern, a chain of file systems, or a protocol; or what they cannot encode."""


def _literal(path: Path) -> str:
    """Return a path that `datasets` takes as it stands: where it would expand the path itself, a link to it.

    The links lie beside the data sets that `datasets` keeps. Their names follow from the path and from the state of the file,
    so a file that has changed is read again.
    """
    path = path.absolute()
    if not _EXPANDED.search(str(path)):
        return str(path)
    state = path.stat()
    identity = f"{state.st_size} {state.st_mtime_ns} ".encode() + os.fsencode(path)
    folder = Path(library().config.HF_DATASETS_CACHE) / "logitstore-links"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / (xxhash.xxh3_128_hexdigest(identity) + path.suffix)
    # a link of an earlier run leads to the same file
    with contextlib.suppress(FileExistsError):
        link.symlink_to(path)
    return str(link)


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
        if not _EXPANDED.search(str(path.absolute())):
            return str(path), {}
        return _builder_of(source, _files_below(source, path), documents=False)
    files = files_of(source)
    if not files:
        if ending_of(path) in BUILDERS or glob.has_magic(source) or source.startswith((".", "/", "~")):
            raise BadInput(f"--data {source}: no such file. Give a file, a glob, a folder or a hub data set.")
        name, _, config = source.partition(":")
        return name, {"name": config} if config else {}
    return _builder_of(source, files)


def _files_below(source: str, folder: Path) -> list[Path]:
    """Return the data files of a folder whose path `datasets` would expand, for the one split that it has.

    Raises:
        BadInput: there are none, or their names may name splits, which only `datasets` tells apart.
    """
    inside = (file.relative_to(folder) for file in below(folder) if ending_of(file) in BUILDERS)
    files = [file for file in inside if (folder / file).is_file() and file.name != "README.md"]
    if not files:
        raise BadInput(f"--data {source}: no data files in it. Give files ending in {', '.join(BUILDERS)}.")
    if any(_SPLITS.search(str(file).lower()) for file in files):
        raise BadInput(
            f"--data {source}: it holds files named like splits, which cannot be told apart in a folder with such a path. "
            "Name the files with a glob, or rename the folder without any of * ? [ ] { } and colons."
        )
    return [folder / file for file in files]


_SPLITS = re.compile(r"(?<![a-z])(train|training|test|testing|eval|evaluation|dev|val|valid|validation)(?![a-z])")


def _builder_name(source: str, files: list[Path]) -> str:
    """Return the name of the builder that reads some files.

    Raises:
        BadInput: they are empty, or of different or unknown kinds.
    """
    if not any(file.stat().st_size for file in files):
        raise BadInput(f"--data {source}: the data set is empty. Give one that is not.")
    kinds = {ending_of(file) or file.suffix.lower() or "nothing" for file in files}
    builders = {BUILDERS.get(kind) for kind in kinds}
    if len(builders) != 1 or None in builders:
        raise BadInput(
            f"--data {source}: files ending in {', '.join(sorted(kinds))}. "
            f"Give files of one kind, ending in {', '.join(BUILDERS)}."
        )
    return str(builders.pop())


def _builder_of(source: str, files: list[Path], documents: bool = True) -> tuple[str, dict[str, object]]:
    """Return the builder name and the options for some files; `documents` takes a file of plain text as one document."""
    name = _builder_name(source, files)
    refuse_twice(source, files)
    options: dict[str, object] = {"data_files": [_literal(file) for file in files]}
    if documents and name == "text":
        options["sample_by"] = "document"
    if name == "csv":
        # "NA" and "null" are texts; only an empty cell has none
        options |= {"keep_default_na": False, "na_values": [""]}
    if {ending_of(file) for file in files} == {".tsv"}:
        options["sep"] = "\t"
    return name, options


def _unreadable(source: str, error: Exception) -> BadInput:
    # builders raise many kinds of errors, even StopIteration; the message keeps the reason, the caller chains the traceback
    way_out = ". No path here has this name: check it, or the network" if isinstance(error, ConnectionError) else ""
    return BadInput(f"--data {source}: cannot be read as a data set: {one_line(error.__cause__ or error)}{way_out}")
