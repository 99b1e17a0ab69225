"""Several texts to a line, as a teacher is shown them.

Axes: B lines, T places of a line, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from logitstore.dump.teachers.teacher import TeacherBatch
from logitstore.text.lines.pack import packed_batches, positions
from logitstore.text.positions.batch import deciding
from logitstore.text.sample import Sample


def lines_of_texts(samples: list[Sample], budget: int) -> Iterator[TeacherBatch]:
    """Yield batches of lines that hold several texts each, with at most `budget` tokens; see `packed_batches`."""
    for lines in packed_batches(np.array([sample.length for sample in samples]), budget):
        yield _laid(samples, lines)


def _laid(samples: list[Sample], lines: list[list[int]]) -> TeacherBatch:
    """Return one batch of the texts whose numbers stand in its lines."""
    indices = [index for line in lines for index in line]
    lengths = np.array([samples[index].length for index in indices], np.int64)
    shape = len(lines), max(sum(samples[index].length for index in line) for line in lines)
    firsts = np.cumsum([0, *(len(line) for line in lines)])
    before = np.cumsum(lengths) - lengths
    # where each line begins, less the tokens of the lines before it
    skipped = np.arange(len(lines)) * shape[1] - before[firsts[:-1]]
    starts = before + np.repeat(skipped, np.diff(firsts))
    tokens_R = np.zeros(shape[0] * shape[1], np.int64)
    for start, index in zip(starts.tolist(), indices, strict=True):
        tokens_R[start : start + samples[index].length] = samples[index].tokens_T
    asked = [samples[index] for index in indices]
    batch = TeacherBatch(
        indices=indices,
        samples=[*asked],
        inputs={
            "input_ids": torch.from_numpy(tokens_R).view(shape),
            "position_ids": torch.from_numpy(positions(starts, lengths, shape)),
        },
        rows_N=torch.from_numpy(
            np.concatenate(
                [start + samples[index].positions_N for start, index in zip(starts.tolist(), indices, strict=True)]
            )
        ),
        gold_N=torch.from_numpy(np.concatenate([samples[index].gold_N for index in indices])),
    )
    return deciding(batch, asked)
