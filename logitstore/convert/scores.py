"""Rows of one number each, as the weighted mean of several teachers' numbers about the same samples.

Axes: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from logitstore.convert.row_source import same_rows
from logitstore.convert.rows import Recoder, ReportRows
from logitstore.core.types import Answer, Asked
from logitstore.format.part_record import Fidelity
from logitstore.store.cache import Cache
from logitstore.store.part import Part
from logitstore.store.writer import PartWriter


@dataclass(kw_only=True)
class MeanScores(Recoder):
    """Takes the mean of scores, as Hofstaetter et al. 2020 do with their teachers (section 3.3): sum_i weights_i t_i.

    Attributes:
        caches: of the same samples; the first one's parts are gone through.
        weights: what each counts; they sum to 1.
    """

    caches: Sequence[Cache]
    weights: Sequence[float]

    def write(self, part: Part, samples: Sequence[Asked], writer: PartWriter, report_rows: ReportRows) -> None:
        start = self.caches[0].first_sample(part.number)
        for index, sample in enumerate(samples):
            of_caches = [same_rows(cache, [start + index], [sample])["score"] for cache in self.caches]
            mean_N = np.zeros(sample.rows)
            for weight, score_N in zip(self.weights, of_caches, strict=True):
                mean_N += weight * score_N.astype(np.float64)
            facts = {
                "gold_logprob": np.full(sample.rows, np.nan),
                "entropy": np.zeros(sample.rows),
                "top1": np.full(sample.rows, -2),
                "gold_listed": np.zeros(sample.rows, np.bool_),
            }
            writer.write(index, Answer(fields={"score": mean_N.astype(np.float32)}), Answer(fields=facts))
            report_rows(sample.rows)
        writer.commit(Fidelity(against="source", rows=0, unbounded=0, sums={}))
