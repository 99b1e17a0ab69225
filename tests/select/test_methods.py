"""Every method of selecting against a plain reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitstore.select.choice import Amount, Candidates
from logitstore.select.drawn import drawn, pruned, shares, stratified, suggested_alpha
from logitstore.select.ranked import bottom, difference, sure, top

SCORES = st.lists(st.sampled_from([0.0, 1.0, 1.5, -2.0, np.inf, -np.inf, np.nan]), min_size=1, max_size=30)


def candidates(score: list[float] | None, domains: list[int] | None = None, count: int | None = None) -> Candidates:
    size = len(score) if score is not None else len(domains or []) or int(count or 0)
    return Candidates(
        score_S=None if score is None else np.array(score, np.float64),
        domain_S=np.zeros(size, np.int64) if domains is None else np.array(domains),
        allowed_S=np.ones(size, np.bool_),
    )


@given(score=SCORES, ratio=st.floats(0.01, 1))
def test_top_and_bottom_are_those_of_a_plain_sort(score: list[float], ratio: float) -> None:
    count = max(int(ratio * len(score) + 0.5), 1)
    numbers = range(len(score))
    highest = sorted(numbers, key=lambda s: (np.isnan(score[s]), 0 if np.isnan(score[s]) else -score[s], s))[:count]
    lowest = sorted(numbers, key=lambda s: (np.isnan(score[s]), 0 if np.isnan(score[s]) else score[s], s))[:count]
    amount = Amount(ratio=ratio)
    assert top(candidates(score), amount).samples_M.tolist() == sorted(highest)
    assert bottom(candidates(score), amount).samples_M.tolist() == sorted(lowest)


def test_the_ends_of_an_amount() -> None:
    assert Amount(ratio=1.0).of(7) == 7
    assert Amount(ratio=1e-9).of(7) == 1
    assert Amount(ratio=0.5).of(5) == 3
    assert Amount(samples=9).of(7) == 7
    assert Amount().of(7) == 7
    assert Amount(ratio=0.3).of(1) == 1


def test_the_difference_is_the_reference_s_nll_less_the_teacher_s() -> None:
    found = difference(np.array([1.0, 3.0, np.inf, 2.0], np.float32), np.array([2.0, 1.0, np.inf, np.inf], np.float32))
    np.testing.assert_array_equal(found, [1.0, -2.0, np.nan, np.inf])


def test_random_samples_depend_on_the_seed_alone_and_smaller_amounts_are_nested() -> None:
    some = candidates(None, count=1000)
    found = drawn(some, Amount(samples=300, seed=5)).samples_M
    assert found.tolist() == drawn(some, Amount(samples=300, seed=5)).samples_M.tolist()
    assert set(drawn(some, Amount(samples=100, seed=5)).samples_M) <= set(found)
    assert len(set(drawn(some, Amount(samples=300, seed=6)).samples_M) & set(found)) < 150
    assert len(set(found)) == 300
    assert 100 < (found < 500).sum() < 200


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(sum), ratio=st.floats(0.01, 1))
def test_shares_sum_to_the_total_and_miss_no_domain_by_a_whole_sample(counts: list[int], ratio: float) -> None:
    total = max(round(ratio * sum(counts)), 1)
    found = shares(np.array(counts), total)
    assert found.sum() == total
    assert (np.abs(found - np.array(counts) * total / sum(counts)) < 1).all()


def test_stratified_takes_the_best_of_every_domain_also_where_one_is_empty() -> None:
    score = [9.0, 8, 7, 6, 1, 2, 3, 4]
    domains = [0, 0, 0, 0, 2, 2, 2, 2]  # nothing is of domain 1
    assert stratified(candidates(score, domains), Amount(ratio=0.5)).samples_M.tolist() == [0, 1, 6, 7]
    found = stratified(candidates(None, domains), Amount(ratio=0.5, seed=1)).samples_M
    assert ((found < 4).sum(), (found >= 4).sum()) == (2, 2)


def test_llkd_keeps_what_is_above_its_domain_s_threshold_and_weighs_it_by_confidence() -> None:
    confidence = [0.9, 0.5, 0.7, 0.2, 0.4, 0.3]
    domains = [0, 0, 0, 1, 1, 1]
    overall, means = np.mean(confidence), [0.7, 0.3]
    limits = [overall * mean / 0.7 for mean in means]
    expected = [s for s in range(6) if confidence[s] >= limits[domains[s]]]
    found = sure(candidates(confidence, domains), Amount())
    assert found.samples_M.tolist() == expected
    assert found.weight_M is not None
    kept = np.array(confidence)[expected]
    np.testing.assert_allclose(found.weight_M, kept / kept.mean(), rtol=1e-6)
    assert sure(candidates(confidence), Amount()).samples_M.tolist() == [0, 1, 2]
    assert sure(candidates(confidence), Amount(samples=1)).samples_M.tolist() == [0]
    assert sure(candidates([np.nan, 0.5]), Amount()).samples_M.tolist() == [1]


def test_the_suggested_alpha_goes_from_small_with_all_data_to_large_with_a_tenth() -> None:
    assert [suggested_alpha(share) for share in (1.0, 0.1, 0.01)] == pytest.approx([0.1, 0.9, 0.9])
    assert suggested_alpha(0.5) == pytest.approx(0.1 + 0.8 * np.log10(2))
    assert pruned(candidates(None, count=10), Amount(ratio=0.1)).suggested_alpha == pytest.approx(0.9)
