"""Which batches a step takes is the same on any number of ranks, and one number says where a run stands."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from logitstore.train.ranks.schedule import Schedule


def schedules(batches: int, step: int) -> list[Schedule]:
    """All ways to share steps of so many batches."""
    return [
        Schedule(batch_size=1, batches=batches, accumulate=step // world, world_size=world)
        for world in range(1, step + 1)
        if step % world == 0
    ]


def taken(schedule: Schedule, step: int) -> set[int]:
    """The batches that the ranks of a Trainer take in a step of the first epoch, as the loader numbers them."""
    own = range(step * schedule.accumulate, (step + 1) * schedule.accumulate)
    numbers = {each * schedule.world_size + rank for each in own for rank in range(schedule.world_size)}
    return {number for number in numbers if number < schedule.batches}


@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 60))
def test_a_step_takes_the_same_batches_on_any_number_of_ranks(batches: int, step_batches: int, step: int) -> None:
    first, *others = schedules(batches, step_batches)
    per_epoch = -(-batches // step_batches)
    for other in others:
        assert taken(other, step) == taken(first, step)
        assert other.given(step) == first.given(step)
        assert math.ceil(math.ceil(batches / other.world_size) / other.accumulate) == per_epoch
    if step < per_epoch:
        assert first.given(step + 1) - first.given(step) == len(taken(first, step))
    assert first.given(step + per_epoch) == first.given(step) + batches
