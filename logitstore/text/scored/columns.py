"""Scores and groups of samples as Arrow columns, and the checksum of all of them.

Axes: S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from logitstore.core.types import Array
from logitstore.format.data import GROUP, SCORE, ScoresInfo
from logitstore.text.scored.said import NO_COLUMNS, Said

_NO_GROUP = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the data say of one sample.

    Attributes:
        scores: by name; a score that is not known is left out.
        group: the samples that have the same one belong together; None where it belongs to none.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    group: str | None = None


NOTHING = Told()


def said_of(info: ScoresInfo | None) -> Said:
    """Return the columns that a manifest names."""
    return NO_COLUMNS if info is None else Said(scores=info.columns, group=info.group)


def told(said: Said, batch: pa.RecordBatch, place: int) -> Told:
    """Return what the columns say in one place."""
    if not said:
        return NOTHING
    scores = {name: batch.column(SCORE + name)[place].as_py() for name in said.scores}
    group = None if said.group is None else batch.column(GROUP)[place].as_py()
    return Told(scores={name: value for name, value in scores.items() if value is not None}, group=group)


def arrays(said: Said, samples: Sequence[Told]) -> list[pa.Array]:
    """Return the columns of samples."""
    scores = [pa.array([each.scores.get(name) for each in samples], pa.float64()) for name in said.scores]
    return scores if said.group is None else [*scores, pa.array([each.group for each in samples], pa.string())]


def wrong(columns: Mapping[str, pa.Array]) -> Iterator[str]:
    """Say which columns hold what no data give."""
    for name, column in columns.items():
        if name != GROUP and not np.isfinite(numbers(column.drop_null())).all():
            yield f"the column {name} has a number that is not finite"


def numbers(column: pa.Array) -> Array:
    """Return float64[S]: a column of scores, NaN where there is none."""
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


class Checksum:
    """The checksum of the scores and groups of all samples, in order; docs/format.md says what it covers."""

    def __init__(self, digest: Any) -> None:
        """Begin with an empty xxh3-128."""
        self._digest, self._is_used = digest, False

    def add(self, pairs: pa.RecordBatch, owners_S: Array) -> None:
        """Add samples, whose pairs are given by their places in a batch."""
        fields = [name for name in pairs.schema.names if name.startswith(SCORE)]
        groups = pairs.column(GROUP).to_pylist() if GROUP in pairs.schema.names else None
        if not fields and groups is None:
            return
        self._is_used = True
        scores_SC = np.stack([numbers(pairs.column(name))[owners_S] for name in fields], 1) if fields else None
        if groups is None and scores_SC is not None:
            self._digest.update(_plain(scores_SC))
            return
        for place, owner in enumerate(owners_S.tolist()):
            if scores_SC is not None:
                self._digest.update(_plain(scores_SC[place]))
            name = None if groups is None or groups[owner] is None else groups[owner].encode()
            self._digest.update((_NO_GROUP if name is None else len(name)).to_bytes(4, "little") + (name or b""))

    @property
    def hex(self) -> str | None:
        """The checksum so far; None where the pairs have no such columns."""
        return str(self._digest.hexdigest()) if self._is_used else None


def _plain(scores: Array) -> bytes:
    """Return scores as little-endian float64; there is one NaN."""
    return np.where(np.isnan(scores), np.nan, scores).astype("<f8").tobytes()
