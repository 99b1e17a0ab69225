"""Check the parts of a cache and of its taps: which of them, by whom, and what an interrupted run has done already."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from logitstore.core.order import salt_of
from logitstore.core.progress import Progress, Step, amount
from logitstore.core.random import hashed
from logitstore.store.checks.journal import Journal
from logitstore.store.checks.parts import Found, Job
from logitstore.store.checks.problem import Problem
from logitstore.store.checks.processes import Checkers

_SHARE = 8
"""The use of random numbers: which parts belong to a share. Those before it are other choices'."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much of a cache is checked, and by whom.

    Attributes:
        share: share of the parts that are checked.
        seed: of the choice of these parts.
        workers: the largest count of processes that check parts.
        journal: whether what was found whole is kept for the next run, should this one be interrupted.
        resume: whether what an interrupted run found whole is taken over.
    """

    share: float = 1.0
    seed: int = 0
    workers: int = 1
    journal: bool = False
    resume: bool = False

    def of(self, numbers: list[int]) -> list[int]:
        """Return the parts that are checked: one of each of as many neighbouring groups as are wanted, by the seed."""
        if self.share >= 1 or not numbers:
            return numbers
        count = max(round(self.share * len(numbers)), 1)
        bounds = np.arange(count + 1) * len(numbers) // count
        drawn = hashed(np.arange(count), salt_of(self.seed, 0, _SHARE)) % np.diff(bounds).astype(np.uint64)
        return [numbers[place] for place in (bounds[:-1] + drawn.astype(np.int64)).tolist()]


class CheckedParts:
    """The parts that are checked: those that an earlier run found whole first, to see whether they have changed."""

    def __init__(self, jobs: Sequence[Job], journal: Journal | None) -> None:
        self._jobs, self._journal = jobs, journal
        self._found: dict[tuple[str | None, int], list[Problem]] = {}
        self.counts, self.earlier, self.began = (0, 0), 0, 0.0
        self._whole = 0

    def run(self, checkers: Checkers[Job, Found], progress: Progress, *, has_claims: bool) -> None:
        """Check all parts.

        Args:
            checkers: the processes that check them.
            progress: receives the steps, and how far a run came that is interrupted.
            has_claims: whether a part without a problem may be claimed to be whole.
        """
        journal = self._journal
        claims = {} if journal is None or not has_claims else journal.claims
        may_claim = has_claims and journal is not None and journal.is_kept
        known = [replace(job, claim=claims[key]) for job in self._jobs if (key := (job.tap, job.number)) in claims]
        others = [replace(job, claims=may_claim) for job in self._jobs if (job.tap, job.number) not in claims]
        try:
            for done, found in enumerate(checkers.over(known), 1):
                self._take(found)
                progress(Step(stage="compare", done=done, total=len(known), part=found.job.number))
            if journal is not None and self.earlier:
                self.began = journal.began
                note = (
                    f"{self.earlier:,} of {amount(len(self._jobs), 'part')} were found whole by the run of "
                    f"{moment(self.began)}, and their files have not changed since; "
                    "they are not read again. --no-resume reads them."
                )
                progress(Step(stage="earlier run", done=1, total=1, note=note))
            progress(Step(stage="verify", done=0, total=len(others)))
            for done, found in enumerate(checkers.over(others), 1):
                self._take(found)
                progress(
                    Step(stage="verify", done=done, total=len(others), part=found.job.number, note=found.job.tap or "")
                )
        except BaseException as error:
            if journal is not None:
                journal.write()
                if isinstance(error, KeyboardInterrupt):
                    progress(Step(stage="interrupted", done=1, total=1, note=self._how_far(journal)))
            raise

    def _take(self, found: Found) -> None:
        if found.problems:
            self._found[found.job.tap, found.job.number] = found.problems
        self.counts = (self.counts[0] + found.counts[0], self.counts[1] + found.counts[1])
        self.earlier += found.is_taken_over
        if self._journal is not None and found.claim is not None:
            self._whole += 1
            if not found.is_taken_over:
                self._journal.add(found.claim)

    def _how_far(self, journal: Journal) -> str:
        if not journal.is_kept:
            return "nothing can be kept beside this cache; the same command begins anew."
        return f"{self._whole:,} of {amount(len(self._jobs), 'part')} were found whole; the same command goes on with the rest."

    def problems_of(self, tap: str | None) -> list[Problem]:
        """Return the problems of the parts of a tap, or of the cache for None, in the order of the parts."""
        numbers = sorted(number for name, number in self._found if name == tap)
        return [problem for number in numbers for problem in self._found[tap, number]]

    def end(self, *, is_whole: bool) -> None:
        """Remove the journal; that of an earlier run stays if this one looked at a share of the parts only."""
        if self._journal is not None and (is_whole or not self._journal.claims):
            self._journal.remove()


def moment(seconds: float) -> str:
    """Return a time in words."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
