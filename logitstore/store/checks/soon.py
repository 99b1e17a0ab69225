"""Look at the sizes of all files of a cache on a thread, while a model loads and training begins."""

from __future__ import annotations

from logitstore.core.background import Workers
from logitstore.errors import LogitstoreError
from logitstore.store.index.index import PartsIndex

_PIECE = 32
"""Parts that are looked at in one go; whoever ends meanwhile waits for one piece."""


class SizesSoon:
    """A check that goes on behind. It ends with its last part, with the first problem, or when nobody holds this any more."""

    def __init__(self, index: PartsIndex) -> None:
        """Begin to look at the parts that an index knows."""
        self._found: list[Exception] = []
        self._workers = Workers(1)
        for start in range(0, len(index.numbers_P), _PIECE):
            self._workers.submit(_look, index, slice(start, start + _PIECE), self._found)
        self._workers.close()

    def raise_found(self) -> None:
        """Raise what has been found so far, if something has."""
        if self._found:
            raise self._found[0]

    def wait(self) -> None:
        """Wait until all parts have been looked at."""
        self._workers.wait()


def _look(index: PartsIndex, parts: slice, found: list[Exception]) -> None:
    if found:
        return
    try:
        index.check_places(parts)
    except (LogitstoreError, OSError) as error:
        found.append(error)
