"""Numbers of parts."""

from __future__ import annotations

import pytest

from logitstore.errors import BadInput, NoShare
from logitstore.store.layout import parse_parts, parse_share


def test_lists_of_parts_are_read_and_checked() -> None:
    assert parse_parts("0-2, 5,4-4", 6) == [0, 1, 2, 4, 5]
    for text in ("", "a", "3-1", "6", "0-6", "1,,2", "-1"):
        with pytest.raises(BadInput):
            parse_parts(text, 6)


def test_the_shares_of_the_last_jobs_of_an_array_end_at_the_last_part() -> None:
    assert parse_share(None, 3) == ([0, 1, 2], False)
    assert parse_share("0-2,4", 6) == ([0, 1, 2, 4], False)
    assert parse_share("3-5,9-12", 5) == ([3, 4], True)
    with pytest.raises(
        NoShare, match=r"^--parts '6-8': this cache has parts 0 to 4, so nothing is left for this job\.$"
    ):
        parse_share("6-8", 5)
    for text in ("", "a", "3-1", "5", "0-2,7", "1,,2", "-1"):
        with pytest.raises(BadInput) as refused:
            parse_share(text, 5)
        assert not isinstance(refused.value, NoShare)
