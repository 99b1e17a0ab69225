"""Detect that a student begins to learn its teacher's faults: it gets worse on the text while it still nears the teacher.

On a fixed set of texts a student can come nearer to the teacher's answers and farther from the language at the same time
(Tiapkin et al. 2025, On Teacher Hacking in Language Model Distillation). Both are measured on held-out samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

RISES = 2
"""Number of evaluations in a row that must be worse than the best one; a single one may be chance."""

_CALLED = {"eval_cross_entropy": "cross-entropy on held-out gold tokens", "eval_kl": "KL to the teacher"}
_ADVICE = {
    "eval_cross_entropy": "the student learns the teacher's faults. Stop there, lower --alpha, or use more text",
    "eval_kl": "the student leaves the teacher for the text. Raise --alpha if that is not wanted",
}


def parting(history: Sequence[dict[str, Any]], student: str = "") -> tuple[str, str] | None:
    """Return which of the two figures turned while the other still falls, and a sentence about it; None while they move
    together.

    Args:
        history: the log of a run; its entries with `eval_kl` and `eval_cross_entropy` count, in their order.
        student: name of the student, where there are several.
    """
    prefix = f"{student}/" if student else ""
    judged = [entry for entry in history if all(prefix + name in entry for name in _CALLED)]
    for turned, falling in (("eval_cross_entropy", "eval_kl"), ("eval_kl", "eval_cross_entropy")):
        values = [entry[prefix + turned] for entry in judged]
        others = [entry[prefix + falling] for entry in judged]
        if len(judged) <= RISES:
            continue
        best = min(range(len(values)), key=values.__getitem__)
        since = values[best:]
        turns = len(since) > RISES and since[-1] > since[-2] > since[-3]
        if turns and others[-1] < min(others[:-1]):
            return turned, (
                f"{f'{student}: ' if student else ''}since step {judged[best]['step']} {_CALLED[turned]} rises "
                f"({values[best]:.3f} to {values[-1]:.3f}) while {_CALLED[falling]} still falls "
                f"({others[best]:.3f} to {others[-1]:.3f}): {_ADVICE[turned]}."
            )
    return None
