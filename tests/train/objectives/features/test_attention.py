"""The objective on attention against a float64 reference with loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from logitstore.train.objectives.features import Attention
from tests.parts.feature_references import CASES, COUNTS, heads_of, relation_reference, shapes_of, sides_of


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
