"""Numbers of parts."""

from __future__ import annotations

import pytest

from logitstore.errors import BadInput
from logitstore.store.layout import parse_parts


def test_lists_of_parts_are_read_and_checked() -> None:
    assert parse_parts("0-2, 5,4-4", 6) == [0, 1, 2, 4, 5]
    for text in ("", "a", "3-1", "6", "0-6", "1,,2", "-1"):
        with pytest.raises(BadInput):
            parse_parts(text, 6)
