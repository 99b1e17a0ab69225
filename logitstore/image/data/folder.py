"""Read images from files in a folder; its subfolders are the classes.

The builder `imagefolder` of `datasets` is not used: it silently drops images when a name or a class contains "test" or "val",
drops all labels if one image lies next to the class folders, skips linked folders, and fails on brackets in paths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from logitstore.core.place import below
from logitstore.core.registry import suggest
from logitstore.errors import BadInput
from logitstore.image.data.source import ImageSource, read_file, refuse_unless_utf8

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "eval", "test", "testing"})


def files_below(folder: Path) -> list[str]:
    """Return the paths of all files below a folder, relative to it, with forward slashes, sorted by code point.

    Links are followed. Names that begin with a dot, and `__MACOSX` of macOS, are skipped.

    Raises:
        BadInput: a folder cannot be read, or a name is not UTF-8.
    """
    return sorted(_walk(folder))


def linked_folders(folder: Path, names: list[str]) -> Iterator[str]:
    """Yield a line for each folder on the paths of some files that is a link, and say if what it leads to is read twice.

    Args:
        folder: the folder.
        names: paths of files relative to it.
    """
    whole = folder.resolve()
    for each in sorted({str(above) for name in names for above in PurePosixPath(name).parents if above.name}):
        if (folder / each).is_symlink():
            target = (folder / each).resolve()
            twice = ", so its images are there twice" if target.is_relative_to(whole) else ""
            yield f"the folder '{each}' is a link to {target}{twice}"


def image_folder(folder: Path, names: list[str], split: str) -> ImageSource:
    """Return the images of a folder. The first folder on the path of an image is its class; without one it has no class.

    If all subfolders are named like splits, only the subfolder `split` is read, and its subfolders are the classes.

    Args:
        folder: the folder.
        names: the paths of the images relative to the folder, in order, at least one; they are the keys.
        split: name of the split.

    Raises:
        BadInput: there is no such split.
    """
    splits = {_top(name) for name in names}
    inside = ""
    if splits <= _SPLITS:
        if split not in splits:
            raise BadInput(f"--data {folder}: no split named '{split}'. {suggest(split, sorted(map(str, splits)))}")
        inside = f"{split}/"
        names = [name for name in names if name.startswith(inside)]
    elif split != "train":
        raise BadInput(
            f"--data {folder}: no split named '{split}': its subfolders are not named like splits. "
            "Give the folder of the split itself."
        )
    return ImageSource(
        keys=names,
        labels=[_top(name.removeprefix(inside)) for name in names],
        read=lambda index: read_file(folder / names[index], names[index]),
    )


def _top(name: str) -> str | None:
    top, below, _ = name.partition("/")
    return top if below else None


def _walk(folder: Path) -> Iterator[str]:
    try:
        for path in below(folder, lambda entry: _seen(entry.name) and entry.is_dir() and not _leads_up(entry.path)):
            if _seen(path.name) and not path.is_dir():
                name = path.relative_to(folder).as_posix()
                refuse_unless_utf8(name, folder)
                yield name
    except OSError as error:
        raise BadInput(f"--data: {error.filename} cannot be read: {error.strerror}. Change its permissions.") from error


def _seen(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _leads_up(path: str) -> bool:
    """Return True for a link to a folder that contains the link; following it would never end."""
    above = os.path.realpath(os.path.dirname(path))
    return os.path.islink(path) and Path(above).is_relative_to(os.path.realpath(path))
