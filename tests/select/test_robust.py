"""The robust selection against the game that it solves, played by brute force."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logitstore
from logitstore.errors import BadInput
from logitstore.select.choice import Amount, Candidates
from logitstore.select.robust import robust, shares_of
from logitstore.select.select import select
from logitstore.settings.look import SelectSettings
from tests.parts.commands import Refused

GAINS = st.lists(st.floats(0.01, 1), min_size=1, max_size=7).map(lambda gains: np.array(sorted(gains, reverse=True)))


def worst(shares: np.ndarray, gains: np.ndarray, wrong: int) -> float:
    """The gain of a draw if an adversary makes some answers wrong, the worst ones of all ways to choose them."""
    each = shares * gains
    return min(float(each.sum() - each[list(some)].sum()) for some in combinations(range(len(gains)), wrong))


@given(gains=GAINS, wrong=st.integers(0, 6), other=st.lists(st.floats(0.001, 1), min_size=7, max_size=7))
def test_no_other_shares_do_better_in_the_worst_case(gains: np.ndarray, wrong: int, other: list[float]) -> None:
    shares = shares_of(gains, wrong)
    if wrong >= len(gains):
        assert not shares.any()
        return
    assert shares.sum() == pytest.approx(1)
    value = worst(shares, gains, wrong)
    rivals = [np.array(other[: len(gains)])]
    rivals += [np.where(np.arange(len(gains)) < k, 1 / gains, 0) for k in range(1, len(gains) + 1)]
    rivals += [shares + 0.01 * np.eye(len(gains))[place] for place in range(len(gains))]
    assert all(worst(rival / rival.sum(), gains, wrong) <= value + 1e-9 for rival in rivals)


def test_samples_are_drawn_with_their_shares_and_the_others_follow() -> None:
    margins = np.array([0.0, 0.5, 0.9, np.nan, 1.0])
    some = Candidates(score_S=margins, domain_S=np.zeros(5, np.int64), allowed_S=np.ones(5, np.bool_))
    shares = shares_of(np.array([1.0, 0.5, 0.1, 0.0]), 1)
    assert shares.tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0])  # of two (2 - 1) / 3, of three 2 / 13
    firsts = [int(robust(some, Amount(samples=1, seed=seed, wrong=0.25)).samples_M[0]) for seed in range(600)]
    assert np.bincount(firsts, minlength=5) / 600 == pytest.approx([1 / 3, 2 / 3, 0, 0, 0], abs=0.06)
    assert robust(some, Amount(samples=3, wrong=0.25)).samples_M.tolist() == [0, 1, 2]
    assert robust(some, Amount(samples=5, wrong=0.25)).samples_M.tolist() == [0, 1, 2, 4]  # never one without a score


def test_what_a_robust_choice_needs_is_asked_for(cache: logitstore.Cache, refused: Refused, tmp_path: Path) -> None:
    figures, out = tmp_path / "figures.jsonl", tmp_path / "out.arrow"
    lines = [json.dumps({"sample": place, "margin": place / len(cache), "high": 2}) for place in range(len(cache))]
    figures.write_text("\n".join(lines))
    common = ["select", cache.path, "--out", out, "--samples", 5]
    scored = [*common, "--figures", figures, "--method", "robust", "--score"]
    assert "needs --wrong, the share of answers that may be wrong" in refused(*scored, "figure:margin")
    assert "needs --wrong" in refused(*common, "--method", "robust", "--wrong", 0.1)
    assert "does not count with it" in refused(*common, "--method", "random", "--wrong", 0.1)
    assert "a score is not from 0 to 1" in refused(*scored, "figure:high", "--wrong", 0.1)
    plan = {
        "cache": cache.path,
        "method": "robust",
        "score": "figure:margin",
        "figures": figures,
        "samples": 5,
        "out": out,
    }
    found = select(SelectSettings(**plan, wrong=0.1, seed=3))
    assert len(found.selection.samples_M) == 5
    assert found.selection.info.arguments["wrong"] == 0.1
    figures.write_text("\n".join(json.dumps({"sample": place, "margin": 1}) for place in range(4)))
    with pytest.raises(BadInput, match="no sample teaches anything if so many answers are wrong"):
        select(SelectSettings(**plan | {"out": tmp_path / "b"}, wrong=0.5))
