"""Make batches of views for a teacher ahead, on threads.

Axes: B views, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from logitstore.pictures import Pictures
from logitstore.score import TeacherBatch
from logitstore.types import View


def view_batches(views: list[View], pictures: Pictures, size: int, workers: int) -> Iterator[TeacherBatch]:
    """Yield batches of `size` views in their order, made ahead by `workers` threads."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="logitstore-views")
    waiting: deque[Future[TeacherBatch]] = deque()
    starts = iter(range(0, len(views), size))
    try:
        for start in starts:
            waiting.append(pool.submit(_batch, pictures, views[start : start + size], start))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _batch(pictures: Pictures, views: list[View], start: int) -> TeacherBatch:
    pixels_B3HW, filled = pictures.batch(views)
    return TeacherBatch(
        indices=list(range(start, start + len(views))),
        samples=list(filled),
        inputs={"pixel_values": pixels_B3HW},
        rows_N=torch.arange(len(views)),
        gold_N=torch.from_numpy(np.array([view.label for view in filled], np.int64)),
    )
