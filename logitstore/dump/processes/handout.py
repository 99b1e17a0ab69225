"""Who gets which part: each one once, again where a worker failed at it, and twice where a worker is late with it.

Nothing here starts or hears anything, so it is told of everything that happens.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from typing import Literal

from logitstore.dump.processes.messages import PartJob
from logitstore.dump.processes.workers import Rules

FEWEST_DONE = 2
"""So many parts must be done before another is called late."""

SOONEST_SECONDS = 2.0
"""Before so many seconds no part is late: parts that are written at once are not worth a second worker."""

MOST_FAILED = 3
"""After so many parts that failed at every try, and none that was written, it is not the parts that are at fault."""

Lost = Literal["waits", "is written by another", "failed"]
"""What becomes of a job whose worker is lost."""


class Handout:
    """The jobs of one run.

    Args:
        jobs: in the order in which they are given out.
        rules: how often a job is tried, and when it is late.
        clock: gives the time in seconds.

    Attributes:
        failed: the jobs at which all tries failed, with what was said of the last one.
    """

    def __init__(self, jobs: Iterable[PartJob], rules: Rules, clock: Callable[[], float] = time.monotonic) -> None:
        self._rules, self._clock = rules, clock
        self._waiting = deque(jobs)
        self._left = set(self._waiting)
        self._began: dict[PartJob, float] = {}
        self._copies: Counter[PartJob] = Counter()
        self._failures: dict[PartJob, list[str]] = {}
        self._seconds: list[float] = []
        self.failed: dict[PartJob, str] = {}

    @property
    def is_over(self) -> bool:
        """Whether every job is done or has failed."""
        return not self._left

    @property
    def is_futile(self) -> bool:
        """Whether parts fail one after the other, and none is written."""
        return not self._seconds and len(self.failed) >= MOST_FAILED

    def is_open(self, job: PartJob) -> bool:
        """Say whether a job is neither done nor failed."""
        return job in self._left

    def take(self, place: str, places: Collection[str]) -> PartJob | None:
        """Return the next job for a worker; None if there is none for it now.

        A job that failed is kept for another machine, if there is one.

        Args:
            place: where the worker is.
            places: where workers are that can take jobs, its own place among them.
        """
        for job in self._waiting:
            failed_at = set(self._failures.get(job, ()))
            if place not in failed_at or failed_at.issuperset(places):
                self._waiting.remove(job)
                self._began[job] = self._clock()
                self._copies[job] += 1
                return job
        # jobs that are kept for another machine, whose worker may hang, keep nobody here from a late one
        late = self._latest()
        if late is not None:
            self._copies[late] += 1
        return late

    def _latest(self) -> PartJob | None:
        """Return the job that is in work for longest, if it is late and one worker has it."""
        if self._rules.late is None or len(self._seconds) < FEWEST_DONE:
            return None
        alone = [job for job in self._left if self._copies[job] == 1]
        if not alone:
            return None
        first = min(alone, key=self._began.__getitem__)
        usual = max(self._rules.late * statistics.median(self._seconds), SOONEST_SECONDS)
        return first if self._clock() - self._began[first] > usual else None

    def done(self, job: PartJob) -> bool:
        """Take note that a worker has done a job. Return False where another one was first."""
        self._copies[job] -= 1
        if job not in self._left:
            return False
        self._left.remove(job)
        self._seconds.append(self._clock() - self._began[job])
        if job in self._waiting:
            self._waiting.remove(job)
        return True

    def lost(self, job: PartJob, place: str, why: str) -> Lost:
        """Take note that the worker that had a job is lost, or failed at it.

        Args:
            job: the job.
            place: where the worker was.
            why: what happened.
        """
        self._copies[job] -= 1
        if job not in self._left:
            return "is written by another"
        self._failures.setdefault(job, []).append(place)
        if self._copies[job]:
            return "is written by another"
        if len(self._failures[job]) >= self._rules.tries:
            self._left.remove(job)
            self.failed[job] = why
            return "failed"
        self._waiting.appendleft(job)
        return "waits"
