"""Windows of documents."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from logitstore.text.sample import cut


@given(length=st.integers(0, 400), max_length=st.integers(2, 60), data=st.data())
def test_windows_cover_every_position_once_with_the_most_context(
    length: int, max_length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(1, max_length - 1))
    windows = cut(length, max_length, overlap)
    rows = [position for window in windows for position in range(window.first, window.stop - 1)]
    assert rows == list(range(max(length - 1, 0)))
    for window in windows:
        assert window.stop - window.start <= max_length
        for position in range(window.first, window.stop - 1):
            others = [w for w in windows if w.start <= position < w.stop - 1]
            assert window.start == min(other.start for other in others)


@given(length=st.integers(2, 400), max_length=st.integers(2, 60))
def test_without_overlap_only_the_last_position_of_a_window_has_no_row(length: int, max_length: int) -> None:
    windows = cut(length, max_length, 0)
    rows = [position for window in windows for position in range(window.first, window.stop - 1)]
    missing = {window.stop - 1 for window in windows}
    assert rows == [position for position in range(length) if position not in missing]
