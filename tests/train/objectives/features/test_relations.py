"""The objective on relations against a float64 reference with loops."""

from __future__ import annotations

import pytest
import torch

from tests.parts.feature_references import CASES, built, heads_of, relation_reference, sides_of


@pytest.mark.parametrize(("case", "heads", "pairs"), [("relations", 2, 1), ("relations, not causal", 6, 2)])
def test_relations_are_the_sum_of_three_kls_over_relation_heads(case: str, heads: int, pairs: int) -> None:
    module, shapes = built(case)
    sides = sides_of(shapes)
    kind, options = CASES[case]
    names = kind.pairs(2, 4, **options)
    assert len(names) == 3 * pairs
    expected = torch.zeros(len(sides.mask_N), dtype=torch.float64)
    for own, other in names:
        student = [(rows, rows) for rows in heads_of(sides.student[own], heads)]
        teacher = [(rows, rows) for rows in heads_of(sides.teacher[other], heads)]
        expected += relation_reference(teacher, student, sides, options.get("causal", True)) / pairs
    torch.testing.assert_close(module(sides), expected)
