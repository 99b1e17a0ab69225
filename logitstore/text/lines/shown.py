"""Batches of texts as a teacher is shown them: one text to a line, padded, or several.

Axes: B lines, T places of a line, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from logitstore.core.types import Array
from logitstore.dump.teachers.teacher import TeacherBatch
from logitstore.text.lines.pack import packed_batches, positions
from logitstore.text.positions.batch import deciding
from logitstore.text.sample import Sample


def by_length(lengths_S: Array, budget: int) -> list[list[int]]:
    """Split samples into batches of similar length, the longest first.

    A batch holds at least one sample, and as many as keep (count of samples) x (longest length) within `budget` tokens.

    Args:
        lengths_S: tokens of each sample.
        budget: the largest count of tokens in a batch, padding included.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in np.argsort(-lengths_S, kind="stable"):
        if not batches or (len(batches[-1]) + 1) * longest > budget:
            batches.append([])
            longest = int(lengths_S[index])
        batches[-1].append(int(index))
    return batches


def text_batches(samples: list[Sample], budget: int) -> Iterator[TeacherBatch]:
    """Yield batches of texts of similar length, with at most `budget` tokens each, padding included."""
    for indices in by_length(np.array([sample.length for sample in samples]), budget):
        yield collate(samples, indices)


def collate(samples: list[Sample], indices: list[int]) -> TeacherBatch:
    """Return one batch of the texts at `indices`. The padding is 0; causal attention never sees it."""
    width = max(len(samples[index].tokens_T) for index in indices)
    tokens_BT = np.zeros((len(indices), width), np.int64)
    attention_BT = np.zeros((len(indices), width), np.int64)
    for line, index in enumerate(indices):
        length = len(samples[index].tokens_T)
        tokens_BT[line, :length] = samples[index].tokens_T
        attention_BT[line, :length] = 1
    asked = [samples[index] for index in indices]
    batch = TeacherBatch(
        indices=indices,
        samples=[*asked],
        inputs={"input_ids": torch.from_numpy(tokens_BT), "attention_mask": torch.from_numpy(attention_BT)},
        rows_N=torch.from_numpy(
            np.concatenate([line * width + samples[index].positions_N for line, index in enumerate(indices)])
        ),
        gold_N=torch.from_numpy(np.concatenate([samples[index].gold_N for index in indices])),
    )
    return deciding(batch, asked)


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
