"""How far stored features are from those that the teacher gives now.

Axes: M samples of one row each, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from logitstore.core.progress import Progress, Step
from logitstore.core.types import Array
from logitstore.dump.teachers.teacher import Batches, Teacher, TeacherBatch
from logitstore.store.cache import Cache
from logitstore.targets.rows import sent


def features_apart(
    cache: Cache, name: str, teacher: Teacher, batches: Batches, chosen_M: Array, progress: Progress
) -> tuple[float, float]:
    """Ask a teacher again about some samples. Return the largest 1 - cosine of two features of a sample, twice:

    that of the stored one and the one that the teacher gives now, stored in the same way; and that of what it gives in batches
    as in the dump and one sample at a time.

    Args:
        cache: to compare with.
        name: of the feature.
        teacher: loaded.
        batches: makes batches of it.
        chosen_M: int64, numbers of the samples, each of which has one row.
        progress: receives the steps.
    """
    codec = cache.taps[name].codec
    samples = [cache[int(number)].sample for number in chosen_M]
    together_MD = _asked(teacher, name, batches(samples), len(samples))
    alone = []
    for done, sample in enumerate(samples, 1):
        alone.append(_asked(teacher, name, batches([sample]), 1))
        progress(Step(stage="ask again", done=done, total=len(samples)))
    spread = _apart(together_MD, torch.cat(alone))
    if together_MD.shape[1] != cache.taps[name].info.width:
        return math.inf, spread
    now_MD = codec.decode(codec.encode(together_MD))
    return _apart(stored_features(cache, name, chosen_M), now_MD), spread


def stored_features(cache: Cache, name: str, numbers_M: Array) -> Tensor:
    """Return a feature of some samples of one row each, as it is stored, float32[M, D]."""
    tap = cache.taps[name]
    rows = []
    for part, place in zip(*cache.places(numbers_M), strict=True):
        fields = {field: torch.from_numpy(np.array(values[[place]])) for field, values in tap.part(int(part)).items()}
        rows.append(tap.codec.decode(fields))
    return torch.cat(rows)


def _asked(teacher: Teacher, name: str, batches: Iterable[TeacherBatch], count: int) -> Tensor:
    """Return float32[M, D] on the host, in the order of the samples."""
    found: list[Tensor] = [torch.zeros(0)] * count
    for batch in batches:
        seen = teacher.features(batch.inputs, [name])[name]
        rows_ND = seen.flatten(0, 1)[sent(batch.rows_N, seen.device)].float().cpu()
        for place, row_D in zip(batch.indices, rows_ND, strict=True):
            found[place] = row_D
    return torch.stack(found)


def _apart(first_MD: Tensor, second_MD: Tensor) -> float:
    """Return the largest 1 - cosine; infinite where one is not finite."""
    found_M = 1 - torch.cosine_similarity(first_MD.double(), second_MD.double(), dim=-1)
    return float(found_M.nan_to_num(nan=torch.inf).clamp(min=0).max())
