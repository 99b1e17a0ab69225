"""Which cases of a test run each time, and which in the exhaustive run alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def often(cases: Iterable[Any], is_often: Callable[[Any], bool]) -> list[Any]:
    """Return the cases of a parametrised test; `make test-all` alone runs those that `is_often` does not take."""
    return [case if is_often(case) else rarely(*(case if isinstance(case, tuple) else (case,))) for case in cases]


def rarely(*case: Any) -> Any:
    """Return a case that `make test-all` alone runs."""
    return pytest.param(*case, marks=pytest.mark.exhaustive)
