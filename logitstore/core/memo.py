"""Stores of the values used last, in memory, shared by threads; several stores may share one budget."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from itertools import count
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)


V = TypeVar("V")


class _Held:
    """One value of a store, or the promise of it while it is made. A finished value is read without a lock."""

    __slots__ = ("future", "value", "weight")

    def __init__(self, weight: int) -> None:
        self.weight, self.value = weight, _MISSING
        self.future: Future[Any] = Future()


_MISSING: Any = object()


class Budget:
    """The most that the values of some stores may weigh together. The value used longest ago goes first, from any store."""

    def __init__(self, most: int) -> None:
        """Begin with nothing.

        Args:
            most: the largest sum of the weights; the value used last is kept whatever it weighs.
        """
        self.most, self.used = most, 0
        self._held: OrderedDict[tuple[int, Any], _Held] = OrderedDict()
        self._gone: deque[int] = deque()
        self._lock = threading.Lock()
        self._stores = count()

    def join(self, store: object) -> int:
        """Return the number of a new store. What it holds goes when the store itself is garbage."""
        number = next(self._stores)
        weakref.finalize(store, _left, weakref.ref(self), number).atexit = False
        return number

    def leave(self, number: int) -> None:
        """Let go of what a store holds that is garbage: now, or, where a thread is at work here, when it next looks."""
        self._gone.append(number)
        # the garbage collector may come while this very thread has the lock
        if self._lock.acquire(blocking=False):
            try:
                let_go = self._drop_gone()
            finally:
                self._lock.release()
            del let_go

    def look(self, key: tuple[int, Any], weight: int) -> tuple[_Held, bool]:
        """Return what stands for a value that is used now, and whether the caller has to make it."""
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                return held, False
            let_go = self._drop_gone()
            held = self._held[key] = _Held(weight)
            self.used += weight
            while self.used > self.most and len(self._held) > 1:
                let_go.append(self._drop(next(iter(self._held))))
        return held, True  # what is let go of is freed here, outside of the lock

    def shed(self, keep: int = 1) -> bool:
        """Let go of the value used longest ago, in any store; say whether there was one.

        What is being made stays, and so does what somebody has in hand: it is only no longer kept here.

        Args:
            keep: nothing goes if no more than so many values are here.
        """
        with self._lock:
            let_go = self._drop_gone()
            oldest = next((key for key, held in self._held.items() if held.value is not _MISSING), None)
            has_shed = oldest is not None and len(self._held) > keep
            if oldest is not None and has_shed:
                let_go.append(self._drop(oldest))
        del let_go
        return has_shed

    def forget(self, key: tuple[int, Any], held: _Held) -> None:
        """Let go of a value that could not be made, unless another one stands in its place by now."""
        with self._lock:
            if self._held.get(key) is held:
                self._drop(key)

    def _drop(self, key: tuple[int, Any]) -> _Held:
        held = self._held.pop(key)
        self.used -= held.weight
        return held

    def _drop_gone(self) -> list[_Held]:
        numbers = {self._gone.popleft() for _ in range(len(self._gone))}
        return [self._drop(key) for key in list(self._held) if key[0] in numbers] if numbers else []


def _left(budget: weakref.ref[Budget], number: int) -> None:
    if (found := budget()) is not None:
        found.leave(number)


class Memo(Generic[K, V]):
    """The values used last, by key. The thread that needs a value first makes it; other threads that need it wait."""

    def __init__(self, budget: Budget, weight: int = 1) -> None:
        """Begin with no values.

        Args:
            budget: bounds the values of this store and of all others that share it.
            weight: what each value of this store counts.
        """
        self._budget, self._weight = budget, weight
        self._number = budget.join(self)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of a key; make it if it is missing. An error of `make` is raised in all threads that wait for it."""
        place = (self._number, key)
        held, is_maker = self._budget.look(place, self._weight)
        if is_maker:
            try:
                held.value = make()
                held.future.set_result(held.value)
            except BaseException as error:
                self._budget.forget(place, held)  # the next call with this key tries again
                held.future.set_exception(error)
        value: V = held.value if held.value is not _MISSING else held.future.result()
        return value
