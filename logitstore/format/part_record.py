"""`part.json`: the commit record of a part, with its sums and its fidelity. docs/format.md describes every entry."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from logitstore.core.record import Count, Positive, Record, RelativePath
from logitstore.core.types import Answer, Array, Asked
from logitstore.format.sealed import FileSeal

HISTOGRAM_BINS = 32


SOURCE = "source"
"""The name under which a writer is told which of several caches each row was taken from."""


FACTS = ("gold_logprob", "entropy", "tail_logmass", "top1", "gold_listed")
"""Names of the teacher's values that are counted for every row, even if they are not stored."""


def entropy_edges(vocabulary: int) -> Array:
    """Return the bin edges of the entropy histogram, float64[33], in nats, from 0 to log(vocabulary)."""
    return np.linspace(0.0, np.log(max(vocabulary, 2)), HISTOGRAM_BINS + 1)


def with_sample(sums: Sums, sample: Asked, facts: Answer, vocabulary: int) -> Sums:
    """Return the sums with one more sample added.

    Args:
        sums: the sums so far.
        sample: the sample to add.
        facts: FACTS of the rows of the sample; `tail_logmass` may be missing.
        vocabulary: count of token ids; it sets the edges of the histogram.
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
        no_gold=sums.no_gold + int(((sample.gold_N < 0) | np.isnan(gold_logprob_N)).sum()),
        entropy_histogram=[a + int(b) for a, b in zip(sums.entropy_histogram, histogram, strict=True)],
    )


def fidelity_of(fidelity: Fidelity) -> dict[str, Any] | None:
    """Return means with 95% confidence intervals, name -> {"mean", "error"}; None if nothing was measured.

    `gradient_error` is relative: the share by which the stored targets change the mean gradient of the reference student.
    """
    if not fidelity.rows:
        return None
    figures: dict[str, Any] = {"against": fidelity.against, "rows": fidelity.rows, "unbounded": fidelity.unbounded}
    for name, (total, squares) in fidelity.sums.items():
        count = fidelity.rows - fidelity.unbounded if name.startswith("kl_") else fidelity.rows
        if not count:
            figures[name] = None
            continue
        mean = total / count
        variance = max(squares / count - mean**2, 0.0) * count / max(count - 1, 1)
        figures[name] = {"mean": mean, "error": 1.96 * math.sqrt(variance / count)}
    along = figures.pop("gradient")["mean"]
    for part in ("mean", "error"):
        figures["gradient_error"][part] = abs(figures["gradient_error"][part]) / along if along else 0.0
    return figures


RECORD_NAME = "part.json"


class Sums(Record):
    """The sums over the rows of parts: totals (logprobs and entropy in nats) and the entropy histogram.

    `gold_logprob` leaves out rows whose gold token has probability 0; `gold_impossible` counts these rows. `no_gold` counts the
    rows without a gold token or label, or without its logprob.
    """

    tail_mass: float = 0.0
    entropy: float = 0.0
    gold_logprob: float = 0.0
    gold_impossible: Count = 0
    gold_is_top1: Count = 0
    gold_is_listed: Count = 0
    no_gold: Count = 0
    entropy_histogram: list[Count] = Field(default_factory=list)


FIDELITY_NAMES = ("kl_t1", "kl_t2", "kl_t4", "top1", "rare_true", "rare_stored", "gradient_error", "gradient")
"""Names of the figures that are measured on every compared row."""


class Fidelity(Record):
    """The difference between the stored rows and the teacher's answers, added up over a random sample of rows.

    Every figure has its sum and its sum of squares over `rows`, so that parts can be added up and errors can be estimated.

    Attributes:
        against: the compared distribution: of the teacher, or of the caches that this one was made from ("source").
        rows: count of compared rows.
        unbounded: count of rows with infinite KL (a possible token has no mass); the sums of `kl_*` leave them out.
        sums: name -> (sum, sum of squares): `kl_t1`, `kl_t2`, `kl_t4` in nats; `top1`, 1 if the most probable token is
            the same; `rare_true`, `rare_stored`, the mass of all tokens with a teacher's probability below 1e-5;
            `gradient_error`, `gradient`: see docs/format.md.
    """

    against: Literal["teacher", "source"] = "teacher"
    rows: Count = 0
    unbounded: Count = 0
    sums: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.sums.keys() != (set(FIDELITY_NAMES) if self.rows else set()) or self.unbounded > self.rows:
            raise ValueError("the fidelity is not that of a part")
        return self


class PartRecord(Record):
    """The commit record of a part: counts, sums, and the seal of every file in it.

    `chosen` counts the rows that were taken from each of the merged caches; None where rows are not chosen among caches.
    """

    format: Literal["logitstore"] = "logitstore"
    version: Literal[1] = 1
    plan: str
    part: Count
    samples: Positive
    rows: Count
    tokens: Count
    sums: Sums
    fidelity: Fidelity
    chosen: list[Count] | None = Field(None, min_length=2)
    files: dict[RelativePath, FileSeal]

    @model_serializer(mode="wrap")
    def _plain(self, plain_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `chosen` out if it is None, so that parts keep the bytes of older versions."""
        plain: dict[str, Any] = plain_of(self)
        if self.chosen is None:
            plain.pop("chosen", None)
        return plain

    @model_validator(mode="after")
    def _possible(self) -> Self:
        """Refuse sums and counts that no rows have. Sums of float32 values may miss their bounds by a rounding error."""
        sums, slack = self.sums, 1e-3 * self.rows
        if not (
            -slack <= sums.tail_mass <= self.rows + slack and sums.entropy >= -slack and sums.gold_logprob <= slack
        ):
            raise ValueError("its sums are not those of its rows")
        counts = (sums.gold_impossible, sums.gold_is_top1, sums.gold_is_listed, sums.no_gold, self.fidelity.rows)
        if max(counts) > self.rows or sum(sums.entropy_histogram) > self.rows:
            raise ValueError("it counts more rows than it has")
        if self.chosen is not None and sum(self.chosen) != self.rows:
            raise ValueError("the rows taken from each cache are not as many as it has")
        return self
