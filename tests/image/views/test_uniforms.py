"""The random numbers of views are those of the specification."""

from __future__ import annotations

import math

import numpy as np
import pytest

from logitstore.image.views.uniforms import Uniforms, seed_of
from tests.parts.view_formulas import philox


def test_the_uniform_numbers_are_those_of_the_specification() -> None:
    expected = philox(2**63 - 1, 2**40, 3, 5)
    uniforms = Uniforms(seed_of(2**63 - 1, 2**40, 3), 5)
    assert [uniforms.number() for _ in range(9)] == [next(expected) for _ in range(9)]
    np.testing.assert_array_equal(uniforms.numbers((2, 3)).ravel(), [next(expected) for _ in range(6)])
    assert uniforms.between(2, 5) == 2 + 3 * next(expected)
    assert uniforms.below(7) == math.floor(7 * next(expected))
    assert uniforms.happens(0.5) == (next(expected) < 0.5)
    assert sorted(uniforms.order(6)) == list(range(6))


def test_every_order_of_three_is_as_likely() -> None:
    uniforms = Uniforms(1, 0)
    counts = np.unique([uniforms.order(3) for _ in range(3000)], axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts - 500).max() < 5 * math.sqrt(500)


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 3.0])
def test_the_weights_of_a_mix_have_the_mean_and_the_variance_of_their_distribution(alpha: float) -> None:
    uniforms = Uniforms(2, 0)
    drawn = np.array([uniforms.beta(alpha) for _ in range(4000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert abs(drawn.mean() - 0.5) < 5 * math.sqrt(variance / 4000)
    assert abs(drawn.var() / variance - 1) < 0.1
