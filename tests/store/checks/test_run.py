"""A share of the parts is spread over all of them, and repeats."""

from __future__ import annotations

from pathlib import Path

import pytest

from logitstore.store.checks.run import Extent
from logitstore.store.checks.verify import verified
from tests.parts.tasks import named


@pytest.mark.parametrize(
    ("parts", "share", "count"), [(200, 0.1, 20), (203, 0.1, 20), (7, 0.5, 4), (3, 0.01, 1), (5, 1.0, 5)]
)
def test_a_share_takes_one_part_of_each_group_of_neighbours(parts: int, share: float, count: int) -> None:
    numbers = list(range(10, 10 + 2 * parts, 2))
    chosen = Extent(share=share, seed=4).of(numbers)
    assert len(chosen) == count
    bounds = [number * parts // count for number in range(count + 1)]
    assert all(
        numbers[first] <= part <= numbers[last - 1]
        for part, first, last in zip(chosen, bounds, bounds[1:], strict=False)
    )
    assert chosen == Extent(share=share, seed=4).of(numbers)
    assert Extent(share=share).of([]) == []


def test_other_seeds_take_other_parts_until_all_were_taken() -> None:
    taken = {part for seed in range(60) for part in Extent(share=0.1, seed=seed).of(list(range(100)))}
    assert taken == set(range(100))


def test_parts_of_a_share_are_checked_whole_with_those_of_the_taps_and_no_others(tapped_copy: Path) -> None:
    parts = len(list((tapped_copy / "parts").iterdir()))
    tap = sorted((tapped_copy / "taps").iterdir())[0].name
    share = Extent(share=1 / parts)
    (chosen,) = share.of(list(range(parts)))
    broken = {number: tapped_copy / f"taps/{tap}/parts/{number:05d}/rows.zarr/values/c/0/0" for number in range(parts)}
    for path in broken.values():
        path.write_bytes(b"")
    found = verified(tapped_copy, share)
    assert {(problem.tap, problem.part) for problem in found.problems} == {(tap, chosen)}
    assert (found.parts, found.of) == (1, parts)


def test_what_all_parts_share_is_checked_in_every_share(small_copy: Path) -> None:
    name = next(path for path in sorted((small_copy / "shared").iterdir()) if path.is_file())
    name.write_bytes(b"")
    found = verified(small_copy, Extent(share=0.3))
    assert (None, f"shared/{name.name}") in named(found.problems)
