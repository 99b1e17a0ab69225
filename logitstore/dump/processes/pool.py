"""The process that hands out parts to others, one at a time: those that live finish the work of one that dies."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from logitstore.core.progress import Progress, Step, amount
from logitstore.dump.parts import ANSWERS, Work
from logitstore.dump.processes.child import Opening
from logitstore.dump.processes.handout import Handout
from logitstore.dump.processes.messages import GRACE_SECONDS, Failed, PartJob, Rows
from logitstore.dump.processes.workers import Crew, Worker
from logitstore.errors import BadInput, CacheMismatch, LogitstoreError, NotACache, ProcessDied, one_line
from logitstore.store.cache import Cache

Show = Callable[[int, list[int]], None]
"""Is told how many rows are answered, and which parts are in work."""


def show_nothing(rows: int, parts: list[int]) -> None:
    """Take what a `Show` is told, for jobs that write no part."""


SHOWN = 4
"""Parts in work that a line of progress names."""

LOOK_SECONDS = 0.5
"""So often it is looked for a part that is late, while a worker is idle."""

SILENCE_SECONDS = 60.0
"""After so long without a word and without a worker that is ready, it is said that they are waited for."""

MISTAKES = (BadInput, CacheMismatch, NotACache)
"""Errors that any other worker would meet too. Before one has loaded the teacher, any refusal ends the command."""


class Member:
    """One of the workers, and what it does."""

    def __init__(self, number: int, worker: Worker) -> None:
        self.number, self.worker = number, worker
        self.is_loaded = False
        self.job: PartJob | None = None
        self.rows = 0

    @property
    def is_idle(self) -> bool:
        return self.is_loaded and self.job is None

    @property
    def begins(self) -> bool:
        return self.job is not None and self.job.part is None

    def give(self, job: PartJob) -> None:
        self.job, self.rows = job, 0
        self.worker.send(pickle.dumps(job))


class Pool:
    """Workers that write parts. Leaving the context ends them: in good order, or at once where an error leaves it.

    Args:
        crew: where they are, and what follows from their deaths.
        opening: loads the teacher; each worker calls it once.
        progress: receives what they report of loading and beginning, once, and how some have died.
        most: how many there may be.
    """

    def __init__(self, crew: Crew, opening: Opening, progress: Progress, most: int) -> None:
        self._crew, self._opening, self._progress, self._most = crew, pickle.dumps(opening), progress, most
        self._rules = crew.rules
        self._members: list[Member] = []
        self._was_loaded = False
        self._lost_loading = 0

    def __enter__(self) -> Pool:
        self._count = self._crew.open(max(self._most, 1))
        try:
            for number in range(1, self._count + 1):
                self._start(number)
        except BaseException:
            self._end(is_over=False)
            raise
        self._first = self._members[0]
        return self

    def _start(self, number: int) -> None:
        self._members.append(Member(number, self._crew.start(number, self._opening)))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(is_over=kind is None)

    def _end(self, *, is_over: bool) -> None:
        try:
            for member in self._members:
                # one that still loads the teacher, or writes what another one has written, is not waited for
                member.worker.leave(is_over=is_over and member.is_idle)
            deadline = time.monotonic() + GRACE_SECONDS
            for member in self._members:
                member.worker.end(deadline)
        finally:
            self._crew.close()

    def run(self, jobs: Iterable[PartJob], show: Show = show_nothing) -> dict[int, str]:
        """Have jobs done, each by one worker at a time.

        Args:
            jobs: in the order in which they are given out.
            show: is called after every batch of rows.

        Returns:
            the parts that failed at every try, with the reason; none unless the rules of the crew set parts aside.

        Raises:
            ProcessDied: no worker lives any more, or several have died with the same part.
            LogitstoreError: of a worker, whichever it is; the first one counts.
        """
        handout, finished_rows = Handout(jobs, self._rules), 0
        heard_at = time.monotonic()
        while not handout.is_over:
            self._give(handout)
            heard = self._heard()
            now = time.monotonic()
            if heard:
                heard_at = now
            elif now - heard_at > SILENCE_SECONDS and not any(member.is_loaded for member in self._members):
                heard_at = now
                self._note(f"{self._rules.option}: no {self._rules.noun} is ready yet; waiting for the cluster")
            for member in heard:
                said = member.worker.hear()
                if said is None:
                    self._lose(member, handout, member.worker.how_it_ended())
                elif isinstance(said, Failed):
                    self._take_error(member, handout, said)
                elif isinstance(said, Step):
                    # each loads the teacher, and one begins; what was begun is looked at by each again
                    if member.begins or (member is self._first and not member.is_loaded):
                        self._progress(said)
                elif isinstance(said, Rows):
                    member.rows += said.count
                    of_part = self._rows_in_work(handout)
                    show(finished_rows + sum(of_part.values()), sorted(of_part))
                elif not member.is_loaded:
                    member.is_loaded = self._was_loaded = True
                    self._lost_loading = 0
                else:
                    if member.job is not None and handout.done(member.job):
                        finished_rows += member.rows
                    member.job = None
        return {job.part: why for job, why in handout.failed.items() if job.part is not None}

    def _give(self, handout: Handout) -> None:
        """Give a job to each worker that has none, as far as there are jobs."""
        places = {member.worker.place for member in self._members if member.is_loaded}
        for member in self._members:
            if member.is_idle and (job := handout.take(member.worker.place, places)) is not None:
                member.give(job)

    def _rows_in_work(self, handout: Handout) -> dict[int, int]:
        """Return the rows that are answered of each part in work; what another worker has written already is not."""
        rows: dict[int, int] = {}
        for member in self._members:
            if member.job is not None and member.job.part is not None and handout.is_open(member.job):
                rows[member.job.part] = max(rows.get(member.job.part, 0), member.rows)
        return rows

    def _heard(self) -> list[Member]:
        """Wait until workers say something, or end; return them."""
        of = {id(member.worker): member for member in self._members}
        seconds = LOOK_SECONDS if self._rules.late is not None else None
        return [of[id(worker)] for worker in self._crew.heard([each.worker for each in self._members], seconds)]

    def _take_error(self, member: Member, handout: Handout, said: Failed) -> None:
        """Raise the error of a worker, unless another one may do better."""
        is_refused = isinstance(said.error, MISTAKES if self._was_loaded else LogitstoreError)
        if not self._rules.goes_on or member.begins or is_refused:
            raise said.error from said.cause
        self._lose(member, handout, "failed", said.error)

    def _lose(self, member: Member, handout: Handout, how: str, error: BaseException | None = None) -> None:
        """Give the part of a worker that is lost to the others, start another one if the rules say so, and tell of it.

        Args:
            member: the worker.
            handout: the jobs.
            how: how it ended, for the middle of a message.
            error: what it raised, if that is why.
        """
        self._members.remove(member)
        job, how = member.job, f"{member.worker.name} {how}"
        member.worker.leave(is_over=False)
        member.worker.end(time.monotonic() + GRACE_SECONDS)
        where = "" if job is None or job.part is None else f" while it wrote part {job.part:05d}"
        what = f"{how}{where}" if error is None else f"{how}{where}: {one_line(error)}"
        state = None if job is None else handout.lost(job, member.worker.place, what)
        option, others = self._rules.option, f"{self._rules.noun}{'es' if self._rules.noun.endswith('s') else 's'}"
        if state == "failed" and job is not None and (not self._rules.goes_on or job.part is None):
            raise ProcessDied(
                f"{option}: {self._rules.tries} {others} died one after the other{where}: {how}. Mend that and give the same "
                "command again; every part written so far is kept."
            )
        if handout.is_futile:
            raise error or ProcessDied(
                f"{option}: {amount(len(handout.failed), 'part')} failed and none was written. The last one: {what}. Mend that "
                "and give the same command again; every part written so far is kept."
            )
        if self._rules.goes_on:
            self._replace(member, how, error)
        elif not self._members:
            raise ProcessDied(
                f"{option}: all of them died before the work was done. The last one, {what}. Mend that and give the "
                f"same command again, perhaps with fewer {option}; every part written so far is kept."
            )
        over = {
            None: "",
            "waits": "; another one takes it over" if where else "",
            "is written by another": "; another one writes it",
            "failed": f"; it failed {self._rules.tries} times and is set aside",
        }[state]
        self._note(f"{what}{over}")

    def _replace(self, member: Member, how: str, error: BaseException | None) -> None:
        """Start another worker in the place of one that is lost, unless they die before they have loaded the teacher."""
        if not member.is_loaded:
            self._lost_loading += 1
        if self._lost_loading > 2 * self._count:
            raise error or ProcessDied(
                f"{self._rules.option}: {self._lost_loading} of them were lost one after the other while they loaded the "
                f"teacher. The last one, {how}. Mend that and give the same command again; every part written so far is kept."
            )
        self._start(member.number)
        if member is self._first and not member.is_loaded:
            self._first = self._members[-1]

    def _note(self, text: str) -> None:
        self._progress(Step(stage="note", done=1, total=1, note=text))


def write_parts_beside(
    pool: Pool,
    cache: Cache,
    work: Work,
    rows_in: Callable[[int], int],
    stage: str,
    progress: Progress,
) -> dict[int, str]:
    """Have the workers write parts, and report on all of them together; see `logitstore.dump.parts.write_parts`.

    Args:
        pool: the workers.
        cache: the cache, which is begun, as the taps are.
        work: what is to be written.
        rows_in: counts the rows of a part.
        stage: name of the stage.
        progress: receives the steps.

    Returns:
        the parts that failed, see `Pool.run`.
    """
    manifest = cache.manifest
    total = sum(rows_in(part) for part in work)
    kinds = {name for names in work.values() for name in names}
    size = sum(manifest.bytes_per_row if name == ANSWERS else cache.taps[name].info.bytes_per_row for name in kinds)

    def show(rows: int, parts: list[int]) -> None:
        named = " ".join(f"{part:05d}" for part in parts[:SHOWN]) + (" ..." if len(parts) > SHOWN else "")
        progress(Step(stage=stage, done=rows, total=total, note=f"{size} B/row, parts {named}"))

    return pool.run((PartJob(part, tuple(names)) for part, names in work.items()), show)
