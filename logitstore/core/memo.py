"""The last things that were made of many, shared by threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


V = TypeVar("V")


class Memo(Generic[K, V]):
    """Things by key, the last used ones; each is made by the thread that asks for it first, while others that want it wait."""

    def __init__(self, most: int) -> None:
        """
        Args:
            most: how many are kept; more only while they are made.
        """
        self._most = most
        self._found: OrderedDict[K, Future[V]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """What belongs to a key, made where it is not there; an error of `make` is everybody's who waits for it."""
        with self._lock:
            future = self._found.get(key)
            if is_mine := future is None:
                future = self._found[key] = Future()
                if len(self._found) > self._most:
                    self._found.popitem(last=False)
            self._found.move_to_end(key)
        if is_mine:
            try:
                future.set_result(make())
            except BaseException as error:
                # whoever asks next tries again
                with self._lock:
                    self._found.pop(key, None)
                future.set_exception(error)
        return future.result()
