"""The processes of one run end together: when one fails or dies, all end within seconds, and one line says which and why.

Each process holds a connection to the first one. The system closes it when a process ends, however it ends, so a death is known
at once, also where the others wait for an accelerator. What is said is one JSON object on a line.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import sys
import threading
import traceback
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from logitstore.errors import LogitstoreError, ProcessDied, one_line, refusal_of, retold
from logitstore.train.ranks.wire import Hub, Line, Member

_LOST = re.compile(r"[Cc]onnection|gloo|NCCL|[Bb]roken pipe|[Ss]ocket|[Rr]eset by peer|[Tt]imed out")
"""What the libraries say when another process is gone."""

JOINING = timedelta(minutes=10)
"""How long the processes wait for the first one to open the meeting."""

LEFT_WITHIN = 5.0
"""Seconds in which the first process must come to its end by itself, before it is ended."""


def company() -> AbstractContextManager[object]:
    """Return the context in which a process runs with the others that torchrun, or another launcher, has started."""
    told = [os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")]
    if not all(told) or int(os.environ["WORLD_SIZE"]) < 2:
        return nullcontext()
    return Company(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


class Company:
    """This process among those of a run.

    Attributes:
        rank, count: its number, and how many there are.
    """

    def __init__(self, rank: int, count: int) -> None:
        self.rank, self.count = rank, count
        self._is_leaving = threading.Event()
        self._line: Line | None = None
        self._store: Any = None
        self._before: tuple[Any, int] | None = None

    def __enter__(self) -> Company:
        with suppress(OSError, RuntimeError):  # without the others a run goes on as it did before there was a company
            self._line = self._meet()
            self._watch_for_signals()  # before a failure of another process can make anybody end this one
            self._line.start()
        return self

    def _meet(self) -> Line:
        """Open the place where the others come, or go there. Only those who know the secret of the run are heard."""
        store, _, _ = next(iter(rendezvous("env://", timeout=JOINING)))
        self._store = PrefixStore("logitstore-company", store)
        is_local = os.environ.get("LOCAL_WORLD_SIZE") == str(self.count)
        if self.rank == 0:
            secret, place = secrets.token_hex(16), socket.create_server(("127.0.0.1" if is_local else "", 0))
            self._store.set("place", json.dumps([place.getsockname()[1], secret]))
            return Hub(place, secret, self.count, self._ended, self._signalled)
        port, secret = json.loads(self._store.get("place"))
        host = "127.0.0.1" if is_local else os.environ["MASTER_ADDR"]
        there = socket.create_connection((host, port), 30)
        return Member(there, secret, self.rank, self.count, self._ended, self._signalled)

    def _watch_for_signals(self) -> None:
        """Wait with the end that torchrun asks for until it is known why: it asks as soon as one process has ended."""
        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        ):
            return
        assert self._line is not None
        self._before = (signal.signal(signal.SIGTERM, _wait), signal.set_wakeup_fd(self._line.woken.fileno()))

    def _ended(self, cause: str | None) -> None:
        """End this process because another one has; called by the thread of the line.

        Args:
            cause: what to print; None where another process prints it.
        """
        if cause is None and self.rank:
            os._exit(2)
        if not self._is_leaving.wait(LEFT_WITHIN if self.rank == 0 else 0.0):
            sys.stderr.write(f"error: {cause}\n")
            sys.stderr.flush()
            os._exit(2)

    def _signalled(self) -> None:
        """End this process by the signal that asked for it, where nothing has happened meanwhile."""
        if signal.getsignal(signal.SIGTERM) is _wait:
            os._exit(128 + signal.SIGTERM)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        line = self._line
        if line is None:
            return
        if error is None:
            line.leave()
            if self._before is not None:
                signal.set_wakeup_fd(self._before[1])
                signal.signal(signal.SIGTERM, self._before[0])
        elif isinstance(line, Member):
            self._fail(line, error)
        elif isinstance(line, Hub):
            self._is_leaving.set()
            if self._before is not None:
                # a handler of Python's ends with the interpreter, and the line and the exit code are to outlive the others
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._fail_first(line, error)

    def _fail(self, line: Member, error: BaseException) -> None:
        """Tell the first process why this one ends, and end. Only a bug is shown here, too."""
        said, is_lost = _told(error), _is_lost(error)
        if said is None and not is_lost:
            traceback.print_exception(error)
        text = said or f"{type(error).__name__}: {one_line(error)}"
        line.fail(text, is_lost=is_lost, seconds=2 * LEFT_WITHIN)
        # nobody has ended this process: the first one is done, or busy, and may never say it
        sys.stderr.write(f"error: rank {self.rank} of {self.count}: {text}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130 if isinstance(error, KeyboardInterrupt) else 2)

    def _fail_first(self, line: Hub, error: BaseException) -> None:
        """Raise the reason for which the run ends, if it is not what this process has raised itself.

        Raises:
            ProcessDied: another process has failed or died.
        """
        said, is_lost = _told(error), _is_lost(error)
        cause = line.settle(said or f"{type(error).__name__}: {one_line(error)}", is_lost=is_lost)
        if isinstance(error, KeyboardInterrupt) or (said is None and not is_lost and cause.rank == 0):
            return
        if cause.rank or not isinstance(error, LogitstoreError) or not cause.is_common:
            raise ProcessDied(cause.text) from error


def _wait(number: int, frame: FrameType | None) -> None:
    """Do nothing at a signal: the thread of the line has heard of it."""


def _is_lost(error: BaseException) -> bool:
    """Say whether an error may be that another process is gone."""
    return isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None


def _told(error: BaseException) -> str | None:
    """Return the line about what a user can mend; None for a bug."""
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted."
    refusal = refusal_of(error)
    if refusal is not None and refusal.filename is not None:
        return str(retold(refusal))
    return str(error).replace("\n", "\\n") if isinstance(error, LogitstoreError) else None
