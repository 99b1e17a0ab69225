"""The base of everything that is written to disk or read from a recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class NotKnownHere(ValueError):
    """A value of a sound record that only another package can read, and that package is not installed."""


class Record(BaseModel):
    """Frozen, and closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")
