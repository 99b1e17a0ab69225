"""The order of images and views in epochs, ranks and batches."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.image.pictures import pictures_of
from logitstore.image.view import Views
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.train.loader.subset import SampleSet
from logitstore.train.loader.views.order import ViewOrder, parse_views, view_order
from tests.parts.images import SIZE
from tests.parts.vision import viewed


def orders(cache: Cache, views: str | None, together: int, images: Array, seed: int = 3) -> ViewOrder:
    return view_order(cache, images, views, together, seed)


@pytest.mark.parametrize(
    ("views", "together", "expected"),
    [
        (None, 1, [[0], [1], [2], [3], [4], [5], [6], [0], [1]]),
        ("0-1", 1, [[0], [1], [0], [1]]),
        ("4", 1, [[4], [4], [4]]),
        ("5,2-3,6", 1, [[5], [2], [3], [6], [5]]),
        ("1,1,2", 1, [[1], [1], [2], [1]]),
        (None, 3, [[0, 1, 2], [3, 4, 5], [6, 0, 1], [2, 3, 4]]),
        ("2-4", 2, [[2, 3], [4, 2], [3, 4]]),
        ("3-4", 2, [[3, 4], [3, 4]]),
    ],
)
def test_every_epoch_has_all_images_once_in_its_views(
    many_views: Cache, views: str | None, together: int, expected: list[list[int]]
) -> None:
    images = np.array([0, 2, 3, 5, 7, 10])
    order = orders(many_views, views, together, images)
    assert order.epoch_samples == 6 * together
    sequences = []
    for epoch, of_epoch in enumerate(expected):
        samples = order(epoch, np.arange(order.epoch_samples))
        found = [viewed(many_views)[number] for number in samples.tolist()]
        steps = [found[first : first + together] for first in range(0, len(found), together)]
        assert all(len({view.image for view in step}) == 1 for step in steps)
        assert [[view.view for view in step] for step in steps] == [of_epoch] * 6
        sequences.append([step[0].image for step in steps])
        assert sorted(sequences[-1]) == images.tolist()
        # a pure function: any places, in any order
        assert np.array_equal(order(epoch, np.array([4, 0, 4])), samples[[4, 0, 4]])
    assert len({tuple(sequence) for sequence in sequences}) > 1
    places = np.arange(order.epoch_samples)
    other = orders(many_views, views, together, images, seed=4)
    assert [other(epoch, places).tolist() for epoch in range(3)] != [
        order(epoch, places).tolist() for epoch in range(3)
    ]


@pytest.mark.parametrize(
    ("views", "together", "window_parts", "windows"),
    [(None, 1, 1, 3), (None, 1, 2, 2), ("5,2-3", 1, 9, 1), (None, 3, 3, 3), (None, 3, 7, 2), ("1,1,2", 2, 2, 3)],
)
def test_windows_hold_parts_of_the_views_of_an_epoch(
    many_views: Cache, views: str | None, together: int, window_parts: int, windows: int
) -> None:
    images = SampleSet(np.arange(11) != 6)
    order = view_order(many_views, images, views, together, 3, window_parts)
    mixed = view_order(many_views, images, views, together, 3)
    places = np.arange(order.epoch_samples)
    assert order.windows is not None
    for epoch in range(4):
        samples = order(epoch, places)
        assert sorted(samples.tolist()) == sorted(mixed(epoch, places).tolist())
        steps = samples.reshape(-1, together)
        assert all(len({viewed(many_views)[number].image for number in step}) == 1 for step in steps.tolist())
        starts = order.windows.starts(epoch)
        assert len(starts) == windows + 1
        assert starts[-1] == len(places)
        for window in range(windows):
            read = many_views.places(samples[starts[window] : starts[window + 1]])[0].tolist()
            asked = order.windows.parts(epoch, window)
            assert len(asked) == len(set(asked)) <= window_parts
            assert set(asked) == set(read)
            assert asked[0] == read[0]
        loader = many_views.loader(
            order=order, windows=order.windows, epoch_samples=order.epoch_samples, with_images=False
        )
        assert [int(sample) for batch in loader for sample in batch.samples] == order(0, places).tolist()


def test_a_window_has_room_for_the_views_of_a_step(many_views: Cache) -> None:
    with pytest.raises(BadInput, match=r"--window-parts 2 with --views-per-step 3: an image's views lie in 3 parts\."):
        view_order(many_views, np.arange(11), None, 3, 3, 2)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("together", [1, 2])
def test_ranks_share_an_epoch_whatever_their_number(many_views: Cache, together: int, world: int) -> None:
    order = orders(many_views, None, together, np.arange(11))
    pictures = pictures_of(many_views)

    def steps(rank: int, world: int) -> Iterator[list[list[int]]]:
        options = {"epoch_samples": order.epoch_samples, "batch_size": 2 * together, "workers": 0}
        loader = many_views.loader(order=order, pictures=pictures, rank=rank, world_size=world, **options)
        for _ in range(3):
            yield [[int(number) for number in batch.samples if number >= 0] for batch in loader]

    alone = list(steps(0, 1))
    ranks = [list(steps(rank, world)) for rank in range(world)]
    for epoch in range(3):
        shares = [each[epoch] for each in ranks]
        assert len({len(share) for share in shares}) == 1
        assert [step for taken in zip(*shares, strict=True) for step in taken if step] == alone[epoch]
        assert Counter(chain.from_iterable(alone[epoch])).total() == order.epoch_samples
        assert {number // 11 for number in chain.from_iterable(alone[epoch])} == {
            (epoch * together + copy) % 7 for copy in range(together)
        }


def test_a_batch_that_only_fills_up_a_step_counts_nothing(many_views: Cache) -> None:
    loader = many_views.loader(batch_size=30, rank=1, world_size=2, shuffle=False)
    last = list(loader)[-1]
    assert last.pixel_values is not None
    assert last.pixel_values.shape[1:] == (3, SIZE, SIZE)
    assert not last.row_mask.any()
    assert (last.samples == -1).all()


def test_an_epoch_that_is_gone_on_with_gives_the_rest(many_views: Cache) -> None:
    order = orders(many_views, None, 2, np.arange(11))
    options = {"order": order, "epoch_samples": 22, "batch_size": 4}
    whole = [batch.samples.tolist() for loader in [many_views.loader(**options)] for _ in range(2) for batch in loader]
    first = many_views.loader(**options)
    begun = [batch.samples.tolist() for _, batch in zip(range(4), first, strict=False)]
    second = many_views.loader(**options)
    second.load_state_dict(first.state_dict())
    rest = [batch.samples.tolist() for _ in range(2) for batch in second]
    assert begun + rest == whole


def test_counting_the_rows_of_very_many_views_takes_no_memory() -> None:
    asked = Views([f"{number}.png" for number in range(1000)], np.zeros(1000, np.int64), 10**12)
    assert len(asked) == 10**15
    assert asked.rows_in(slice(10**14, 10**14 + 24)) == 24
    assert (asked[10**14].image, asked[10**14].view) == (0, 10**11)


def test_views_are_parsed_in_the_order_given() -> None:
    assert parse_views("7, 0-2,7") == [7, 0, 1, 2, 7]
    for wrong in ("", "a", "3-1", "-1", "1,", "1-", "1--2", "1.5", "1234567"):
        with pytest.raises(BadInput, match="write numbers and ranges, such as 0-4,7"):
            parse_views(wrong)


def test_only_whole_views_are_learned_from(many_views: Cache, tmp_path: Path) -> None:
    cache = Cache(shutil.copytree(many_views.path, tmp_path / "cache"))
    for part in (1, 5, 20):  # of three parts a view
        shutil.rmtree(layout.part_folder(cache.path, part))
    cache = Cache(cache.path)
    assert cache.whole_views == [2, 3, 4, 5]
    order = orders(cache, None, 1, np.arange(11))
    names = {cache[int(number)].sample.view for number in chain(*(order(epoch, np.arange(11)) for epoch in range(4)))}
    assert names == {2, 3, 4, 5}
    assert [cache[first].sample.view for first in order.firsts] == [2, 3, 4, 5]
    for views in ("0", "2-6"):
        with pytest.raises(BadInput, match=r"view [06] is not there, or not whole; it has views 2 to 5\."):
            orders(cache, views, 1, np.arange(11))
    with pytest.raises(BadInput, match=r"--views-per-step 5: there are 4 views to take\. Give at most that many\."):
        orders(cache, None, 5, np.arange(11))
