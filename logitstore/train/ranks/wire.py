"""The connections between the first process of a run and the others, each watched by a thread."""

from __future__ import annotations

import json
import select
import signal
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

Ended = Callable[[str | None], None]
"""Ends this process because of another one; see `Company`."""

SETTLING = 0.5
"""Seconds in which the failures of others come that have the same reason."""

LOST = 3.0
"""Seconds in which the reason comes why a connection was lost."""

SIGNALLED = 2.0
"""Seconds between a signal to end and the end, in which the reason for it may come."""


DIED = "it ended without a word, as a process does that is killed, for one because the memory is full."


@dataclass(frozen=True)
class Cause:
    """Why a run ends.

    Attributes:
        rank: of the process that failed or died.
        text: the line about it.
        is_common: whether all processes have failed in the same way.
    """

    rank: int
    text: str
    is_common: bool = False


LONGEST_GREETING = 4096
"""Most bytes that are taken from a connection that has not said the secret."""


class Line(ABC):
    """What a process hears of the others, on a thread of its own.

    Attributes:
        woken: gets a byte for each signal.
    """

    def __init__(self, ended: Ended, signalled: Callable[[], None]) -> None:
        self._ended, self._signalled = ended, signalled
        self._hears, self.woken = socket.socketpair()
        self.woken.setblocking(False)
        self._is_over = threading.Event()
        self._until: float | None = None
        self._thread = threading.Thread(target=self._run, name="logitstore-company", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    @property
    def is_ending(self) -> bool:
        """Whether the end of all has begun, so that a signal to end changes nothing."""
        return self._is_over.is_set()

    @abstractmethod
    def leave(self) -> None:
        """Part from the others, when all is done."""

    @abstractmethod
    def _sockets(self) -> list[socket.socket]:
        """Return what is listened to."""

    @abstractmethod
    def _hear(self, where: socket.socket) -> None:
        """Hear what comes from one of them."""

    def _run(self) -> None:
        while not self._is_over.is_set():
            with suppress(OSError, ValueError):  # of a connection that was closed meanwhile
                ready, _, _ = select.select([self._hears, *self._sockets()], [], [], 0.1)
                for each in ready:
                    if each is self._hears:
                        if signal.SIGTERM in self._hears.recv(64):
                            self._until = time.monotonic() + SIGNALLED
                    else:
                        self._hear(each)
            if self._until is not None and time.monotonic() > self._until and not self.is_ending:
                self._signalled()


class Hub(Line):
    """The first process: it hears all others, decides why the run ends, and tells them."""

    def __init__(
        self, place: socket.socket, secret: str, count: int, ended: Ended, signalled: Callable[[], None]
    ) -> None:
        super().__init__(ended, signalled)
        self._place, self._secret, self._count = place, secret, count
        self._ranks: dict[socket.socket, int | None] = {}
        self._rest: dict[socket.socket, bytes] = {}
        self._failed: dict[int, str] = {}
        self._lost: dict[int, str] = {}
        self._died: dict[int, str] = {}
        self._first: int | None = None
        self._cause: Cause | None = None
        self._settling = threading.Lock()
        self._changed = threading.Condition()

    @property
    def is_ending(self) -> bool:
        return super().is_ending or bool(self._failed or self._lost or self._died)

    def _sockets(self) -> list[socket.socket]:
        return [self._place, *self._ranks]

    def _hear(self, where: socket.socket) -> None:
        if where is self._place:
            self._ranks[self._place.accept()[0]] = None
            return
        try:
            found = where.recv(1 << 16)
        except OSError:
            found = b""
        *lines, self._rest[where] = (self._rest.get(where, b"") + found).split(b"\n")
        try:
            if self._ranks.get(where) is None and len(self._rest[where]) > LONGEST_GREETING:
                raise ValueError("a line without an end")
            for line in lines:
                self._heard(where, json.loads(line))
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            if self._ranks.get(where) is not None:
                raise
            # nobody of ours: whatever knocks at this door is sent away
            self._ranks.pop(where, None)
            self._rest.pop(where, None)
            where.close()
            return
        if not found and where in self._ranks:
            rank = self._ranks.pop(where)
            if rank is not None and rank not in {*self._failed, *self._lost}:
                self._note(self._died, rank, DIED)

    def _heard(self, where: socket.socket, said: dict[str, Any]) -> None:
        if self._ranks.get(where) is None:
            if said.get("secret") != self._secret:
                self._ranks.pop(where)
                where.close()
            else:
                self._ranks[where] = int(said["rank"])
            return
        rank = self._ranks[where]
        assert rank is not None
        if said["what"] == "leaves":
            self._ranks.pop(where)
        else:
            self._note(self._lost if said["is_lost"] else self._failed, rank, str(said["text"]))

    def _note(self, kind: dict[int, str], rank: int, text: str) -> None:
        """Take note of the end of a process; the first one begins the end of all."""
        with self._changed:
            is_first = not (self._failed or self._lost or self._died)
            if kind is not self._lost and self._first is None:
                self._first = rank
            kind.setdefault(rank, text)
            self._changed.notify_all()
        if is_first and rank:
            threading.Thread(target=self._end_all, args=(kind is self._lost,), daemon=True).start()

    def _end_all(self, is_lost: bool) -> None:
        self._ended(self._settle(LOST if is_lost else SETTLING).text)

    def settle(self, text: str, *, is_lost: bool) -> Cause:
        """Return why the run ends, when this process fails, and let the others end."""
        self._note(self._lost if is_lost else self._failed, 0, text)
        return self._settle(LOST if is_lost else SETTLING)

    def _settle(self, seconds: float) -> Cause:
        """Wait for the reason, choose it once, and let the others end."""
        with self._settling:
            if self._cause is None:
                self._await(seconds)
                self._cause = self._chosen()
                self._tell({"what": "end"})
            return self._cause

    def _await(self, seconds: float) -> None:
        """Wait until all have failed, or some time after the first one has, or died."""
        until = time.monotonic() + seconds
        with self._changed:
            while time.monotonic() < until and len(self._failed) < self._count:
                if self._failed or self._died:
                    seconds, until = SETTLING, min(until, time.monotonic() + min(seconds, SETTLING))
                self._changed.wait(max(until - time.monotonic(), 0.0))

    def _chosen(self) -> Cause:
        """Return the reason: a death before failures that followed it, both before a connection that was lost by them."""
        with self._changed:
            found = self._died if self._died and self._first in self._died else self._failed or self._died or self._lost
            rank = min(found)
            is_common = len(self._failed) == self._count and len(set(self._failed.values())) == 1
            text = found[rank]
        return Cause(rank, text if is_common else f"rank {rank} of {self._count}: {text}", is_common)

    def _tell(self, said: dict[str, Any]) -> None:
        for each in list(self._ranks):
            with suppress(OSError):
                each.sendall(json.dumps(said).encode() + b"\n")

    def leave(self) -> None:
        self._is_over.set()
        self._tell({"what": "leaves"})
        self._place.close()


class Member(Line):
    """Another process: it says when it fails, and ends when the first one says so, or is gone."""

    def __init__(
        self, first: socket.socket, secret: str, rank: int, count: int, ended: Ended, signalled: Callable[[], None]
    ) -> None:
        super().__init__(ended, signalled)
        self._first, self._rank, self._count, self._heard = first, rank, count, b""
        first.settimeout(None)
        self._say({"secret": secret, "rank": rank})

    def _say(self, said: dict[str, Any]) -> None:
        with suppress(OSError):
            self._first.sendall(json.dumps(said).encode() + b"\n")

    def _sockets(self) -> list[socket.socket]:
        return [self._first]

    def _hear(self, where: socket.socket) -> None:
        try:
            found = where.recv(1 << 16)
        except OSError:
            found = b""
        *lines, self._heard = (self._heard + found).split(b"\n")
        for line in lines:
            if json.loads(line)["what"] == "leaves":
                self._is_over.set()
                return
            self._ended(None)
        if not found:
            self._is_over.set()
            self._ended(f"rank 0 of {self._count}: {DIED}" if self._rank == 1 else None)

    def leave(self) -> None:
        self._is_over.set()
        self._say({"what": "leaves"})

    def fail(self, text: str, *, is_lost: bool, seconds: float) -> None:
        """Say why this process ends, and wait until it is told to end, by which this whole process ends."""
        self._say({"what": "fails", "text": text, "is_lost": is_lost})
        self._thread.join(seconds)
