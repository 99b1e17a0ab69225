"""Masks: the rule of docs/format.md, and that the seed and the number of the view decide all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from logitstore.format.tasks.masked import MaskInfo
from logitstore.masked.mask import Masker

M = (1 << 64) - 1
VOCABULARY = 60
RULE = MaskInfo(share=0.15, random=0.1, unchanged=0.1, token=4, kept=(0, 1, 2, 3, 4, 59), seed=7)


def mixed(number: int, salt: int) -> int:
    """The SplitMix64 finaliser, in whole numbers."""
    x = (number * 0x9E3779B97F4A7C15 + salt) & M
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M
    return x ^ (x >> 31)


def by_hand(
    tokens: list[int], rule: MaskInfo, number: int, view: int, vocabulary: int = VOCABULARY
) -> tuple[list[int], list[int]]:
    """The rule as docs/format.md tells it."""
    of_seed = mixed(rule.seed, 0x6C6F676974 + 0x4D41534B)
    own = mixed(number, mixed(of_seed ^ view, 0x73746F7265))
    place, kind, drawn = (mixed(each, own) for each in range(3))
    free = [position for position, token in enumerate(tokens) if token not in rule.kept]
    count = min(max(int(rule.share * len(free) + 0.5), 1), len(free))
    positions = sorted(sorted(free, key=lambda position: mixed(position, place))[:count])
    others = [token for token in range(vocabulary) if token not in rule.kept]
    shown = []
    for position in positions:
        chance = (mixed(position, kind) >> 11) / 2**53
        if chance >= 1 - rule.unchanged:
            shown.append(tokens[position])
        elif chance < rule.random:
            shown.append(others[mixed(position, drawn) % len(others)])
        else:
            shown.append(rule.token)
    return positions, shown


@given(
    tokens=some.lists(some.integers(0, VOCABULARY - 1), min_size=1, max_size=80),
    number=some.integers(0, 1 << 40),
    view=some.integers(0, 99_999),
    seed=some.integers(0, (1 << 63) - 1),
    shares=some.sampled_from([(0.15, 0.1, 0.1), (1.0, 0.0, 0.0), (0.4, 0.5, 0.5), (0.01, 1.0, 0.0), (0.5, 0.0, 1.0)]),
)
def test_a_mask_is_the_one_of_the_specification(
    tokens: list[int], number: int, view: int, seed: int, shares: tuple[float, float, float]
) -> None:
    share, random, unchanged = shares
    rule = RULE.model_copy(update={"share": share, "random": random, "unchanged": unchanged, "seed": seed})
    positions_N, shown_N = Masker(rule, VOCABULARY).mask(np.array(tokens), number, view)
    assert (positions_N.tolist(), shown_N.tolist()) == by_hand(tokens, rule, number, view)


def test_the_shares_are_those_of_the_rule_and_each_view_has_a_mask_of_its_own() -> None:
    masker, tokens_T = Masker(RULE, VOCABULARY), np.concatenate([[2], np.arange(5, 59).repeat(10), [3]])
    counts, masks = np.zeros(3), []
    hits_T = np.zeros(len(tokens_T))
    for view in range(100):
        positions_N, shown_N = masker.mask(tokens_T, 0, view)
        assert len(positions_N) == round(0.15 * 540)
        is_mask_N, is_same_N = shown_N == RULE.token, shown_N == tokens_T[positions_N]
        counts += [is_mask_N.sum(), is_same_N.sum(), (~is_mask_N & ~is_same_N).sum()]
        hits_T[positions_N] += 1
        masks.append(positions_N.tolist())
    # one in 54 of the random tokens is the one that was there; three deviations
    assert np.allclose(counts / counts.sum(), [0.8, 0.1 + 0.1 / 54, 0.1 * 53 / 54], atol=3 * (0.8 * 0.2 / 8100) ** 0.5)
    assert len({tuple(each) for each in masks}) == 100
    assert hits_T[[0, -1]].sum() == 0
    assert hits_T[1:-1].std() == pytest.approx((100 * 0.15 * 0.85) ** 0.5, rel=0.15)


def test_a_rule_that_cannot_be_is_refused() -> None:
    for change, why in (
        ({"random": 0.6, "unchanged": 0.5}, "more than all"),
        ({"kept": (3, 2)}, "do not rise"),
        ({"share": 0.0}, "greater than 0"),
        ({"seed": -1}, "greater than or equal to 0"),
    ):
        with pytest.raises(ValidationError, match=why):
            MaskInfo(**RULE.model_dump() | change)
