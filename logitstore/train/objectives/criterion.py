"""What a run minimises: the pulls on logits and on features, how hard each is at which moment, and what they learn themselves.

    alpha * objective + (1 - alpha) * cross-entropy on the gold tokens + further terms, each with a weight of its own

Axes: N rows (n of a chunk), V the student's vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from logitstore.core.methods import method_of
from logitstore.core.objectives.method import Method
from logitstore.core.registry import resolve
from logitstore.core.schedule import RowRule, Schedule, scheduled
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.features.feature import Sides
from logitstore.train.objectives.kernels.by_autograd import ByAutograd, Term
from logitstore.train.objectives.kernels.target import gold_target, teacher_target
from logitstore.train.objectives.kernels.weighted_sum import Pull, WeightedSum
from logitstore.train.objectives.learned import LearnedShares
from logitstore.train.objectives.logits.cross_entropy import cross_entropy
from logitstore.train.objectives.row_values import RowValues
from logitstore.train.objectives.sequences.term import SequenceTerm
from logitstore.train.objectives.shares import GOLD, OneTeacher, Share, Shares, shared_pull, shared_term

NAMED_IN_LOG = {"forward_kl": "kl"}


@dataclass(frozen=True, kw_only=True)
class RowTerm:
    """One pull on the logits.

    Attributes:
        name: of the objective, or GOLD.
        label: in the log.
        weight: as it changes over the run.
        temperature: as it changes over the run, or of each row.
        is_rest: whether it weighs what `weight` leaves to 1.
        options: of the objective.
    """

    name: str
    label: str
    weight: Schedule
    temperature: Schedule | RowRule = field(default_factory=lambda: Schedule.of(1.0))
    is_rest: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def weight_at(self, done: float) -> float:
        weight = self.weight.at(done)
        return 1 - weight if self.is_rest else weight

    @property
    def is_idle(self) -> bool:
        """Whether it never weighs anything."""
        return self.weight.span == ((1.0, 1.0) if self.is_rest else (0.0, 0.0))

    @property
    def method(self) -> Method | None:
        return None if self.name == GOLD else method_of(self.name)


@dataclass(frozen=True, kw_only=True)
class FeatureTerm:
    """One pull on features.

    Attributes:
        label: in the log.
        weight: as it changes over the run.
        module: gives the loss of each row.
        is_balanced: whether its weight is of a loss as heavy as all pulls on logits together (Minitron's dynamic weight).
        teacher: the number of the teacher whose features it compares, from 1.
    """

    label: str
    weight: Schedule
    module: nn.Module
    is_balanced: bool = False
    teacher: int = 1


class Criterion(nn.Module):
    """The loss of a run. Its parameters and buffers are what objectives learn or keep: projections, critics, TAID's time.

    Attributes:
        shares: what each of several teachers counts; None where there is one.
        is_ranking: whether `rows` are about the scores of the documents of a query, and the loss a mean over queries.
        routing: learns what each of several teachers counts; None where nothing does.
        row_values: the temperatures of rows that have one of their own; None where none has.
    """

    def __init__(
        self,
        rows: Sequence[RowTerm],
        features: Sequence[FeatureTerm] = (),
        *,
        sequence: SequenceTerm | None = None,
    ) -> None:
        """
        Args:
            rows: pulls on logits; those that never weigh anything are left out.
            features: pulls on features.
            sequence: what is minimised of whole samples in place of a sum over rows, of which `rows` is the cross-entropy.

        Raises:
            ValueError: two have the same label, by which the log and what they learn or keep are known.
        """
        super().__init__()
        self.shares: Shares | None = None
        self.is_ranking = False
        self.routing: LearnedShares | None = None
        self.row_values: RowValues | None = None
        labels = [*(term.label for term in rows), *(term.label for term in features)]
        if len(set(labels)) < len(labels):
            raise ValueError(f"labels must differ: {', '.join(labels)}")
        self.rows = [term for term in rows if not term.is_idle]
        self.features = list(features)
        self.sequence = sequence
        self.states = nn.ModuleDict()
        for term in self.rows:
            if term.method is not None and term.method.state is not None:
                self.states[term.label] = _made(term.method.state, term.options)
        self.learned = nn.ModuleDict({term.label: term.module for term in features})

    @property
    def needs_targets(self) -> bool:
        """Whether it looks at what the teacher said of the next token."""
        return any(term.name != GOLD for term in self.rows)

    def row_loss(
        self,
        targets: AnyTargets | None,
        gold_N: Tensor,
        done: float,
        gold_scale_N: Tensor | None = None,
        *,
        also: Sequence[AnyTargets] = (),
        shares: Sequence[Share] = (1.0,),
        by_row: Mapping[RowRule, Tensor] | None = None,
    ) -> WeightedSum | ByAutograd:
        """The pulls on logits as one loss with its gradient.

        Args:
            targets: N rows; may be None where they are not needed.
            gold_N: int64, the tokens that follow.
            done: the share of the run that is over.
            gold_scale_N: factor of the cross-entropy of each row, 0 for rows without a token or label; None for 1 throughout.
            also: targets of further teachers for the same rows.
            shares: what each teacher counts in every pull towards a teacher, the first one first.
            by_row: the temperatures of the rows, by their rules.

        Raises:
            ValueError: no targets, and they are needed.
        """
        if targets is None and self.needs_targets:
            raise ValueError("there is no pull towards a teacher without targets")
        pairs = [
            (term, OneTeacher(known, share, place))
            for term in self.rows
            for place, (known, share) in enumerate(zip((targets, *also), shares, strict=True))
            if not place or term.name != GOLD
        ]
        if all(term.name in (GOLD, "forward_kl") for term in self.rows):
            return WeightedSum(
                [shared_pull(_pull(term, who.targets, gold_N, done, gold_scale_N, by_row), who) for term, who in pairs]
            )
        return ByAutograd(
            [shared_term(self._term(term, who.targets, gold_N, done, gold_scale_N), who) for term, who in pairs]
        )

    def gold_loss(self, gold_G: Tensor, done: float, scale_G: Tensor | None = None) -> WeightedSum | None:
        """The cross-entropy of positions that the teacher did not answer; None where it never weighs anything.

        Args:
            gold_G: int64, the tokens that follow.
            done: the share of the run that is over.
            scale_G: factor of each; None for 1 throughout.
        """
        pulls = [_pull(term, None, gold_G, done, scale_G) for term in self.rows if term.name == GOLD]
        return WeightedSum(pulls) if pulls else None

    def _term(
        self, term: RowTerm, targets: AnyTargets | None, gold_N: Tensor, done: float, gold_scale_N: Tensor | None
    ) -> Term:
        weight, method, known = term.weight_at(done), term.method, targets
        if method is None or known is None:
            return Term(term.label, weight, lambda logits_nV, some: _gold_loss(logits_nV, some, gold_N, gold_scale_N))
        state: Any = dict(self.states.items()).get(term.label)
        led = state.options() if state is not None else {}
        own = {name: value for name, value in term.options.items() if name not in _keywords(method.state)}
        options = own | led | ({"temperature": _number(term, done)} if method.has_temperature else {})
        function = method.function

        def loss(logits_nV: Tensor, some: slice) -> Tensor:
            golds = (gold_N[some],) if method.needs_gold else ()
            found: Tensor = function(logits_nV, known[some], *golds, **options)
            return found

        return Term(term.label, weight, loss, method.rows_together)

    def feature_losses(
        self, sides: Sequence[Sides], main: Tensor, weights_N: Tensor, done: float
    ) -> list[tuple[str, Tensor, Tensor]]:
        """Of each pull on features: its label, its weight, and its loss per row, with a gradient.

        Args:
            sides: what the student and each of the teachers say.
            main: the weighted sum of the pulls on logits.
            weights_N: of the rows in the sum.
            done: the share of the run that is over.
        """
        found = []
        for term in self.features:
            loss_N = term.module(sides[term.teacher - 1])
            weight = loss_N.new_tensor(term.weight.at(done))
            if term.is_balanced:
                weight = weight * balanced_weight(main, (loss_N.detach() * weights_N).sum())
            found.append((term.label, weight, loss_N))
        return found

    def settle(self, mean_of: Callable[[str], Tensor | None], done: float) -> None:
        """After an optimizer step: let those that change by their own loss see it, as a mean over the step's rows."""
        states: dict[str, Any] = dict(self.states.items())
        for label, state in states.items():
            if (loss := mean_of(label)) is not None:
                state.update(loss, done)

    @classmethod
    def mixed(
        cls,
        name: str = "forward_kl",
        *,
        alpha: float | str = 1.0,
        temperature: float | str = 1.0,
        options: dict[str, Any] | None = None,
        rows: Sequence[RowTerm] = (),
        features: Sequence[FeatureTerm] = (),
        beside_gold: bool = False,
    ) -> Criterion:
        """alpha * objective + (1 - alpha) * cross-entropy, and further terms; with the objective "none" those alone.

        With `beside_gold` both weigh 1, for shares that each row has of its own.
        """
        weight = Schedule.of(alpha)
        label = NAMED_IN_LOG.get(name, name)
        both = [
            RowTerm(name=name, label=label, weight=weight, temperature=scheduled(temperature), options=options or {}),
            RowTerm(name=GOLD, label=GOLD, weight=weight, is_rest=not beside_gold),
        ]
        return cls([*(both if name != "none" else ()), *rows], features)


def _number(term: RowTerm, done: float) -> float:
    if isinstance(term.temperature, RowRule):
        raise ValueError(f"{term.name} has one temperature for all rows")
    return term.temperature.at(done)


def _gold_loss(logits_nV: Tensor, some: slice, gold_N: Tensor, scale_N: Tensor | None) -> Tensor:
    """Return the cross-entropy of some rows, scaled; 0 where the scale is 0."""
    if scale_N is None:
        return cross_entropy(logits_nV, gold_N[some])
    loss_n = cross_entropy(logits_nV, gold_N[some].clamp(min=0))
    return torch.where(scale_N[some] != 0, scale_N[some] * loss_n, 0.0)


def _pull(
    term: RowTerm,
    targets: AnyTargets | None,
    gold_N: Tensor,
    done: float,
    gold_scale_N: Tensor | None,
    by_row: Mapping[RowRule, Tensor] | None = None,
) -> Pull:
    weight, rule = term.weight_at(done), term.temperature
    temperature = (by_row or {})[rule] if isinstance(rule, RowRule) else rule.at(done)
    if targets is None or term.name == GOLD:
        return Pull(term.label, weight, 1.0, gold_target(gold_N, torch.float32, gold_scale_N))
    return Pull(term.label, weight, temperature, teacher_target(targets, temperature, torch.float32))


def _keywords(state: str | None) -> list[str]:
    """The settings of a state."""
    return [] if state is None else list(resolve(state).__init__.__kwdefaults__ or ())


def _made(state: str, options: dict[str, Any]) -> nn.Module:
    made: nn.Module = resolve(state)(**{name: options[name] for name in _keywords(state) if name in options})
    return made


def balanced_weight(main: Tensor, other: Tensor) -> Tensor:
    """alpha = main / other, so that main + alpha * other has two equal halves (Minitron, Muralidharan et al. 2024, section 3).

    Args:
        main, other: losses of a batch, any shape, both the same.

    Returns:
        without a gradient and never below 0, so that nothing is ever pushed away; 0 where the quotient is not finite, as where
        `other` is 0.
    """
    ratio = main.detach() / other.detach()
    return torch.where(ratio.isfinite(), ratio, 0.0).clamp(min=0)
