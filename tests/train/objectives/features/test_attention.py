"""The objective on attention against a float64 reference with loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.train.objectives.features import Attention
from tests.parts.feature_references import CASES, COUNTS, heads_of, relation_reference, samples_of, shapes_of, sides_of


@pytest.mark.parametrize("case", ["attention", "attention, not causal"])
@pytest.mark.parametrize("key_heads", [1, 3, 6])
def test_attention_is_kl_of_attention_and_value_relation_with_shared_keys_repeated(case: str, key_heads: int) -> None:
    kind, options = CASES[case]
    shapes = replace(shapes_of(kind, **options), key_heads_teacher=key_heads)
    module, sides = Attention(shapes, **options), sides_of(shapes)
    # a key head is as wide as a query head: with another number of them, their features are of another width
    width = 4 * key_heads
    teacher = sides.teacher | {
        name: torch.randn(sum(COUNTS), width).double() for name in sides.teacher if "query" not in name
    }
    shapes = replace(shapes, widths_teacher={name: value.shape[1] for name, value in teacher.items()})
    module, sides = Attention(shapes, **options), replace(sides, teacher=teacher)

    def maps(features: dict[str, Tensor], layer: int, shared: int) -> tuple[list[Any], list[Any]]:
        queries = heads_of(features[f"query-{layer}"], 6)
        keys, values = heads_of(features[f"key-{layer}"], shared), heads_of(features[f"value-{layer}"], shared)
        attention = [(query, keys[place * shared // 6]) for place, query in enumerate(queries)]
        return attention, [(values[place * shared // 6],) * 2 for place in range(6)]

    causal = options.get("causal", True)
    both = zip(maps(dict(sides.teacher), 4, key_heads), maps(dict(sides.student), 2, 3), strict=True)
    expected = sum(relation_reference(theirs, own, sides, causal) for theirs, own in both)
    torch.testing.assert_close(module(sides), expected)


@pytest.mark.parametrize("causal", [True, False])
def test_scores_are_compared_where_rows_are_seen(causal: bool) -> None:
    """TinyBERT's, by a loop over heads and pairs of rows."""
    shapes = shapes_of(Attention, kind="scores")
    sides = sides_of(shapes)
    names = Attention.pairs(2, 4)
    found = Attention(shapes, kind="scores", causal=causal)(sides)
    expected = torch.zeros_like(found)
    for sample in samples_of(sides):
        for row in sample:
            seen = [other for other in sample if other <= row or not causal]
            for head in range(6):
                said = []
                for side, at in ((sides.student, 0), (sides.teacher, 1)):
                    query = heads_of(side[names[0][at]], 6)[head]
                    key = heads_of(side[names[1][at]], 3)[head // 2]
                    said.append(torch.stack([query[row] @ key[other] / math.sqrt(query.shape[1]) for other in seen]))
                expected[row] += (said[0] - said[1]).square().mean() / 6
    torch.testing.assert_close(found, expected)
    with pytest.raises(BadInput, match="kind 'mse': write kl or scores"):
        Attention(shapes, kind="mse")
