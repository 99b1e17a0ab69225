"""Rows that the teacher's answers choose, among chunks of any size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from logitstore.dump.ask import asked
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import ModelError
from logitstore.format.needs import HIDDEN, LOGITS, Wants
from logitstore.targets.rows import RowChunk
from logitstore.text.lines.shown import collate
from logitstore.text.sample import Sample, key_of

VOCABULARY = 11


class Told(Teacher):
    """A teacher that says what it is told, a few rows at a time."""

    gives = frozenset({LOGITS, HIDDEN})
    device = torch.device("cpu")

    def __init__(self, logits_NV: Tensor, size: int) -> None:
        self._logits_NV, self._size = logits_NV, size
        self.asked = 0

    @property
    def name(self) -> str:
        return "told"

    def rows(self, batch: TeacherBatch, wants: Wants) -> Iterator[RowChunk]:
        self.asked += 1
        assert len(batch.rows_N) == len(self._logits_NV)
        for first in range(0, len(batch.rows_N), self._size):
            span = slice(first, min(first + self._size, len(batch.rows_N)))
            yield RowChunk(
                span=span,
                gold_n=batch.gold_N[span],
                logits_nV=self._logits_NV[span],
                hidden_nD=self._logits_NV[span, :3] if HIDDEN in wants else None,
            )

    def fingerprint(self) -> str:
        return ""


def batch_of(counts: list[int], kept: list[int]) -> TeacherBatch:
    samples = []
    for count, keep in zip(counts, kept, strict=True):
        tokens_T = np.arange(count + 3) % VOCABULARY
        mask_T = np.arange(count + 3) < count
        samples.append(
            Sample(key=key_of(tokens_T), tokens_T=tokens_T, mask_T=mask_T, gold_T=mask_T, document=0, undecided=keep)
        )
    return collate(samples, list(range(len(samples))))


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize("wants", [{LOGITS}, {LOGITS, HIDDEN}])
def test_the_rows_with_the_highest_entropy_of_each_sample_come_with_all_that_is_said_of_them(
    size: int, wants: set[str]
) -> None:
    counts, kept = [5, 1, 9], [2, 1, 3]
    logits_NV = 3 * torch.randn(15, VOCABULARY + 2)
    logits_NV[1, :4] = -math.inf  # a token that cannot come adds nothing, and is no NaN
    logits_NV[7, 1:VOCABULARY] = -math.inf
    logits_NV[3] = logits_NV[2]  # of equal ones the first
    logits_NV[11:13] = 0.25  # a uniform row, which is least certain, twice
    teacher = Told(logits_NV, size)
    batch = batch_of(counts, kept)
    known, chunks = asked(teacher, batch, Wants(frozenset(wants)), VOCABULARY)
    said = list(chunks)
    assert teacher.asked == 1
    probs_NV = torch.softmax(logits_NV[:, :VOCABULARY].double(), -1)
    entropy_N = torch.special.entr(probs_NV).sum(-1).half().tolist()
    expected, start = [], 0
    for count, keep in zip(counts, kept, strict=True):
        own = sorted(range(start, start + count), key=lambda row: (-entropy_N[row], row))[:keep]
        expected += sorted(own)
        start += count
    assert known.choice is None
    assert [sample.rows for sample in known.samples] == kept
    assert known.rows_N.tolist() == batch.rows_N[expected].tolist()
    assert known.gold_N.tolist() == batch.gold_N[expected].tolist()
    line = known.inputs["input_ids"].shape[1]
    places = np.concatenate([line * i + each.positions_N for i, each in enumerate(known.samples)])  # type: ignore[attr-defined]
    assert places.tolist() == known.rows_N.tolist()
    assert [chunk.span.start for chunk in said] == list(range(0, sum(kept), min(size, 15)))
    assert torch.equal(torch.cat([chunk.logits() for chunk in said]), logits_NV[expected])
    assert torch.cat([chunk.gold_n for chunk in said]).tolist() == known.gold_N.tolist()
    hidden: list[Any] = [chunk.hidden_nD for chunk in said]
    if HIDDEN in wants:
        assert torch.equal(torch.cat(hidden), logits_NV[expected, :3])
    else:
        assert hidden == [None] * len(said)


def test_logits_that_are_no_numbers_are_refused() -> None:
    logits_NV = torch.zeros(3, VOCABULARY)
    logits_NV[1, 2] = math.nan
    with pytest.raises(ModelError, match="no numbers"):
        asked(Told(logits_NV, 2), batch_of([3], [1]), frozenset({LOGITS}), VOCABULARY)
