"""What is counted while a part is written, kept in its commit record and added up by readers."""

from __future__ import annotations

import numpy as np

from logitstore.manifest import Fidelity, Sums
from logitstore.types import Answer, Array, Asked

HISTOGRAM_BINS = 32

FACTS = ("gold_logprob", "entropy", "tail_logmass", "top1", "gold_listed")
"""What is counted about every row, as the teacher said it, whether or not it is stored."""


def entropy_edges(vocabulary: int) -> Array:
    """float64[33]: bin edges in nats, from 0 to log(vocabulary)."""
    return np.linspace(0.0, np.log(max(vocabulary, 2)), HISTOGRAM_BINS + 1)


def with_sample(sums: Sums, sample: Asked, facts: Answer, vocabulary: int) -> Sums:
    """The sums after one more sample.

    Args:
        facts: FACTS of its rows, without `tail_logmass` where nothing is known of a tail.
    """
    entropy_N = facts["entropy"].astype(np.float64)
    gold_logprob_N = facts["gold_logprob"].astype(np.float64)
    tail_logmass_N = facts.fields.get("tail_logmass", np.full(len(entropy_N), -np.inf))
    histogram = np.histogram(np.clip(entropy_N, 0, np.log(max(vocabulary, 2))), entropy_edges(vocabulary))[0]
    return Sums(
        tail_mass=sums.tail_mass + float(np.exp(tail_logmass_N.astype(np.float64)).sum()),
        entropy=sums.entropy + float(entropy_N.sum()),
        gold_logprob=sums.gold_logprob + float(gold_logprob_N[np.isfinite(gold_logprob_N)].sum()),
        gold_impossible=sums.gold_impossible + int(np.isinf(gold_logprob_N).sum()),
        gold_is_top1=sums.gold_is_top1 + int((facts["top1"] == sample.gold_N).sum()),
        gold_is_listed=sums.gold_is_listed + int(facts["gold_listed"].sum()),
        no_gold=sums.no_gold + int((sample.gold_N < 0).sum()),
        entropy_histogram=[a + int(b) for a, b in zip(sums.entropy_histogram, histogram, strict=True)],
    )


def add_sums(parts: list[Sums]) -> Sums:
    """The totals of several parts."""
    if not parts:
        return Sums()
    total = {
        name: sum(getattr(part, name) for part in parts) for name in Sums.model_fields if name != "entropy_histogram"
    }
    histogram = np.sum([part.entropy_histogram for part in parts], axis=0)
    return Sums(**total, entropy_histogram=[int(count) for count in histogram])


def add_fidelity(parts: list[Fidelity]) -> Fidelity:
    """What several parts measured together; of one kind, because a cache comes from a teacher or from a source."""
    measured = [part for part in parts if part.rows]
    if not measured:
        return Fidelity()
    sums = {
        name: (sum(part.sums[name][0] for part in measured), sum(part.sums[name][1] for part in measured))
        for name in measured[0].sums
    }
    return Fidelity(
        against=measured[0].against,
        rows=sum(part.rows for part in measured),
        unbounded=sum(part.unbounded for part in measured),
        sums=sums,
    )
