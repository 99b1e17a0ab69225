"""The actor of Ray that keeps one process. It loads neither torch nor the teacher: the process does, as on one machine."""

from __future__ import annotations

import importlib
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

from logitstore.dump.processes.messages import GRACE_SECONDS
from logitstore.dump.processes.workers import LocalWorker, Seat


@dataclass(frozen=True)
class Heard:
    """What a process has said since the last time.

    Attributes:
        place: the node, as Ray names it.
        host: the name of the machine.
        messages: each of them pickled.
        ended: how it ended; None where it has not.
    """

    place: str
    host: str
    messages: tuple[bytes, ...]
    ended: str | None


class Keeper:
    """The actor: keeps one process that serves.

    Args:
        name: of the worker.
        seat: where it computes, as far as Ray does not say it.
        opening: its first message.
        folder: the current folder of the command; relative paths are meant from there.
    """

    def __init__(self, name: str, seat: Seat, opening: bytes, folder: str) -> None:
        # a machine that does not share that folder says which file it misses
        with suppress(OSError):
            os.chdir(folder)
        self._place = str(importlib.import_module("ray").get_runtime_context().get_node_id())
        self._worker = LocalWorker(name, seat, opening)

    def send(self, message: bytes) -> None:
        """Pass a message on to the process."""
        self._worker.send(message)

    def hear(self) -> Heard:
        """Wait until the process says something, and return all that it has said; one call at a time."""
        messages = [self._worker.hear_bytes()]
        while messages[-1] is not None and self._worker.says_more():
            messages.append(self._worker.hear_bytes())
        ended = self._worker.how_it_ended() if messages[-1] is None else None
        return Heard(
            self._place, socket.gethostname(), tuple(message for message in messages if message is not None), ended
        )

    def end(self, is_over: bool) -> None:
        """Let the process end, and wait for that."""
        self._worker.leave(is_over=is_over)
        self._worker.end(time.monotonic() + GRACE_SECONDS)
