"""Cutting long documents into windows, so that every position is predicted once, with the most context there is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Tokens [start, stop) of a document; its rows are about the positions from `first` to stop - 2.

    The positions before `first` are there as context: the window before has a row for each of them, made with more.
    """

    start: int
    stop: int
    first: int


def cut(length: int, max_length: int, overlap: int) -> list[Window]:
    """Windows of at most `max_length` tokens over a document, each beginning `overlap` tokens before the last one's end.

    A position in an overlap keeps the row of the earlier window, which has seen more. With an overlap of at least one
    token every position but the document's last has exactly one row; with none, the last position of each window but
    the last has no row, because its gold token lies in the next window.
    """
    windows = [Window(start=0, stop=min(length, max_length), first=0)]
    while (last := windows[-1]).stop < length:
        start = last.start + max_length - overlap
        windows.append(Window(start=start, stop=min(length, start + max_length), first=max(start, last.stop - 1)))
    return windows
