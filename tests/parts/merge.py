"""Merges as most tests ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import logitstore
import logitstore.distributions
from logitstore.cache.verify import verify
from logitstore.merge import merge
from logitstore.plans import MergePlan
from tests.parts.files import traces

Caches = dict[str, logitstore.Cache]


def plan(caches: list[logitstore.Cache], out: Path, **changes: Any) -> MergePlan:
    return MergePlan(caches=[cache.path for cache in caches], mean_probabilities=True, out=out, **changes)


def merged(caches: list[logitstore.Cache], out: Path, **changes: Any) -> logitstore.Cache:
    made = merge(plan(caches, out, **changes))
    assert made.complete
    assert verify(out) == []
    assert traces(out) == []
    return made
