"""Lists of one place before and after a temperature are told apart, with the noise of engines."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitstore.core.types import Array
from logitstore.text.answers.same import difference


def listed(logits_V: Array, noise_V: Array, temperature: float = 1.0) -> dict[int, float]:
    scaled_V = logits_V / temperature
    logprobs_V = scaled_V - np.logaddexp.reduce(scaled_V) + noise_V
    return {int(token): float(logprobs_V[token]) for token in np.argsort(-logprobs_V)[:20]}


def noise(draws: np.random.Generator, size: int) -> Array:
    return draws.normal(0, 0.03, size)


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.3, 0.7, 0.8, 1.0, 1.25, 1.5, 2.0]))
def test_one_distribution_is_one_whatever_the_temperature_of_drawing(seed: int, temperature: float) -> None:
    draws = np.random.default_rng(seed)
    logits_V = draws.normal(0, 3, 500)
    pair = [listed(logits_V, noise(draws, 500)) for _ in range(2)]
    assert difference(*pair, temperature) is None


@given(st.integers(0, 2**32), st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.25, 1.5, 2.0]))
def test_logprobs_after_a_temperature_are_found(seed: int, temperature: float) -> None:
    draws = np.random.default_rng(seed)
    logits_V = draws.normal(0, 3, 500)
    there, again = listed(logits_V, noise(draws, 500), temperature), listed(logits_V, noise(draws, 500))
    assert difference(there, again, temperature) is not None


def test_another_model_is_found_and_what_cannot_be_told_passes() -> None:
    one, other = {1: -0.1, 2: -3.0}, {1: -3.0, 2: -0.1}
    assert difference(one, other) == "2.9 nats apart"
    assert difference(one, {3: -0.1}) == "no token in common"
    assert difference(one, {}) is None
    # tokens of equal probability are so at every temperature
    flat = dict.fromkeys(range(20), -3.0)
    assert difference(flat, flat, 0.5) is None
