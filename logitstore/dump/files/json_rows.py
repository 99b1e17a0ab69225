"""Read JSON files row by row: lines of objects, objects over several lines, or one list.

A row is what its text says: no value is changed to fit the values of other rows, and no row has keys of other rows.
"""

from __future__ import annotations

import codecs
import json
import re
import reprlib
import sys
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow

from logitstore.dump.files.piece import Piece
from logitstore.dump.files.places import opened, reading
from logitstore.dump.files.spelling import Spell
from logitstore.errors import BadInput

_FIRST_STEP, _STEP = 1 << 16, 1 << 20
_BATCH_ROWS, _BATCH_CHARACTERS = 1000, 1 << 25

_BLANK = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(strict=False)


def _number(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= sys.get_int_max_str_digits() else Decimal(digits)


_ANY_NUMBER = json.JSONDecoder(strict=False, parse_int=_number)
"""Reads integers with more digits than Python turns into an `int`; it is slower."""


class _Text:
    """The text of a file from the place that is read on. It grows by whole lines, so that no character is cut."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._text, self._place = "", 0
        self._lines_read = 0
        self._decoder = _DECODER
        self.line = 1
        self.read = 0

    def next_character(self) -> str:
        """Go to the next character that is not blank, and return it; an empty string at the end of the file."""
        while True:
            blank = _BLANK.match(self._text, self._place)
            self._go_to(blank.end() if blank else self._place)
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._grow(_STEP if self.read else _FIRST_STEP):
                return ""

    def pass_character(self) -> None:
        self._place += 1

    def next_value(self) -> Any:
        """Return the JSON value that begins at this place. Raises BadInput: there is none, or it does not end."""
        step = _STEP
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
            except RecursionError as error:
                raise self.refused("it is nested too deep", self.line) from error
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated string") or not self._text[error.pos :].strip()
                if not is_cut or not self._grow(step):
                    raise self._not_json(error.msg, error.pos) from error
                step *= 2
                continue
            except ValueError:
                if self._decoder is _ANY_NUMBER:
                    raise
                self._decoder = _ANY_NUMBER
                continue
            self._go_to(end)
            return value

    def refused(self, reason: str, line: int) -> BadInput:
        return BadInput(f"--data {self._path}, line {line}: {reason}. Mend the line, or leave it out.")

    def _not_json(self, reason: str, place: int) -> BadInput:
        line = self.line + self._text.count("\n", self._place, place)
        column = place - self._text.rfind("\n", 0, place)
        where = f"column {column}" if line == self.line else f"line {line}, column {column}"
        return self.refused(f"not JSON: {reason} ({where})", self.line)

    def _go_to(self, place: int) -> None:
        self.line += self._text.count("\n", self._place, place)
        self._place = place

    def _grow(self, step: int) -> bool:
        """Read on to the end of a line; return False at the end of the file."""
        with reading(self._path):
            more = self._stream.read(step)
            more += self._stream.readline()
        if not more:
            return False
        if not self.read:
            more = more.removeprefix(codecs.BOM_UTF8)
        self.read += len(more)
        try:
            text = more.decode("utf-8")
        except UnicodeDecodeError as error:
            line = self._lines_read + more.count(b"\n", 0, error.start) + 1
            raise self.refused(f"not UTF-8: {error.reason}", line) from error
        self._lines_read += more.count(b"\n")
        self._text, self._place = self._text[self._place :] + text, 0
        return True


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Yield the rows of a file, each with the line it begins on and the count of bytes read so far.

    Raises:
        BadInput: the file cannot be read, or something in it is no row; the message names the line.
    """
    with reading(path):
        stream = opened(path)
    with stream:
        text = _Text(stream, path)
        if text.next_character() == "[":
            yield from _listed(text)
        else:
            while text.next_character():
                line, value = text.line, text.next_value()
                yield line, _row(text, line, value), text.read


def _listed(text: _Text) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Yield the rows of a list that begins at this place; a text in it is a row too."""
    text.pass_character()
    is_over = text.next_character() == "]"
    while not is_over:
        text.next_character()
        line, value = text.line, text.next_value()
        yield line, _row(text, line, {"text": value} if isinstance(value, str) else value), text.read
        mark = text.next_character()
        if mark not in (",", "]"):
            raise text.refused("not JSON: the list of rows neither goes on with a comma nor ends", text.line)
        is_over = mark == "]"
        if not is_over:
            text.pass_character()
    text.pass_character()
    if text.next_character():
        raise text.refused("not JSON: something follows the list of rows", text.line)


def _row(text: _Text, line: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise text.refused(f"holds {_shown(value)} where an object is expected", line)
    return value


def _shown(value: Any) -> str:
    """Return the beginning of a value, which may be long or nested deep."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)[:80]


def names(path: Path, size: int) -> list[str]:
    """Return the columns of the first row, and of further rows in the first `size` bytes of the file."""
    found: dict[str, None] = {}
    for _, row, read in rows(path):
        found.update(dict.fromkeys(row))
        if read > size:
            break
    return list(found)


def pieces(path: Path, columns: Mapping[str, Spell]) -> Iterator[Piece]:
    """Yield some columns of a file, as text. A piece lacks the columns that none of its rows has.

    Raises:
        BadInput: the file cannot be read, or a column cannot hold a value; the message names the line and the column.
    """
    lines: list[int] = []
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    present: set[str] = set()
    characters = 0
    for line, row, _ in rows(path):
        lines.append(line)
        present.update(name for name in columns if name in row)
        for name, spell in columns.items():
            text = _spelled(path, line, name, row.get(name), spell)
            characters += len(text or "")
            values[name].append(text)
        if len(lines) == _BATCH_ROWS or characters > _BATCH_CHARACTERS:
            yield _piece(path, lines, values, present)
            lines, values, present, characters = [], {name: [] for name in columns}, set(), 0
    if lines:
        yield _piece(path, lines, values, present)


def _spelled(path: Path, line: int, name: str, value: Any, spell: Spell) -> str | None:
    try:
        return None if value is None else spell(value)
    except ValueError as error:
        raise BadInput(f"--data {path}, line {line}: column '{name}' holds {_shown(value)} {error}") from error


def _piece(path: Path, lines: list[int], values: dict[str, list[str | None]], present: set[str]) -> Piece:
    try:
        arrays = {name: pyarrow.array(values[name], pyarrow.string()) for name in values if name in present}
    except UnicodeEncodeError as error:
        line, name = next(
            (line, name) for name in values for line, text in zip(lines, values[name], strict=True) if _is_torn(text)
        )
        raise BadInput(
            f"--data {path}, line {line}: column '{name}' holds half of a surrogate pair, which is no character. "
            "Mend the line, or leave it out."
        ) from error
    return Piece(rows=len(lines), columns=arrays)


def _is_torn(text: str | None) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text or "")
