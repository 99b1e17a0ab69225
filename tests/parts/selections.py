"""Training plans and selections as most tests ask for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import logitstore
from logitstore.select.select import select
from logitstore.settings.look import SelectSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.selection import Selection


def training(cache: logitstore.Cache, out: Path, student: Path, **changes: Any) -> TrainSettings:
    usual: dict[str, Any] = {
        "cache": cache.path,
        "student": str(student),
        "out": out,
        "learning_rate": 3e-3,
        "holdout": 0.2,
        "device": "cpu",
        "trainer": {"logging_steps": 1},
    }
    return TrainSettings(**usual | changes)


def selection_of(cache: logitstore.Cache, tmp_path: Path, **options: Any) -> tuple[Path, Selection]:
    out = tmp_path / "selection.arrow"
    return out, select(SelectSettings(cache=cache.path, out=out, **options)).selection
