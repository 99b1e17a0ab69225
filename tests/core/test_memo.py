"""The last things that were made are kept, and each is made once however many threads ask."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from logitstore.core.memo import Budget, Memo


def test_the_last_used_are_kept() -> None:
    kept, made = Memo[int, str](Budget(2)), list[int]()

    def get(key: int) -> str:
        return kept.get(key, lambda: made.append(key) or f"made {key}")

    assert [get(key) for key in (1, 2, 1, 3, 1, 2)] == ["made 1", "made 2", "made 1", "made 3", "made 1", "made 2"]
    assert made == [1, 2, 3, 2]


def test_threads_that_want_the_same_wait_for_the_first_and_others_do_not() -> None:
    kept, made = Memo[str, int](Budget(4)), list[str]()
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> int:
        made.append("slow")
        begun.set()
        assert go_on.wait(60)
        return 1

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(kept.get, "slow", slowly)
        assert begun.wait(60)
        second = pool.submit(kept.get, "slow", slowly)
        assert pool.submit(kept.get, "quick", lambda: 2).result(60) == 2
        go_on.set()
        assert (first.result(60), second.result(60), made) == (1, 1, ["slow"])


def test_an_error_is_told_and_the_next_one_tries_again() -> None:
    kept = Memo[int, int](Budget(2))
    with pytest.raises(ZeroDivisionError):
        kept.get(1, lambda: 1 // 0)
    assert kept.get(1, lambda: 5) == 5


def test_the_oldest_value_is_shed_but_none_that_is_being_made() -> None:
    budget = Budget(9)
    kept, shed = Memo[int, int](budget), list[bool]()

    def make() -> int:
        shed.extend(budget.shed(keep=keep) for keep in (2, 1, 1, 0))
        return 3

    assert [kept.get(1, lambda: 1), kept.get(2, lambda: 2), kept.get(3, make)] == [1, 2, 3]
    assert shed == [True, True, False, False]
    assert [kept.get(key, lambda: 0) for key in (3, 2, 1)] == [3, 0, 0]
    assert [budget.shed(keep=0) for _ in range(4)] == [True, True, True, False]
