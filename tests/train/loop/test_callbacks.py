"""The watch over held-out cross-entropy and KL."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from logitstore.train.loop.callbacks import parting


def log_of(cross_entropies: list[float], kls: list[float]) -> list[dict[str, Any]]:
    judged = [
        {"step": 10 * place, "eval_cross_entropy": cross, "eval_kl": kl}
        for place, (cross, kl) in enumerate(zip(cross_entropies, kls, strict=True), 1)
    ]
    return [entry for each in judged for entry in ({"step": each["step"], "loss": 1.0}, each)]


def test_gold_tokens_that_get_worse_while_the_teacher_gets_nearer_are_announced() -> None:
    found = parting(log_of([5.0, 4.5, 4.6, 4.7], [3.0, 2.5, 2.4, 2.3]))
    assert found is not None
    assert found[0] == "eval_cross_entropy"
    assert "since step 20" in found[1]
    assert "4.500 to 4.700" in found[1]
    assert "2.500 to 2.300" in found[1]


def test_a_teacher_that_gets_farther_while_the_text_gets_nearer_is_announced() -> None:
    found = parting(log_of([5.0, 4.5, 4.4, 4.3], [3.0, 2.5, 2.6, 2.7]))
    assert found is not None
    assert found[0] == "eval_kl"


def test_a_single_rise_may_be_chance() -> None:
    assert parting(log_of([5.0, 4.5, 4.6], [3.0, 2.5, 2.4])) is None


def test_where_both_turn_it_is_no_hacking() -> None:
    assert parting(log_of([5.0, 4.5, 4.6, 4.7], [3.0, 2.5, 2.6, 2.7])) is None


@given(st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), max_size=9))
def test_what_only_falls_is_never_announced(pairs: list[tuple[float, float]]) -> None:
    crosses, kls = (sorted((pair[side] for pair in pairs), reverse=True) for side in (0, 1))
    assert parting(log_of(crosses, kls)) is None
