"""A store of the values used last, in memory, shared by threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


V = TypeVar("V")


class Memo(Generic[K, V]):
    """The values used last, by key. The thread that needs a value first makes it; other threads that need it wait."""

    def __init__(self, most: int) -> None:
        """Begin with no values.

        Args:
            most: the largest count of kept values; there may be more while values are being made.
        """
        self._most = most
        self._values: OrderedDict[K, Future[V]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key; make it if it is missing. An error of `make` is raised in all threads that wait for it."""
        with self._lock:
            future = self._values.get(key)
            if is_maker := future is None:
                future = self._values[key] = Future()
                if len(self._values) > self._most:
                    self._values.popitem(last=False)
            self._values.move_to_end(key)
        if is_maker:
            try:
                future.set_result(make())
            except BaseException as error:
                # the next call with this key tries again
                with self._lock:
                    self._values.pop(key, None)
                future.set_exception(error)
        return future.result()
