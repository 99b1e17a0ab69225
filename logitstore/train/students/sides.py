"""What student and teacher say of the same batch, side by side: of its rows, and of every place of its samples.

Axes: N rows, one for each of M samples where features are at places; P places of all samples, sample after sample; B lines, T
places of a line, D channels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from logitstore.errors import CacheMismatch
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.gather import COUNTS
from logitstore.train.objectives.features.feature import Sides


def sides_of(
    batch: Batch,
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    at_places: Collection[str],
    before: str = "",
) -> Sides:
    """Return the features of both models about a batch, those at places apart.

    Args:
        batch: of the rows.
        student: what was recorded of the student, [B, T, D] each.
        teacher: what the cache says, [N, D] each, or [P, D] of taps with a vector for each place.
        at_places: names of the student's features that are compared at all places.
        before: what stands before the names of the teacher's features in the batch.

    Raises:
        CacheMismatch: the student has other places than the teacher.
    """
    counts = {name: batch.features[key] for name in teacher if (key := f"{before}{name}/{COUNTS}") in batch.features}
    places = None
    if at_places and counts:
        counts_M = next(iter(counts.values()))
        place_P = places_in(batch.inputs, student[next(iter(sorted(at_places)))])
        found = {name: student[name].flatten(0, 1)[place_P] for name in at_places}
        theirs = {name: teacher[name] for name in counts}
        for name, value in (*found.items(), *theirs.items()):
            if len(value) != len(next(iter(theirs.values()))):
                raise CacheMismatch(
                    f"the student has {len(place_P):,} places of {len(counts_M):,} samples and the teacher "
                    f"{int(counts_M.sum()):,}, so {name} cannot be compared. Choose a student with the teacher's tokens or "
                    "patches."
                )
        places = Sides(
            student=found,
            teacher=theirs,
            counts_M=counts_M,
            gold_N=batch.gold.repeat_interleave(counts_M),
            mask_N=batch.row_mask.repeat_interleave(counts_M),
        )
    return Sides(
        student={name: value.flatten(0, 1)[batch.rows] for name, value in student.items() if name not in at_places},
        teacher={name: value for name, value in teacher.items() if name not in counts},
        counts_M=batch.counts,
        gold_N=batch.gold,
        mask_N=batch.row_mask,
        places=places,
    )


def places_in(inputs: Mapping[str, Any], feature_BTD: Tensor) -> Tensor:
    """Return int64[P]: which of the flattened [B * T] are places of a sample and not padding."""
    mask_BT = inputs.get("attention_mask")
    if mask_BT is None:
        return torch.arange(feature_BTD.shape[:2].numel(), device=feature_BTD.device)
    places_P: Tensor = mask_BT.flatten().nonzero().squeeze(1).to(feature_BTD.device)
    return places_P
