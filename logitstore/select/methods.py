"""List the methods of selection by name, and what each of them needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from logitstore.select.answers import coreset, per_class
from logitstore.select.choice import Amount, Candidates, Choice
from logitstore.select.drawn import drawn, pruned, stratified
from logitstore.select.ranked import bottom, sure, top
from logitstore.select.robust import robust


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method is one way to choose samples.

    Attributes:
        choose: a pure function of the candidates and the amount.
        score: the score that the method uses: the difference of two caches (difference), one that the user names (named),
            one that the user may name for bounds or ranking (optional), or always the same (confidence).
        needs_amount: whether the method must get an amount to choose; else it can decide itself.
        has_seed: whether it draws.
        reads: what it reads of the teacher's answers besides the score: of each sample the most probable class, or all.
        counts_wrong: whether it needs to know how many answers may be wrong, and a score that says how sure a student is.
    """

    choose: Callable[[Candidates, Amount], Choice]
    score: Literal["difference", "named", "optional", "confidence"]
    needs_amount: bool = True
    has_seed: bool = False
    reads: Literal["class", "answers"] | None = None
    counts_wrong: bool = False


METHODS: dict[str, Method] = {
    "difference": Method(choose=top, score="difference"),
    "top": Method(choose=top, score="named"),
    "bottom": Method(choose=bottom, score="named"),
    "random": Method(choose=drawn, score="optional", has_seed=True),
    "stratified": Method(choose=stratified, score="optional", has_seed=True),
    "llkd": Method(choose=sure, score="confidence", needs_amount=False),
    "per-class": Method(choose=per_class, score="named", reads="class"),
    "coreset": Method(choose=coreset, score="optional", has_seed=True, reads="answers"),
    "robust": Method(choose=robust, score="named", has_seed=True, counts_wrong=True),
    "prune": Method(choose=pruned, score="optional", has_seed=True),
}
"""The methods that `select --method` takes."""
