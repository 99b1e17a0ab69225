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
    """Return a text as it is, and any other value as JSON. Raises ValueError: see `Spell`."""
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise ValueError("which is nested too deep. Mend the line, or leave it out.") from error
    except TypeError as error:
        raise ValueError("with a number that has too many digits. Mend the line, or leave it out.") from error


def as_text(value: Any) -> str:
    """Return a value as Python writes it."""
    return str(value)
