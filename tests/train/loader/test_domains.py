"""Samples are drawn by the shares of their domains."""

from __future__ import annotations

import numpy as np
import pytest

from logitstore.train.loader.domains import DomainOrder, behind, first_shares, next_shares


def test_domains_on_which_the_student_is_behind_get_more_and_none_is_left_out() -> None:
    found = behind(np.array([2.0, 4.0, 3.0]), np.array([2.0, 2.0, 0.0]), "nll")
    assert found[:2].tolist() == [1.0, 2.0]
    assert np.isfinite(found).all()
    ratio = np.array([1.0, 2.0, 1.5])
    shares = first_shares(ratio)
    np.testing.assert_allclose(shares, np.exp(ratio) / np.exp(ratio).sum())
    for _ in range(3):
        psi = shares * np.exp(ratio)
        expected = 0.5 * psi / psi.sum() + 0.5 / 3
        shares = next_shares(shares, ratio, 0.5)
        np.testing.assert_allclose(shares, expected)
    assert shares.argmax() == 1
    assert shares.min() >= 0.5 / 3
    np.testing.assert_allclose(next_shares(shares, ratio, 0.0), 1 / 3)
    np.testing.assert_allclose(next_shares(shares, np.array([9e3, 1.0, 1.0]), 0.5).sum(), 1)


def test_samples_are_drawn_by_the_shares_of_their_span_whoever_asks() -> None:
    domains = np.array([0, 1, 2] * 200 + [2] * 400)
    order = DomainOrder(
        domain_S=domains, seed=3, span=500, shares=[np.array([0.7, 0.2, 0.1]), np.array([0.0, 0.0, 1.0])]
    )
    found = order(0, np.arange(1000))
    counts = np.bincount(domains[found[:500]], minlength=3)
    assert np.abs(counts - [350, 100, 50]).max() < 40
    assert (domains[found[500:]] == 2).all()
    assert len(set(found[500:].tolist())) > 300
    pieces = np.concatenate([order(0, places) for places in np.array_split(np.arange(1000), 7)])
    np.testing.assert_array_equal(found, pieces)
    other = DomainOrder(domain_S=domains, seed=4, span=500, shares=order.shares)
    assert (other(0, np.arange(1000)) != found).mean() > 0.5
    with pytest.raises(IndexError):
        order(1, np.arange(3))
    with pytest.raises(ValueError, match="without samples"):
        DomainOrder(domain_S=np.array([0, 2]), seed=0, span=5)
