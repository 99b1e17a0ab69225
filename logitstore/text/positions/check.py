"""The rules about the positions that have a row, where not all have one that the data ask about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from logitstore.format.positions import Share
from logitstore.text.positions.choose import chosen
from logitstore.text.sample import Sample

if TYPE_CHECKING:
    from logitstore.text.stored import SamplesFile


def choice_problems(samples: SamplesFile, share: Share) -> Iterator[str]:
    """Say which rules about the positions that have a row some samples break."""
    pairs = [(samples.mask_of(index), samples.gold_of(index)) for index in range(len(samples))]
    golds = [gold_T for _, gold_T in pairs if gold_T is not None]
    if any(gold_T[-1:].any() for gold_T in golds):
        yield "the data ask about the token after the last position of a sample, and there is none"
    if any((mask_T & ~gold_T).any() for (mask_T, _), gold_T in zip(pairs, golds, strict=True)):
        yield "a row stands at a position that the data do not ask about"
        return
    counts_S = share.counts(np.array([int(gold_T.sum()) for gold_T in golds]))
    if not np.array_equal(samples.row_count_S, counts_S):
        yield f"a sample has another count of rows than {share} gives"
    elif not share.asks_teacher:
        again = (chosen(each, share) for each in map(_before, map(samples.sample, range(len(samples)))))
        if any(not np.array_equal(each.mask_T, mask_T) for each, (mask_T, _) in zip(again, pairs, strict=True)):
            yield f"a row stands at another position than {share} gives"


def _before(sample: Sample) -> Sample:
    """Return a sample with a row at each position that the data ask about."""
    return sample if sample.gold_T is None else replace(sample, mask_T=sample.gold_T)
