"""What is counted while a part is written, kept in its commit record and added up by readers."""

from __future__ import annotations

import numpy as np

from logitstore.manifest import Sums
from logitstore.types import Answer, Array, Sample

HISTOGRAM_BINS = 32


def entropy_edges(vocabulary: int) -> Array:
    """float64[33]: bin edges in nats, from 0 to log(vocabulary)."""
    return np.linspace(0.0, np.log(max(vocabulary, 2)), HISTOGRAM_BINS + 1)


def with_sample(sums: Sums, sample: Sample, answer: Answer, vocabulary: int) -> Sums:
    """The sums after one more sample."""
    entropy_N = answer["entropy"].astype(np.float64)
    gold_logprob_N = answer["gold_logprob"].astype(np.float64)
    ids_NK, gold_N = answer["ids"], sample.gold_N
    histogram = np.histogram(np.clip(entropy_N, 0, np.log(max(vocabulary, 2))), entropy_edges(vocabulary))[0]
    return Sums(
        tail_mass=sums.tail_mass + float(np.exp(answer["tail_logmass"].astype(np.float64)).sum()),
        entropy=sums.entropy + float(entropy_N.sum()),
        gold_logprob=sums.gold_logprob + float(gold_logprob_N[np.isfinite(gold_logprob_N)].sum()),
        gold_impossible=sums.gold_impossible + int(np.isinf(gold_logprob_N).sum()),
        gold_is_top1=sums.gold_is_top1 + int((ids_NK[:, 0] == gold_N).sum()),
        gold_is_listed=sums.gold_is_listed + int((ids_NK == gold_N[:, None]).any(1).sum()),
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
