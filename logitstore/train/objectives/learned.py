"""Shares of teachers that a small network learns with the student: a gate over teachers, or the geometry of a row.

A gate (MST-Distill: "Mixture of Specialized Teachers for Cross-Modal Knowledge Distillation", third stage) learns by the loss
that the student learns by, and by a term that keeps all teachers in use. The geometry (TGeo-KD: "Less or More From Teacher:
Exploiting Trilateral Geometry For Knowledge Distillation") says for each row how much the teacher and how much the gold token
count; it learns by what a step does to the loss on held-out rows, see `logitstore.train.students.beside.bilevel`.

Axes: N rows (n of a chunk), C teachers, F features, L lines of a loss, V the student's vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from logitstore.errors import BadInput
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.by_autograd import ByAutograd
from logitstore.train.objectives.kernels.dense_pair import distribution_of
from logitstore.train.objectives.kernels.weighted_sum import WeightedSum, Weights
from logitstore.train.objectives.shares import GOLD, Share

Kind = Literal["gate", "geometry"]

LEARNED: tuple[Kind, ...] = ("gate", "geometry")
"""What `--weights` may learn."""

HIDDEN = (32, 16)
"""Widths of the network; TGeo-KD's."""

BALANCE = 1.0
"""Weight of the term that keeps all teachers of a gate in use; MST-Distill's."""


def learned_kind(text: str | None) -> tuple[Kind, bool] | None:
    """Return what a text such as `gate:top=1` asks to learn, and whether one teacher alone counts in a row; None for others.

    Raises:
        BadInput: a gate or a geometry with options that it does not have.
    """
    name, colon, rest = (text or "").strip().partition(":")
    if name not in LEARNED:
        return None
    if name == "gate" and rest == "top=1":
        return "gate", True
    if colon:
        raise BadInput(f"--weights {text}: write gate, gate:top=1 or geometry.")
    return ("gate", False) if name == "gate" else ("geometry", False)


class LearnedShares(nn.Module):
    """The shares of C teachers in a row; of a geometry the gold token has the rest to 1.

    The network's last layer begins at 0, so all begin alike, whatever a row looks like; without learning they stay so.
    """

    def __init__(self, kind: Kind, teachers: int, *, top: bool = False) -> None:
        """
        Args:
            kind: what is learned.
            teachers: C, at least 1; of a gate at least 2.
            top: whether in each row one teacher alone counts, the one that the gate finds best.
        """
        super().__init__()
        self.kind, self.teachers, self.top = kind, teachers, top
        first, second = HIDDEN
        last = nn.Linear(second, teachers)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(
            nn.Linear(features_of(teachers), first), nn.Tanh(), nn.Linear(first, second), nn.Tanh(), last
        )

    def forward(self, features_FN: Tensor) -> Tensor:
        """Return float[C, N], the softmax of what the network says of each teacher; of a geometry also of the gold token, of
        which it says 0, so that of one teacher it is a sigmoid."""
        said_NC: Tensor = self.network(features_FN.T.to(next(self.network.parameters()).dtype))
        if self.kind == "geometry":
            said_NC = torch.nn.functional.pad(said_NC, (0, 1))
        return torch.softmax(said_NC, -1)[:, : self.teachers].T

    def used(self, shares_CN: Tensor) -> Tensor:
        """Return what counts in the student's loss, without a gradient: the shares, or 1 for the largest of each row and 0 for
        the others."""
        if not self.top:
            return shares_CN.detach()
        return torch.zeros_like(shares_CN).scatter_(0, shares_CN.argmax(0, keepdim=True), 1.0)

    def own_loss(self, shares_CN: Tensor, costs_CN: Tensor, weights_N: Tensor) -> Tensor:
        """Return what a gate learns by: sum_n w_n sum_c share_cn cost_cn + BALANCE sum_n w_n KL(1 / C || mean share).

        Args:
            shares_CN: with a gradient.
            costs_CN: the student's loss to each teacher, without one.
            weights_N: of the rows in the step.
        """
        # a row that does not count may have an infinite loss
        costs_CN = torch.where(weights_N != 0, costs_CN, 0.0)
        # where one teacher alone counts, the gate has the gradient of the shares
        counted_N = ((self.used(shares_CN) + shares_CN - shares_CN.detach()) * costs_CN).sum(0)
        total = weights_N.sum()
        mean_C = (shares_CN * weights_N).sum(1) / total.clamp(min=1e-12)
        unequal = (-math.log(self.teachers) - mean_C.clamp(min=1e-12).log()).mean()
        return (weights_N * counted_N).sum() + BALANCE * total * unequal


def features_of(teachers: int) -> int:
    """Return F: three numbers of the student, and five for each teacher."""
    return 3 + 5 * teachers


@dataclass(frozen=True, eq=False)
class Seen:
    """What the network sees of a row, and the losses of the row to each teacher, in one pass without a gradient: a `RowLoss`.

    Of student s, teacher t and gold token g (a distribution with all mass on it): s(g), |s - g|**2, the entropy of s over
    log V; for each teacher t(g), |t - g|**2, |s - t|**2, the entropy of t over log V, and twice the product of the two sides of
    the triangle at t, |s - t|**2 - |s - g|**2 + |t - g|**2. Where there is no gold token, what it is a part of is 0.

    Attributes:
        loss: of the rows, with every teacher at share 1.
        targets: of each teacher.
        gold_N: int64; -1 for none.
    """

    loss: WeightedSum | ByAutograd
    targets: Sequence[AnyTargets]
    gold_N: Tensor

    @property
    def together(self) -> int | None:
        """As of the losses."""
        return self.loss.together

    @property
    def names(self) -> list[str]:
        """None: the lines are for the network alone."""
        return []

    def __call__(self, logits_nV: Tensor, some: slice, scale: Weights = 1.0) -> Tensor:
        student_nV, gold_n = torch.softmax(logits_nV, -1), self.gold_N[some]
        has_n, at_n = gold_n >= 0, gold_n.clamp(min=0)[:, None]
        own_n = student_nV.gather(1, at_n)[:, 0] * has_n
        square_n = student_nV.square().sum(-1)
        to_gold_n = (square_n - 2 * own_n + 1) * has_n
        features = [own_n, to_gold_n, _evenness(student_nV)]
        for targets in self.targets:
            teacher_nV = dense_logprobs(distribution_of(targets[some])).exp().to(student_nV.dtype)
            width = teacher_nV.shape[1]
            known_n = teacher_nV.gather(1, at_n.clamp(max=width - 1))[:, 0] * (has_n & (gold_n < width))
            other_n = teacher_nV.square().sum(-1)
            apart_n = (square_n - 2 * (student_nV[:, :width] * teacher_nV).sum(-1) + other_n).clamp(min=0)
            gap_n = (other_n - 2 * known_n + 1) * has_n
            corner_n = (apart_n - to_gold_n + gap_n) * has_n
            features += [known_n, gap_n, apart_n, _evenness(teacher_nV), corner_n]
        lines_Ln = self.loss(logits_nV, some, 1.0)
        return torch.cat([lines_Ln, torch.stack(features).to(lines_Ln.dtype)])


def _evenness(probs_nV: Tensor) -> Tensor:
    return -torch.xlogy(probs_nV, probs_nV).sum(-1) / math.log(max(probs_nV.shape[1], 2))


@dataclass(frozen=True, eq=False)
class Routed:
    """The loss of rows whose shares are learned, which takes two passes: one to see the rows, one for the gradient.

    Attributes:
        network: gives the shares.
        seen: of the rows.
        places: of each line of the losses behind the first: the teacher, or -1 for the gold token.
        weights: of each of these lines.
        shared: gives the loss with shares [C, N].
        slopes_CN: of a geometry, the derivative of the held-out loss by the share of each teacher; None where it does not
            learn.
    """

    network: LearnedShares
    seen: Seen
    places: Sequence[int]
    weights: Sequence[float]
    shared: Callable[[Tensor], WeightedSum | ByAutograd]
    slopes_CN: Tensor | None = None

    def of(self, lines_LN: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses to each teacher and to the gold token, float[C + 1, N], and the features, float[F, N]."""
        count = 1 + len(self.places)
        costs_CN = lines_LN.new_zeros(self.network.teachers + 1, lines_LN.shape[1])
        for place, weight, line_N in zip(self.places, self.weights, lines_LN[1:count], strict=True):
            costs_CN[place] += weight * line_N
        return costs_CN, lines_LN[count:]

    @property
    def names(self) -> list[str]:
        """Of the lines after the first."""
        shares = ["share" if not place else f"share/{place + 1}" for place in range(self.network.teachers)]
        return [*self.seen.loss.names, *shares]

    def summed(
        self,
        of_rows: Callable[[Tensor, bool, Seen | WeightedSum | ByAutograd], tuple[Tensor, Tensor]],
        weights_N: Tensor,
    ) -> tuple[Tensor, Tensor, list[str]]:
        """Return the weighted sum of the losses with a gradient by student and network, its lines and their names.

        Args:
            of_rows: gives a loss of the batch's rows; a gradient where it is asked for, for the last time.
            weights_N: of the rows in the sum.
        """
        with torch.no_grad():
            lines_LN = of_rows(torch.ones_like(weights_N), False, self.seen)[1]
        costs_CN, features_FN = self.of(lines_LN)
        with torch.enable_grad():
            shares_CN = self.network(features_FN)
        used_CN = self.network.used(shares_CN)
        loss = self.shared(used_CN)
        total, lines_LN = of_rows(weights_N, True, loss)
        if self.network.kind == "gate":
            extra = self.network.own_loss(shares_CN, costs_CN[:-1], weights_N)
            total = total + (extra - extra.detach())
        elif self.slopes_CN is not None:
            extra = (shares_CN * self.slopes_CN).sum()
            total = total + (extra - extra.detach())
        return total, torch.cat([lines_LN, used_CN.to(lines_LN.dtype)]), self.names


def routed(
    network: LearnedShares,
    row_loss: Callable[[Tensor | None, Sequence[Share]], WeightedSum | ByAutograd],
    targets: Sequence[AnyTargets],
    gold_N: Tensor,
    gold_scale_N: Tensor | None,
) -> Routed:
    """Return the loss of rows with shares that a network gives.

    Args:
        network: of so many teachers as there are targets.
        row_loss: gives the loss from the factors of the cross-entropy and the shares of the teachers.
        targets: of each teacher, N rows.
        gold_N: int64; -1 for none.
        gold_scale_N: factor of the cross-entropy of each row; None for 1 throughout.
    """

    def shared(shares_CN: Tensor) -> WeightedSum | ByAutograd:
        scale_N = gold_scale_N
        if network.kind == "geometry":
            rest_N = 1 - shares_CN.sum(0)
            scale_N = rest_N if gold_scale_N is None else rest_N * gold_scale_N
        return row_loss(scale_N, list(shares_CN))

    alone = row_loss(gold_scale_N, [1.0] * len(targets))
    return Routed(
        network=network,
        seen=Seen(alone, targets, gold_N),
        places=line_places(alone.names),
        weights=[each.weight for each in (alone.pulls if isinstance(alone, WeightedSum) else alone.terms)],
        shared=shared,
    )


def line_places(names: Sequence[str]) -> list[int]:
    """Return of which teacher each line of a loss is, -1 for the gold token; by the names that teachers give their lines."""
    return [-1 if name == GOLD else int(name.rpartition("/")[2]) - 1 if "/" in name else 0 for name in names]
