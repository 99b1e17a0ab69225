"""What writes parts for a pool: a worker is a process that serves somewhere, a crew is where its workers are.

The workers of this file are processes of this machine. Those of a cluster are in `on_ray.py`. Nothing here loads torch.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import IO, Protocol

from logitstore.dump.processes.messages import END, GRACE_SECONDS, Told

GPUS = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"

LAST_BYTES = 1 << 16
"""Of what a process has printed, so many are searched for its last line."""

_REASONS = {
    signal.SIGKILL: " (the system sends it where memory runs out)",
    signal.SIGBUS: " (a mapped file was cut off, or its disk failed)",
}


@dataclass(frozen=True, kw_only=True)
class Seat:
    """Where one process computes.

    Attributes:
        name: for messages.
        variables: of its environment.
    """

    name: str
    variables: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What follows from deaths and errors.

    Attributes:
        option: the option that asks for the workers, for messages.
        noun: what a worker is called in messages.
        tries: workers that may fail at one part.
        goes_on: whether another worker is started in the place of one that is lost, and a part at which all tries failed is
            set aside. Where not, that part, and any error, ends the command.
        late: a part that takes so many times the median is given to a second worker, once nothing else is left; None for never.
    """

    option: str
    noun: str = "process"
    tries: int
    goes_on: bool
    late: float | None = None


class Worker(Protocol):
    """One process that serves, see `logitstore.dump.processes.child.serve`, as the one that asked for it sees it."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def place(self) -> str:
        """The machine that it runs on; an empty text as long as nobody knows."""
        ...

    def send(self, message: bytes) -> None:
        """Pass a message on. One that is dead shows that by `hear`."""
        ...

    def hear(self) -> Told | None:
        """Return what it says; None where it has died."""
        ...

    def leave(self, *, is_over: bool) -> None:
        """Let it end: at once, or in good order where its work is over."""
        ...

    def end(self, deadline: float) -> None:
        """Wait until it has ended, or kill it after the deadline, a time of `time.monotonic`."""
        ...

    def how_it_ended(self) -> str:
        """Wait until it has ended, and say how, for the middle of a message."""
        ...


class Crew(Protocol):
    """Where workers are started."""

    @property
    def rules(self) -> Rules: ...

    def open(self, most: int) -> int:
        """Make ready; return how many workers there shall be, at most so many."""
        ...

    def start(self, number: int, opening: bytes) -> Worker:
        """Start worker number `number`, from 1 on. `opening` is its first message."""
        ...

    def heard(self, workers: Sequence[Worker], seconds: float | None) -> Iterable[Worker]:
        """Wait until some of the workers say something, or have ended; return them; none after so many seconds."""
        ...

    def close(self) -> None:
        """Give back what `open` took."""
        ...


class Running(Protocol):
    """A process, as `subprocess.Popen` shows it."""

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def kill(self) -> None: ...


def launch(pipes: tuple[int, int], printed: IO[bytes], variables: Mapping[str, str]) -> Running:
    """Start a process that serves.

    Args:
        pipes: descriptors that it reads and writes.
        printed: takes what it prints.
        variables: its environment.
    """
    # the modules of this process, and none that lie where it was started; a Ctrl-C of the terminal comes to this process alone
    path = os.pathsep.join(each for each in sys.path if each)
    code = f"from logitstore.dump.processes.child import main; main{pipes}"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env={**variables, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=printed,
        pass_fds=pipes,
        start_new_session=True,
    )


class LocalWorker:
    """A process that this one has started.

    Args:
        name: for messages.
        seat: where it computes.
        opening: the first message.
    """

    place = "here"

    def __init__(self, name: str, seat: Seat, opening: bytes) -> None:
        self.name = name
        self._printed: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        (asked, ours), (answers, told) = os.pipe(), os.pipe()
        self._ours, self.answers = Connection(ours, readable=False), Connection(answers, writable=False)
        try:
            self._process = launch((asked, told), self._printed, os.environ | seat.variables)
        finally:
            os.close(asked)
            os.close(told)
        self.send(opening)

    def send(self, message: bytes) -> None:
        with suppress(BrokenPipeError):
            self._ours.send_bytes(message)

    def hear(self) -> Told | None:
        message = self.hear_bytes()
        if message is None:
            return None
        said: Told = pickle.loads(message)
        return said

    def hear_bytes(self) -> bytes | None:
        """Wait for what the process says, and return it pickled; None where it has died."""
        try:
            return self.answers.recv_bytes()
        except (EOFError, OSError):
            return None

    def says_more(self) -> bool:
        """Say whether there is something to hear."""
        return self.answers.poll()

    def leave(self, *, is_over: bool) -> None:
        if is_over:
            self.send(END)
        self._ours.close()
        self.answers.close()

    def end(self, deadline: float) -> None:
        self._ended(deadline)
        self._printed.close()

    def _ended(self, deadline: float) -> int:
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()

    def how_it_ended(self) -> str:
        code = self._ended(time.monotonic() + GRACE_SECONDS)
        if code < 0:
            number = signal.Signals(-code)
            how = f"was ended by {number.name}{_REASONS.get(number, '')}"
        else:
            how = f"ended with exit code {code}"
        self._printed.seek(max(self._printed.seek(0, os.SEEK_END) - LAST_BYTES, 0))
        lines = [line for line in self._printed.read().decode(errors="replace").splitlines() if line.strip()]
        return f"{how}, after it said: {lines[-1].strip()[:200]}" if lines else how


class LocalCrew:
    """Processes of this machine.

    Args:
        seats: where each of them computes.
        rules: what follows from deaths and errors.
    """

    def __init__(
        self, seats: Sequence[Seat], rules: Rules = Rules(option="--processes", tries=2, goes_on=False)
    ) -> None:
        self._seats, self.rules = seats, rules

    def open(self, most: int) -> int:
        return min(len(self._seats), most)

    def start(self, number: int, opening: bytes) -> LocalWorker:
        seat = self._seats[(number - 1) % len(self._seats)]
        return LocalWorker(f"{self.rules.noun} {number} ({seat.name})", seat, opening)

    def heard(self, workers: Sequence[Worker], seconds: float | None) -> list[Worker]:
        of = {worker.answers: worker for worker in workers if isinstance(worker, LocalWorker)}
        return [of[answers] for answers in wait(list(of), seconds)]  # type: ignore[index]

    def close(self) -> None:
        pass
