"""Schedules of weights and temperatures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitstore.core.schedule import Schedule
from logitstore.errors import BadInput


@given(first=st.floats(0, 9), last=st.floats(0, 9), done=st.floats(0, 1), shape=st.sampled_from(["linear", "cosine"]))
def test_a_schedule_stays_between_its_ends_and_takes_both(first: float, last: float, done: float, shape: str) -> None:
    schedule = Schedule.of(f"{shape}({first:f}, {last:f})")
    low, high = schedule.span
    assert low - 1e-9 <= schedule.at(done) <= high + 1e-9
    assert schedule.at(0.0) == pytest.approx(schedule.first)
    assert schedule.at(1.0) == pytest.approx(schedule.second)


def test_a_warm_up_rises_from_nothing_and_stays() -> None:
    schedule = Schedule.of("warmup(2, 0.25)")
    assert [schedule.at(done) for done in (0.0, 0.125, 0.25, 1.0)] == [0.0, 1.0, 2.0, 2.0]
    assert schedule.span == (0.0, 2.0)
    assert Schedule.of("warmup(2, 0)").at(0.0) == 2.0


def test_numbers_are_constant_however_they_are_written() -> None:
    assert all(Schedule.of(said).at(0.7) == 0.5 for said in (0.5, "0.5", " .5 ", "5e-1"))


@pytest.mark.parametrize(
    "said", ["linear(1)", "cubic(1, 2)", "linear(1, 2", "fast", "", "warmup(1, 2)", "linear(a, b)"]
)
def test_what_is_no_schedule_is_refused(said: str) -> None:
    with pytest.raises(BadInput, match=r"schedule|share of the run"):
        Schedule.of(said)


@pytest.mark.parametrize("said", [math.nan, math.inf, -math.inf, "1e999", "linear(1, 1e999)"])
def test_what_is_not_finite_is_refused(said: float | str) -> None:
    with pytest.raises(BadInput, match="is not finite"):
        Schedule.of(said)
