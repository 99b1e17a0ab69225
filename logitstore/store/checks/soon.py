"""Look at the sizes of all files of a cache on a thread, while a model loads and training begins."""

from __future__ import annotations

import time

from logitstore.core.background import Workers
from logitstore.errors import LogitstoreError
from logitstore.store.index.index import PartsIndex

_PIECE = 32
"""Parts that are looked at in one go; whoever ends meanwhile waits for one piece."""

_PAUSE = 0.001
"""Seconds after each part, in which the threads that have better things to do go on."""


class SizesSoon:
    """A check that goes on behind. It ends with its last part, with the first problem, or when nobody holds this any more."""

    def __init__(self, index: PartsIndex) -> None:
        """Begin to look at the parts that an index knows."""
        self._found: list[Exception] = []
        self._workers = Workers(1)
        places = range(index.parts)
        for start in places[::_PIECE]:
            self._workers.submit(_look, index, places[start : start + _PIECE], self._found)
        self._workers.close()

    def raise_found(self) -> None:
        """Raise what has been found so far, if something has."""
        if self._found:
            raise self._found[0]

    def wait(self) -> None:
        """Wait until all parts have been looked at."""
        self._workers.wait()


def _look(index: PartsIndex, places: range, found: list[Exception]) -> None:
    for place in places:
        if found:
            return
        try:
            index.check_places(slice(place, place + 1))
        except (LogitstoreError, OSError) as error:
            found.append(error)
        time.sleep(_PAUSE)
