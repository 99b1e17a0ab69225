"""How the teacher's answers decide which positions of the texts of a batch have a row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from logitstore.core.types import Array, Asked
from logitstore.dump.teachers.teacher import RowChoice, TeacherBatch
from logitstore.text.positions.choose import highest, keeping
from logitstore.text.sample import Sample


def deciding(batch: TeacherBatch, asked: list[Sample]) -> TeacherBatch:
    """Return a batch of these texts with how the teacher's answers choose their rows, where they do."""
    return batch if asked[0].undecided is None else replace(batch, choice=choice_of(batch, asked))


def choice_of(batch: TeacherBatch, asked: list[Sample]) -> RowChoice:
    """Return how the teacher's entropies decide which positions of the texts of a batch have a row."""
    candidates = [len(sample.positions_N) for sample in asked]
    starts = np.cumsum([0, *candidates])

    def kept(entropy_N: Array) -> Array:
        pieces = np.split(entropy_N, starts[1:-1])
        return np.concatenate(
            [
                start + highest(piece, sample.rows)
                for start, piece, sample in zip(starts[:-1], pieces, asked, strict=True)
            ]
        )

    def narrowed(kept_M: Array) -> TeacherBatch:
        pieces = np.split(kept_M, np.searchsorted(kept_M, starts[1:-1]))
        samples: list[Asked] = [
            keeping(sample, piece - start) for start, piece, sample in zip(starts[:-1], pieces, asked, strict=True)
        ]
        places_M = torch.from_numpy(kept_M)
        return replace(
            batch, samples=samples, rows_N=batch.rows_N[places_M], gold_N=batch.gold_N[places_M], choice=None
        )

    return RowChoice(candidates=candidates, kept=kept, narrowed=narrowed)
