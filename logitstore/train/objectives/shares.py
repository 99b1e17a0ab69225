"""What each of several teachers counts in the loss of a row: a number of the run, or of the row itself.

Axes: C caches, N rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from logitstore.core.progress import amount
from logitstore.core.schedule import WAYS, Schedule
from logitstore.errors import BadInput
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.by_autograd import Term
from logitstore.train.objectives.kernels.target import ScaledRows
from logitstore.train.objectives.kernels.weighted_sum import Pull

Share = Tensor | float
"""What a teacher counts: float32[N], or one number for all rows."""


GOLD = "cross_entropy"
"""The one that needs no teacher."""


BY_ROW = ("gold", "entropy")
"""What may decide for each row."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The shares of C teachers; they sum to 1 at every moment and in every row.

    By gold a teacher counts in proportion to its probability of the gold token, by entropy to exp(-H) of its entropy H in nats:
    softmax over the teachers of the stored `gold_logprob`, or of minus the stored `entropy`.

    Attributes:
        schedules: of each teacher; they are divided by their sum. Empty where `by` decides.
        by: what decides for each row; None where the schedules do.
    """

    schedules: Sequence[Schedule] = ()
    by: Literal["gold", "entropy"] | None = None

    @classmethod
    def of(cls, text: str | None, count: int) -> Shares:
        """Return the shares of so many teachers, from text such as `1,2`, `linear(1,0),linear(0,1)` or `gold`.

        Raises:
            BadInput: it is neither, or not one for each teacher, or at some moment none counts.
        """
        if text is None:
            return cls(schedules=[Schedule.of(1.0)] * count)
        name = text.strip()
        if name in BY_ROW:
            return cls(by="gold" if name == "gold" else "entropy")
        # commas between the arguments of a schedule do not part the list
        pieces = [piece.strip() for piece in re.split(r",(?![^(]*\))", name)]
        try:
            schedules = [Schedule.of(piece) for piece in pieces]
        except BadInput as error:
            raise BadInput(
                f"--weights {text}: write one for each of the {amount(count, 'cache')}, each {WAYS}; or {' or '.join(BY_ROW)}."
            ) from error
        if len(schedules) != count:
            raise BadInput(
                f"--weights {text}: {len(schedules)} for {amount(count, 'cache')}. Give one for CACHE and one for each "
                "--also."
            )
        moments = [sum(each.at(done) for each in schedules) for done in (0.0, 0.5, 1.0)]
        if min(moments) <= 0 and not all(each.shape == "warmup" for each in schedules if each.span[1] > 0):
            raise BadInput(
                f"--weights {text}: at some moment of the run nothing counts. Let one be above 0 throughout."
            )
        if not max(moments):
            raise BadInput(f"--weights {text}: nothing counts. Give at least one cache a weight above 0.")
        return cls(schedules=schedules)

    def __call__(self, scores: Sequence[Mapping[str, Tensor]], done: float) -> list[Share]:
        """Return what each teacher counts.

        Args:
            scores: of each teacher `gold_logprob` and `entropy`, [N] each, as stored.
            done: the share of the run that is over.
        """
        if self.by is None:
            numbers = [schedule.at(done) for schedule in self.schedules]
            total = sum(numbers)
            # where all of them begin at 0, they begin alike
            return [number / total if total > 0 else 1 / len(numbers) for number in numbers]
        name, sign = ("gold_logprob", 1.0) if self.by == "gold" else ("entropy", -1.0)
        score_CN = torch.stack([each[name].float() * sign for each in scores]).nan_to_num(nan=-torch.inf)
        # where no teacher gives the token any mass, or there is no token, all count alike
        score_CN = torch.where(torch.isneginf(score_CN).all(0), 0.0, score_CN)
        return list(torch.softmax(score_CN, 0))


@dataclass(frozen=True, eq=False)
class OneTeacher:
    """One of the teachers of a loss: what it says, what it counts, and its place among them."""

    targets: AnyTargets | None
    share: Share
    place: int

    def labelled(self, name: str) -> str:
        """Return the name of a pull of this teacher in the log."""
        return f"{name}/{self.place + 1}" if self.place else name


def shared_pull(pull: Pull, teacher: OneTeacher) -> Pull:
    """Return a pull with the share of its teacher; the cross-entropy on gold tokens is nobody's."""
    if pull.name == GOLD:
        return pull
    if isinstance(teacher.share, Tensor):
        return replace(pull, name=teacher.labelled(pull.name), target=ScaledRows(pull.target, teacher.share))
    return replace(pull, name=teacher.labelled(pull.name), weight=pull.weight * teacher.share)


def shared_term(term: Term, teacher: OneTeacher) -> Term:
    """Return a term with the share of its teacher, as `shared_pull` does."""
    if term.name == GOLD:
        return term
    share, own = teacher.share, term.loss
    if isinstance(share, Tensor):
        return replace(
            term, name=teacher.labelled(term.name), loss=lambda logits_nV, some: share[some] * own(logits_nV, some)
        )
    return replace(term, name=teacher.labelled(term.name), weight=term.weight * share)
