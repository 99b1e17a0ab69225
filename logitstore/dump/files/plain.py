"""Read files of plain text, as one text each or line by line."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pyarrow

from logitstore.dump.files.piece import Piece
from logitstore.dump.files.places import opened, reading
from logitstore.dump.files.spelling import Spell

_CHARACTERS = 1 << 25


def names(_path: Path) -> list[str]:
    """Return the one column of a file of text."""
    return ["text"]


def whole(path: Path, _columns: Mapping[str, Spell]) -> Iterator[Piece]:
    """Yield a file as one text. Raises BadInput: it is no text in UTF-8."""
    with reading(path), _text(path) as file:
        yield _piece([file.read()])


def lines(path: Path, _columns: Mapping[str, Spell]) -> Iterator[Piece]:
    """Yield the lines of a file, without their ends. Raises BadInput: it is no text in UTF-8."""
    with reading(path), _text(path) as file:
        for some in iter(partial(file.readlines, _CHARACTERS), []):
            yield _piece([line.removesuffix("\n") for line in some])


def _text(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(opened(path), encoding="utf-8-sig")


def _piece(texts: list[str]) -> Piece:
    if any("\0" in text for text in texts):
        raise ValueError("it holds characters 0, as text in UTF-16 does. Give UTF-8")
    return Piece(rows=len(texts), columns={"text": pyarrow.array(texts, pyarrow.string())})
