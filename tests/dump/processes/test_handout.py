"""Each part is given out once, again where a worker failed at it, and twice where it is late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logitstore.dump.processes.handout import Handout
from logitstore.dump.processes.messages import PartJob
from logitstore.dump.processes.workers import Rules

RULES = Rules(option="--cluster", noun="worker", tries=3, goes_on=True, late=3.0)
HERE = {"here"}


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def jobs_of(count: int) -> list[PartJob]:
    return [PartJob(part) for part in range(count)]


def test_parts_are_given_out_in_order_and_once() -> None:
    jobs = jobs_of(4)
    handout = Handout(jobs, RULES)
    taken = [handout.take("here", HERE) for _ in range(5)]
    assert taken == [*jobs, None]
    assert [handout.done(job) for job in jobs] == [True] * 4
    assert handout.is_over
    assert not handout.failed


def test_a_part_is_tried_three_times_and_then_set_aside() -> None:
    (job,) = jobs_of(1)
    handout = Handout([job], RULES)
    for expected in ("waits", "waits", "failed"):
        assert not handout.is_over
        assert handout.take("here", HERE) == job
        assert handout.lost(job, "here", "its disk is full") == expected
    assert handout.is_over
    assert handout.failed == {job: "its disk is full"}


def test_a_part_that_failed_goes_to_another_machine_where_there_is_one() -> None:
    first, second = jobs_of(2)
    handout = Handout([first, second], RULES)
    assert handout.take("one", {"one", "two"}) == first
    handout.lost(first, "one", "")
    assert handout.take("one", {"one", "two"}) == second
    assert handout.take("one", {"one", "two"}) is None
    assert handout.take("two", {"one", "two"}) == first
    handout.lost(first, "two", "")
    # it has failed on both
    assert handout.take("one", {"one", "two"}) == first


def test_a_part_whose_other_machine_is_gone_is_tried_where_it_failed() -> None:
    (job,) = jobs_of(1)
    handout = Handout([job], RULES)
    handout.take("one", {"one", "two"})
    handout.lost(job, "one", "")
    assert handout.take("one", {"one", "two"}) is None
    assert handout.take("one", {"one"}) == job


def test_a_late_part_is_given_to_a_second_worker_once_nothing_else_is_left() -> None:
    jobs, clock = jobs_of(4), Clock()
    handout = Handout(jobs, RULES, clock)
    late = handout.take("here", HERE)
    assert late == jobs[0]
    for job in jobs[1:]:
        assert handout.take("here", HERE) == job
        clock.now += 10
        assert handout.done(job)
    # 30 seconds are three times the median, and not more
    assert handout.take("here", HERE) is None
    clock.now += 1
    assert handout.take("here", HERE) == late
    # two have it, and a third is not asked
    clock.now += 1000
    assert handout.take("here", HERE) is None
    assert handout.done(jobs[0])
    assert handout.is_over
    assert not handout.done(jobs[0])


def test_the_loss_of_one_of_two_that_write_a_part_changes_nothing() -> None:
    jobs, clock = jobs_of(3), Clock()
    handout = Handout(jobs, RULES, clock)
    for _ in jobs:
        handout.take("here", HERE)
    clock.now = 1
    handout.done(jobs[1])
    handout.done(jobs[2])
    clock.now = 10
    assert handout.take("here", HERE) == jobs[0]
    assert handout.lost(jobs[0], "here", "") == "is written by another"
    # that one is alone with it again, and late still
    assert handout.take("here", HERE) == jobs[0]
    assert handout.done(jobs[0])
    assert handout.lost(jobs[0], "here", "") == "is written by another"
    assert handout.is_over


def test_without_a_rule_nothing_is_late() -> None:
    jobs, clock = jobs_of(3), Clock()
    handout = Handout(jobs, Rules(option="--processes", tries=2, goes_on=False), clock)
    for _ in jobs:
        handout.take("here", HERE)
    handout.done(jobs[1])
    handout.done(jobs[2])
    clock.now = 1e9
    assert handout.take("here", HERE) is None


def test_parts_that_fail_one_after_the_other_are_futile_unless_one_is_written() -> None:
    for is_one_written in (False, True):
        jobs = jobs_of(4)
        handout = Handout(jobs, Rules(option="--cluster", tries=1, goes_on=True))
        if is_one_written:
            handout.take("here", HERE)
            handout.done(jobs[0])
        for job in jobs[is_one_written : 3 + is_one_written]:
            assert not handout.is_futile
            assert handout.take("here", HERE) == job
            handout.lost(job, "here", "")
        assert handout.is_futile is not is_one_written


@given(st.data(), st.integers(1, 12), st.integers(1, 5), st.integers(1, 3))
def test_whatever_happens_every_part_ends_written_or_set_aside(
    data: st.DataObject, parts: int, workers: int, machines: int
) -> None:
    """Workers come and go at any moment; a part is never with more than two of them, and never given up before three failed."""
    clock = Clock()
    handout = Handout(jobs_of(parts), RULES, clock)
    places = [f"machine {number % machines}" for number in range(workers)]
    busy: list[PartJob | None] = [None] * workers
    written: set[PartJob] = set()
    failures: dict[PartJob, int] = {}
    for _ in range(500):
        if handout.is_over:
            break
        for number, place in enumerate(places):
            busy[number] = busy[number] or handout.take(place, set(places))
        in_work = [job for job in busy if job is not None]
        assert in_work, "nobody has anything to do, and parts are left"
        assert all(in_work.count(job) <= 2 for job in in_work)
        clock.now += data.draw(st.floats(0.1, 100))
        number = data.draw(st.sampled_from([number for number, job in enumerate(busy) if job is not None]))
        job, busy[number] = busy[number], None
        assert job is not None
        if data.draw(st.booleans()):
            assert handout.done(job) is (job not in written and job not in handout.failed)
            written |= {job} - handout.failed.keys()
        else:
            failures[job] = failures.get(job, 0) + (job not in written and job not in handout.failed)
            handout.lost(job, places[number], "")
    assert handout.is_over
    assert written | handout.failed.keys() == set(jobs_of(parts))
    assert not written & handout.failed.keys()
    assert all(failures[job] >= 3 for job in handout.failed)
