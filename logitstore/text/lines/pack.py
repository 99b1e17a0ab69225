"""Several samples in one line without padding between them: which line each lies in, and where.

Axes: B lines, T places of a line, M samples.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from logitstore.core.types import Array


def packed(lengths_M: Array) -> tuple[Array, Array, tuple[int, int]]:
    """Put samples, the longest first, into the first line with room; lines are as wide as the longest sample.

    Returns:
        int64[M], the line of each sample; int64[M], its place in the line; and the shape of all lines.
    """
    width = int(lengths_M.max())
    lines_M, offsets_M = np.zeros(len(lengths_M), np.int64), np.zeros(len(lengths_M), np.int64)
    used: list[int] = []
    for index in np.argsort(-lengths_M, kind="stable"):
        length = int(lengths_M[index])
        line = next((line for line, full in enumerate(used) if full + length <= width), len(used))
        if line == len(used):
            used.append(0)
        lines_M[index], offsets_M[index] = line, used[line]
        used[line] += length
    return lines_M, offsets_M, (len(used), width)


def packed_batches(lengths_M: Array, budget: int) -> list[list[list[int]]]:
    """Split samples into batches of lines without padding between samples, the longest first.

    A line is as wide as the longest sample of its batch. A batch holds at least one line, and as many as keep its width times
    their count within `budget`. Each line takes the longest sample that is left, and then the longest that still fit.

    Args:
        lengths_M: tokens of each sample.
        budget: the largest count of tokens in a batch, padding included.

    Returns:
        for each batch and each of its lines the numbers of its samples.
    """
    order = np.argsort(lengths_M, kind="stable")
    left, lengths = order.tolist(), lengths_M[order].tolist()
    batches: list[list[list[int]]] = []
    while left:
        width = lengths[-1]
        batches.append([])
        for _ in range(max(budget // width, 1)):
            line, room = [], width
            while place := bisect_right(lengths, room):
                room -= lengths.pop(place - 1)
                line.append(left.pop(place - 1))
            if line:
                batches[-1].append(line)
    return batches


def positions(starts_M: Array, lengths_M: Array, shape: tuple[int, int]) -> Array:
    """Return int64[B, T]: positions that start again at each sample.

    Padding stays 0, so each padding token is a sequence of its own.

    Args:
        starts_M: the place of each sample's first token in the flattened lines.
        lengths_M: tokens of each sample.
        shape: count and width of the lines.
    """
    positions_R = np.zeros(shape[0] * shape[1], np.int64)
    for start, length in zip(starts_M.tolist(), lengths_M.tolist(), strict=True):
        positions_R[start : start + length] = np.arange(length)
    return positions_R.reshape(shape)
