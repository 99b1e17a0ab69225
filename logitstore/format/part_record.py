"""`part.json`: the commit record of a part, with its sums and its fidelity. docs/format.md describes every entry."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from logitstore.core.record import Record, RelativePath
from logitstore.core.types import Answer, Array, Asked
from logitstore.format.sealed import FileSeal

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


def fidelity_of(found: Fidelity) -> dict[str, Any] | None:
    """Means with 95% confidence intervals: name -> {"mean", "error"}; None where nothing was measured.

    `gradient_error` is relative: the share by which stored targets change the mean gradient of the reference student.
    """
    if not found.rows:
        return None
    figures: dict[str, Any] = {"against": found.against, "rows": found.rows, "unbounded": found.unbounded}
    for name, (total, squares) in found.sums.items():
        count = found.rows - found.unbounded if name.startswith("kl_") else found.rows
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
    """What is added up over the parts: per-row totals (nats where they are nats) and the entropy histogram.

    `gold_logprob` leaves out the rows whose gold token the teacher gives no chance at all; `gold_impossible` counts those, and
    `no_gold` the rows without a gold token or label.
    """

    tail_mass: float = 0.0
    entropy: float = 0.0
    gold_logprob: float = 0.0
    gold_impossible: int = 0
    gold_is_top1: int = 0
    gold_is_listed: int = 0
    no_gold: int = 0
    entropy_histogram: list[int] = Field(default_factory=list)


FIDELITY_NAMES = ("kl_t1", "kl_t2", "kl_t4", "top1", "rare_true", "rare_stored", "gradient_error", "gradient")
"""What is measured of every row that is compared."""


class Fidelity(Record):
    """How far what is stored is from what the teacher said, added up over a random sample of rows.

    Every figure has its sum and its sum of squares over `rows`, so that parts can be added and errors estimated.

    Attributes:
        against: the teacher's own distribution, or that of the caches this one was made from.
        rows: rows compared.
        unbounded: rows whose KL is infinite, because a token that can come has no mass; not in the sums of `kl_*`.
        sums: name -> (sum, sum of squares): `kl_t1`, `kl_t2`, `kl_t4` in nats; `top1`, 1 where the most probable token is
            the same; `rare_true`, `rare_stored`, the mass of all tokens that the teacher gives less than 1e-5;
            `gradient_error`, `gradient`: see docs/format.md.
    """

    against: Literal["teacher", "source"] = "teacher"
    rows: int = Field(0, ge=0)
    unbounded: int = Field(0, ge=0)
    sums: dict[str, tuple[float, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.sums.keys() != (set(FIDELITY_NAMES) if self.rows else set()) or self.unbounded > self.rows:
            raise ValueError("the fidelity is not that of a part")
        return self


class PartRecord(Record):
    """The commit record of a part: counts, sums, and the seal of every file in it."""

    format: Literal["logitstore"] = "logitstore"
    version: Literal[1] = 1
    plan: str
    part: int = Field(ge=0)
    samples: int = Field(ge=1)
    rows: int = Field(ge=0)
    tokens: int = Field(ge=0)
    sums: Sums
    fidelity: Fidelity
    files: dict[RelativePath, FileSeal]
