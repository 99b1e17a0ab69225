"""The objectives by name: what `train --objective` knows, what each needs, and where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from logitstore.errors import BadInput
from logitstore.fields import RowInfo
from logitstore.objectives.by_autograd import ByAutograd, Term
from logitstore.objectives.cross_entropy import cross_entropy
from logitstore.objectives.distillation import WeightedSum, distillation_loss
from logitstore.registry import resolve, suggest
from logitstore.targets import AnyTargets

CLOSED_FORM = "forward_kl"
"""The one whose gradient is written down."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One way to pull a student towards a teacher.

    Attributes:
        target: where its function is, as `package.module:attribute`; called with student logits [N, V], targets and, where
            `has_temperature`, a temperature; gives a loss [N].
        needs_distribution: whether it needs the teacher's whole distribution, so that random samples do not serve it.
        needs_tail: whether it is infinite where the teacher's tail has no mass.
        has_temperature: whether it exists at other temperatures than 1.
    """

    target: str
    needs_distribution: bool = True
    needs_tail: bool = False
    has_temperature: bool = True

    @property
    def function(self) -> Callable[..., Tensor]:
        """Imported when asked for."""
        found: Callable[..., Tensor] = resolve(self.target)
        return found


_HERE = "logitstore.objectives"

OBJECTIVES = {
    "forward_kl": Objective(target=f"{_HERE}.forward_kl:forward_kl", needs_distribution=False),
    "reverse_kl": Objective(target=f"{_HERE}.divergences:reverse_kl", needs_tail=True),
    "symmetric_kl": Objective(target=f"{_HERE}.symmetric_kl:symmetric_kl", needs_tail=True),
    "jensen_shannon": Objective(target=f"{_HERE}.divergences:jensen_shannon"),
    "total_variation": Objective(target=f"{_HERE}.total_variation:total_variation"),
    "skew_forward_kl": Objective(target=f"{_HERE}.skew_kl:skew_forward_kl"),
    "skew_reverse_kl": Objective(target=f"{_HERE}.skew_kl:skew_reverse_kl"),
    "adaptive_kl": Objective(target=f"{_HERE}.adaptive_kl:adaptive_kl", needs_tail=True),
    "lumped_kl": Objective(target=f"{_HERE}.lumped_kl:lumped_kl", has_temperature=False),
    "renormalised_kl": Objective(target=f"{_HERE}.renormalised_kl:renormalised_kl"),
}


def check_objective(name: str, row: RowInfo, temperature: float) -> None:
    """Refuse an objective that the rows of a cache do not serve.

    Raises:
        BadInput: an unknown name, or a cache, or a temperature, for which it does not exist.
    """
    if name not in OBJECTIVES:
        raise BadInput(f"no objective named '{name}'. {suggest(name, list(OBJECTIVES))}")
    objective = OBJECTIVES[name]
    if objective.needs_distribution and row.sparsifier.is_estimate:
        raise BadInput(
            f"--objective {name}: it needs the teacher's whole distribution, and this cache holds random samples. "
            "Use forward_kl, or dump with another preset."
        )
    if objective.needs_tail and row.tail.shape == "none" and row.sparsifier.name in ("topk", "topp"):
        raise BadInput(
            f"--objective {name}: this cache has no tail, so it is infinite wherever the student gives mass to a token that "
            "is not listed. Dump with a tail, or use jensen_shannon or skew_reverse_kl."
        )
    if temperature != 1 and not objective.has_temperature:
        raise BadInput(f"--objective {name}: it exists at temperature 1 only. Leave out --temperature {temperature:g}.")
    if row.sparsifier.k == 0 and name in ("lumped_kl", "renormalised_kl"):
        raise BadInput(f"--objective {name}: this cache lists no tokens. Use forward_kl.")


def loss_of(
    name: str, targets: AnyTargets | None, gold_N: Tensor, *, alpha: float, temperature: float
) -> WeightedSum | ByAutograd:
    """alpha * objective + (1 - alpha) * cross-entropy on the gold tokens, with its gradient.

    Args:
        name: of the objective.
        targets: N rows; may be None where alpha is 0.
        gold_N: int64, the tokens that follow.
        alpha: weight of the objective, from 0 to 1.
        temperature: of the objective.

    Raises:
        ValueError: no targets, and alpha above 0.
    """
    if name == CLOSED_FORM or alpha == 0:
        return distillation_loss(targets, gold_N, alpha=alpha, temperature=temperature)
    if targets is None:
        raise ValueError(f"alpha={alpha}: there is no {name} without targets")
    objective, known = OBJECTIVES[name], targets
    options = {"temperature": temperature} if objective.has_temperature else {}
    function = objective.function
    terms = [Term(name, alpha, lambda logits_nV, some: function(logits_nV, known[some], **options))]
    if alpha < 1:
        terms.append(Term("cross_entropy", 1 - alpha, lambda logits_nV, some: cross_entropy(logits_nV, gold_N[some])))
    return ByAutograd(terms)
