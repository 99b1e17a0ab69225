"""The objective on similarity against a float64 reference with loops."""

from __future__ import annotations

import torch

from logitstore.train.objectives.features import Similarity
from tests.parts.feature_references import built, samples_of, sides_of


def test_similarity_is_the_mean_square_between_cosine_matrices_of_a_sample() -> None:
    module, shapes = built("similarity")
    sides = sides_of(shapes)
    expected = torch.zeros(len(sides.mask_N), dtype=torch.float64)
    for own, other in Similarity.pairs(2, 4):
        student, teacher = sides.student[own], sides.teacher[other]
        for sample in samples_of(sides):
            for row in sample:
                for column in sample:
                    s = student[row] @ student[column] / (student[row].norm() * student[column].norm())
                    t = teacher[row] @ teacher[column] / (teacher[row].norm() * teacher[column].norm())
                    expected[row] += (s - t) ** 2 / len(sample) / 2
    torch.testing.assert_close(module(sides), expected)
