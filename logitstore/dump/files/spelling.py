"""How the values of a column are kept where a file does not give them types: as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Spell = Callable[[Any], str | None]
"""Gives the text of a value that is not None.

Raises ValueError: the column cannot hold the value. The message ends the sentence "column 'x' holds the value ...".
"""


def as_json(value: Any) -> str:
    """Return a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_text(value: Any) -> str:
    """Return a value as Python writes it."""
    return str(value)
