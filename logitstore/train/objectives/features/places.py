"""Features at every place of a sample, where the sample has one row: the tokens of a classified text, the patches of an image.

Axes: N rows, one for each sample; P places of all samples, sample after sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from logitstore.format.tap_names import FINAL
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Sides
from logitstore.train.objectives.features.padding import Padding


class AtPlaces(nn.Module):
    """An objective on the places of samples: the loss of a sample is the mean over its places, padding left out.

    Args:
        objective: compares places as it does rows; those of a sample see each other.
        last: names of what the last layers of student and teacher give at every place, which the objective calls `final`.
    """

    def __init__(self, objective: FeatureObjective, last: Pair) -> None:
        super().__init__()
        self.objective, self.last = objective, last

    def forward(self, sides: Sides) -> Tensor:
        """Return the loss per row, float32[N]; see `FeatureObjective`. `sides` has places."""
        if sides.places is None:
            raise ValueError("these sides have no places")
        counts_M, (own, other) = sides.places.counts_M, self.last
        named = replace(
            sides.places,
            student=_with_final(sides.places.student, own),
            teacher=_with_final(sides.places.teacher, other),
        )
        loss_P = self.objective(named)
        return Padding.of(counts_M).pad(loss_P).sum(1) / counts_M.clamp(min=1)


def _with_final(features: Mapping[str, Tensor], last: str) -> dict[str, Tensor]:
    return {**features, FINAL: features[last]} if last in features else {**features}
