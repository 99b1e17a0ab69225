"""The process that hands out parts to others, one at a time: those that live finish the work of one that dies."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import IO, Protocol

from logitstore.core.progress import Progress, Step
from logitstore.dump.parts import ANSWERS, Work
from logitstore.dump.processes.child import END, GRACE_SECONDS, Failed, Opening, PartJob, Rows, Told
from logitstore.dump.processes.seats import Seat
from logitstore.errors import ProcessDied
from logitstore.store.cache import Cache

Show = Callable[[int, list[int]], None]
"""Is told how many rows are answered, and which parts are in work."""


def show_nothing(rows: int, parts: list[int]) -> None:
    """Take what a `Show` is told, for jobs that write no part."""


MOST_DEATHS = 2
"""A part with which as many processes have died is given to no other."""

LAST_BYTES = 1 << 16
"""Of what a process has printed, so many are searched for its last line."""

SHOWN = 4
"""Parts in work that a line of progress names."""

_REASONS = {
    signal.SIGKILL: " (the system sends it where memory runs out)",
    signal.SIGBUS: " (a mapped file was cut off, or its disk failed)",
}


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


class Member:
    """One of the processes, as the one that started it sees it."""

    def __init__(self, name: str, seat: Seat, opening: bytes) -> None:
        self.name = name
        self.is_loaded = False
        self.job: PartJob | None = None
        self.rows = 0
        self._printed: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        (asked, ours), (answers, told) = os.pipe(), os.pipe()
        self._ours, self.answers = Connection(ours, readable=False), Connection(answers, writable=False)
        try:
            self._process = launch((asked, told), self._printed, os.environ | seat.variables)
        finally:
            os.close(asked)
            os.close(told)
        self._send(opening)

    @property
    def is_idle(self) -> bool:
        return self.is_loaded and self.job is None

    @property
    def begins(self) -> bool:
        return self.job is not None and self.job.part is None

    def give(self, job: PartJob) -> None:
        self.job, self.rows = job, 0
        self._send(pickle.dumps(job))

    def hear(self) -> Told | None:
        """Return what the process says; None where it has died."""
        try:
            said: Told = self.answers.recv()
        except (EOFError, OSError):
            return None
        return said

    def _send(self, message: bytes) -> None:
        # one that is dead shows that by the end of its answers
        with suppress(BrokenPipeError):
            self._ours.send_bytes(message)

    def leave(self, *, is_over: bool) -> None:
        """Let the process end: at once, or in good order where its work is over."""
        if is_over:
            self._send(END)
        self._ours.close()
        self.answers.close()
        self._printed.close()

    def end(self, deadline: float) -> int:
        """Wait until the process has ended, or kill it after the deadline. Return its exit code."""
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self._process.poll() is None:
            self._process.kill()
        return self._process.wait()

    def how_it_ended(self) -> str:
        """Wait until the process has ended, and say how, with the last line that it printed."""
        code = self.end(time.monotonic() + GRACE_SECONDS)
        if code < 0:
            number = signal.Signals(-code)
            how = f"was ended by {number.name}{_REASONS.get(number, '')}"
        else:
            how = f"ended with exit code {code}"
        self._printed.seek(max(self._printed.seek(0, os.SEEK_END) - LAST_BYTES, 0))
        lines = [line for line in self._printed.read().decode(errors="replace").splitlines() if line.strip()]
        return f"{how}, after it said: {lines[-1].strip()[:200]}" if lines else how


class Pool:
    """Processes that write parts. Leaving the context ends them: in good order, or at once where an error leaves it.

    Args:
        seats: where each of them computes.
        opening: loads the teacher; each process calls it once.
        progress: receives what they report of loading and beginning, once, and how some have died.
    """

    def __init__(self, seats: Sequence[Seat], opening: Opening, progress: Progress) -> None:
        self._seats, self._opening, self._progress = seats, pickle.dumps(opening), progress
        self._members: list[Member] = []
        self._deaths: Counter[PartJob | None] = Counter()

    def __enter__(self) -> Pool:
        try:
            for number, seat in enumerate(self._seats, 1):
                self._members.append(Member(f"process {number} ({seat.name})", seat, self._opening))
        except BaseException:
            self._end(is_over=False)
            raise
        self._first = self._members[0]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(is_over=kind is None)

    def _end(self, *, is_over: bool) -> None:
        for member in self._members:
            # one that still loads the teacher when all is done is not waited for
            member.leave(is_over=is_over and member.is_idle)
        deadline = time.monotonic() + GRACE_SECONDS
        for member in self._members:
            member.end(deadline)

    def run(self, jobs: Iterable[PartJob], show: Show = show_nothing) -> None:
        """Have jobs done, each by one process at a time.

        Args:
            jobs: in the order in which they are given out.
            show: is called after every batch of rows.

        Raises:
            ProcessDied: no process lives any more, or several have died with the same part.
            LogitstoreError: of a process, whichever it is; the first one counts.
        """
        waiting = deque(jobs)
        left, finished_rows = len(waiting), 0
        while left:
            for member in self._members:
                if member.is_idle and waiting:
                    member.give(waiting.popleft())
            for member in self._heard():
                said = member.hear()
                if said is None:
                    self._bury(member, waiting)
                elif isinstance(said, Failed):
                    raise said.error from said.cause
                elif isinstance(said, Step):
                    # each loads the teacher, and one begins; what was begun is looked at by each again
                    if member.begins or (member is self._first and not member.is_loaded):
                        self._progress(said)
                elif isinstance(said, Rows):
                    member.rows += said.count
                elif not member.is_loaded:
                    member.is_loaded = True
                else:
                    left, finished_rows = left - 1, finished_rows + member.rows
                    member.job, member.rows = None, 0
                if isinstance(said, Rows):
                    busy = [each for each in self._members if each.job is not None]
                    parts = sorted(each.job.part for each in busy if each.job and each.job.part is not None)
                    show(finished_rows + sum(each.rows for each in busy), parts)

    def _heard(self) -> list[Member]:
        """Wait until processes say something, or end; return them."""
        of = {member.answers: member for member in self._members}
        return [of[answers] for answers in wait(list(of))]  # type: ignore[index]

    def _bury(self, member: Member, waiting: deque[PartJob]) -> None:
        """Give the part of a process that died to the others, and tell of it."""
        self._members.remove(member)
        job, how = member.job, f"{member.name} {member.how_it_ended()}"
        member.leave(is_over=False)
        self._deaths[job] += 1
        where = "" if job is None or job.part is None else f" while it wrote part {job.part:05d}"
        if job is not None and self._deaths[job] >= MOST_DEATHS:
            raise ProcessDied(
                f"--processes: {MOST_DEATHS} processes died one after the other{where}: {how}. Mend that and give the same "
                "command again; every part written so far is kept."
            )
        if not self._members:
            raise ProcessDied(
                f"--processes: all of them died before the work was done. The last one, {how}{where}. Mend that and give the "
                "same command again, perhaps with fewer --processes; every part written so far is kept."
            )
        if job is not None:
            waiting.appendleft(job)
        over = f"{where}; another one takes it over" if where else ""
        self._progress(Step(stage="note", done=1, total=1, note=f"{how}{over}"))


def write_parts_beside(
    pool: Pool,
    cache: Cache,
    work: Work,
    rows_in: Callable[[int], int],
    stage: str,
    progress: Progress,
) -> None:
    """Have the processes write parts, and report on all of them together; see `logitstore.dump.parts.write_parts`.

    Args:
        pool: the processes.
        cache: the cache, which is begun, as the taps are.
        work: what is to be written.
        rows_in: counts the rows of a part.
        stage: name of the stage.
        progress: receives the steps.
    """
    manifest = cache.manifest
    total = sum(rows_in(part) for part in work)
    kinds = {name for names in work.values() for name in names}
    size = sum(manifest.bytes_per_row if name == ANSWERS else cache.taps[name].info.bytes_per_row for name in kinds)

    def show(rows: int, parts: list[int]) -> None:
        named = " ".join(f"{part:05d}" for part in parts[:SHOWN]) + (" ..." if len(parts) > SHOWN else "")
        progress(Step(stage=stage, done=rows, total=total, note=f"{size} B/row, parts {named}"))

    pool.run((PartJob(part, tuple(names)) for part, names in work.items()), show)
