"""Merges as most tests ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import logitstore
import logitstore.convert.row_source
from logitstore.convert.merge import merge
from logitstore.settings.convert import MergeSettings
from logitstore.store.checks.verify import verify
from tests.parts.files import traces

Caches = dict[str, logitstore.Cache]


def plan(caches: list[logitstore.Cache], out: Path, **changes: Any) -> MergeSettings:
    return MergeSettings(caches=[cache.path for cache in caches], out=out, **changes)


def merged(caches: list[logitstore.Cache], out: Path, **changes: Any) -> logitstore.Cache:
    made = merge(plan(caches, out, **changes))
    assert made.complete
    assert verify(out) == []
    assert traces(out) == []
    return made
