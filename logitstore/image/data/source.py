"""What every source of images gives: their keys, what it says of their classes, and a way to read one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from logitstore.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """The images of a source, in its order.

    Attributes:
        keys: what each image is called; [N].
        labels: the class of each image, by number or name, or None; [N].
        label_names: what class numbers mean, where the source says it.
        read: the encoded file of an image, by its index; safe to call from several threads. Raises BadInput.
    """

    keys: list[str]
    labels: Sequence[object]
    label_names: list[str] | None = None
    read: Callable[[int], bytes]


def read_file(path: Path, key: str, start: int = 0, size: int = -1) -> bytes:
    """`size` bytes of a file from `start`, or all of them.

    Raises:
        BadInput: the file cannot be read, or ends too early.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(size)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error.strerror).lower()
        raise BadInput(
            f"image '{key}': {path} cannot be read: {reason}. Put it back, or give the data anew."
        ) from error
    if len(content) < size:
        raise BadInput(f"image '{key}': {path} ends before its last byte. Put the whole file back.")
    return content


def refuse_unless_utf8(name: str, where: Path) -> None:
    """Raises BadInput: a name whose bytes are not UTF-8, which no cache could hold."""
    if name.encode(errors="ignore").decode() != name:
        raise BadInput(f"--data {where}: the name {name!r} is not UTF-8. Rename it.")
