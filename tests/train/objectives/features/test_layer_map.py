"""Layers of the student paired with layers of the teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitstore.errors import BadInput
from logitstore.train.objectives.features import (
    Attention,
    Match,
    MutualInformation,
    NormDirection,
    Relations,
    layer_pairs,
)
from logitstore.train.objectives.features.layer_map import attention_pairs, hidden_pairs
from tests.parts.feature_references import shapes_of


def test_layers_are_paired_as_the_word_says() -> None:
    assert layer_pairs("uniform", 3, 12) == [(1, 4), (2, 8), (3, 12)]
    assert layer_pairs("uniform", 4, 6) == [(1, 2), (2, 3), (3, 4), (4, 6)]
    assert layer_pairs("last-3", 4, 12) == [(2, 10), (3, 11), (4, 12)]
    assert layer_pairs("1:4,2:8,0:0", 2, 8) == [(1, 4), (2, 8), (0, 0)]
    assert layer_pairs("inner", 3, 12) == [(1, 4), (2, 8)]
    assert layer_pairs("at-0.75", 12, 24) == [(9, 18)]
    assert layer_pairs("at-.1", 2, 24) == [(1, 2)]
    assert layer_pairs("all", 3, 3) == [(1, 1), (2, 2), (3, 3)]


@given(student=st.integers(1, 40), teacher=st.integers(1, 100))
def test_uniform_layers_rise_and_end_on_the_last(student: int, teacher: int) -> None:
    own, other = zip(*layer_pairs("uniform", student, teacher), strict=True)
    assert list(own) == list(range(1, student + 1))
    assert list(other) == sorted(other)
    assert other[-1] == teacher
    assert other[0] >= 1


def test_the_last_layer_is_called_final_and_queries_keep_its_number() -> None:
    assert hidden_pairs("0:0,1:4,2:8", 2, 8) == [
        ("hidden-0", "hidden-0"), ("hidden-1", "hidden-4"), ("final", "final")
    ]  # fmt: skip
    assert attention_pairs("last-1", 2, 8) == [("query-2", "query-8"), ("key-2", "key-8"), ("value-2", "value-8")]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            "unifrom",
            "layers 'unifrom': write uniform, inner, all, last-N such as last-3, at-SHARE such as at-0.75, or pairs",
        ),
        ("inner-1", "layers 'inner-1': write uniform, inner"),
        ("last-0", "layers 'last-0': the student has 2 layers and the teacher 8. Name from 1 to 2 of them."),
        ("last-3", "layers 'last-3': the student has 2 layers and the teacher 8. Name from 1 to 2"),
        ("all", "layers 'all': the student has 2 layers and the teacher 8; .* Use 'uniform'."),
        ("3:4", "layers '3:4': 3:4: the student has 2 layers. Name one from 0 to 2."),
        ("1:2,2:9", "layers '1:2,2:9': 2:9: the teacher has 8 layers. Name one from 0 to 8."),
        ("1:2,1:2", "layers '1:2,1:2': a pair stands there twice"),
        ("1:2,", "layers '1:2,': write uniform"),
    ],
)
def test_layers_that_are_not_there_are_told_in_a_line(layers: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        layer_pairs(layers, 2, 8)


def test_options_that_do_not_fit_are_told_in_a_line() -> None:
    hidden = shapes_of(Match)
    attention = shapes_of(Attention)
    with pytest.raises(BadInput, match="layer 0 is the embeddings, which have no queries"):
        Relations.pairs(2, 4, layers="0:0")
    with pytest.raises(BadInput, match="kind 'l2': write mse, cosine, l1 or huber"):
        Match(hidden, kind="l2")
    with pytest.raises(BadInput, match="project 'never': write auto, or always"):
        Match(hidden, project="never")
    with pytest.raises(BadInput, match=r"alpha 1.5: give a number from 0 to 1"):
        MutualInformation(hidden, alpha=1.5)
    with pytest.raises(BadInput, match=r"class means of shape \[7, 6\]: .* has 10 channels"):
        NormDirection(hidden, means_VD=torch.zeros(7, 6))
    with pytest.raises(
        BadInput, match=r"relation_heads 4: the student's key-2 has 6 channels. Give one of 1, 2, 3, 6."
    ):
        Relations(attention, relation_heads=4)
    with pytest.raises(BadInput, match=r"relation_heads 0: .* Give one of 1, 2, 3, 6."):
        Relations(attention, relation_heads=0)
    with pytest.raises(BadInput, match=r"the teacher does not say how many heads it has. Give relation_heads."):
        Relations(replace(attention, heads_teacher=0))
    with pytest.raises(BadInput, match=r"the student has 3 heads and the teacher 6; .* Use relations"):
        Attention(replace(attention, heads_student=3))
    with pytest.raises(BadInput, match="the teacher's key-4 has 12 channels for 4 of its 6 heads, which do not divide"):
        Attention(replace(attention, key_heads_teacher=4))


def test_relation_heads_are_the_teachers_where_they_divide_all_widths_and_the_next_fewer_elsewhere() -> None:
    shapes = shapes_of(Relations)
    assert Relations(shapes).relation_heads == 6
    assert Relations(replace(shapes, heads_teacher=5)).relation_heads == 3
