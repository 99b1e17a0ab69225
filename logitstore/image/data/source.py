"""The interface of all sources of images: keys, labels, and a function that reads one image."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from logitstore.errors import BadInput, retold

_OF_THE_FILE = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
}
"""What the system says where a file is missing, is none, or is not for this user."""


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """The images of a source, in its order.

    Attributes:
        keys: the key of each image; [N].
        labels: the class of each image, a number or a name, or None; [N].
        label_names: the names of the class numbers, if the source gives them.
        read: returns the encoded file of an image by its index; safe to call from several threads. Raises BadInput.
    """

    keys: list[str]
    labels: Sequence[object]
    label_names: list[str] | None = None
    read: Callable[[int], bytes]


def read_file(path: Path, key: str, start: int = 0, size: int = -1) -> bytes:
    """Return `size` bytes of a file from `start`; with size -1, all bytes from `start`.

    Raises:
        BadInput: the file cannot be opened, or ends too early.
        StorageError: the system cannot read now, which says nothing about the file.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(size)
    except OSError as error:
        if error.errno not in _OF_THE_FILE:
            raise retold(error, path) from error
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror).lower()
        raise BadInput(
            f"image '{key}': {path} cannot be read: {reason}. Put it back, or give the data anew."
        ) from error
    if len(content) < size:
        raise BadInput(f"image '{key}': {path} ends before its last byte. Put the whole file back.")
    return content


def refuse_unless_utf8(name: str, where: Path) -> None:
    """Raise BadInput if the bytes of a name are not UTF-8; a cache cannot store such a name."""
    if name.encode(errors="ignore").decode() != name:
        raise BadInput(f"--data {where}: the name {name!r} is not UTF-8. Rename it.")
