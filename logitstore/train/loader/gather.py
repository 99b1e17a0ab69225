"""Rows gathered out of mapped files, each copied once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from logitstore.core.types import Array
from logitstore.errors import CacheMismatch
from logitstore.format.row import FieldInfo
from logitstore.store.cache import Cache
from logitstore.store.checks.rows import check_features, check_values
from logitstore.store.part import Part
from logitstore.store.taps import Tap

COUNTS = "counts"
"""Name, beside the fields of a tap with a vector for each place, of how many places each sample has."""


def gathered_features(
    taps: Sequence[Tap], located: list[tuple[Part, int]], spans: list[slice], rows: int
) -> dict[str, Tensor]:
    """What is stored of some taps about the same rows. Of a tap with a vector for each place of a sample all its places are
    given, and as `<tap>/counts` int64[M] how many each sample has.

    Raises:
        CacheDamaged: a value is not finite.
    """
    found = {}
    for tap in taps:
        stored = (tap.part(part.number) for part, _ in located)
        own, count = spans, rows
        if tap.info.places is not None:
            own = [part.places(number, tap.info.places) for part, number in located]
            counts_M = np.array([span.stop - span.start for span in own], np.int64)
            count = int(counts_M.sum())
            found[f"{tap.name}/{COUNTS}"] = torch.from_numpy(counts_M)
        values = gathered(tap.plan.fields, stored, own, count)
        check_features(values, tap.info.codec, partial(_place, str(tap.storage), located))
        for name, value in values.items():
            found[f"{tap.name}/{name}"] = torch.from_numpy(value)
    return found


def gathered_answers(cache: Cache, located: list[tuple[Part, int]], spans: list[slice], rows: int) -> dict[str, Tensor]:
    """Return the stored fields of the rows of some samples.

    Raises:
        CacheDamaged: a value is one that no teacher gives.
    """
    values = gathered(cache.manifest.fields, (part.fields for part, _ in located), spans, rows)
    check_values(
        values,
        located[0][0].codec,
        partial(_place, str(cache.path), located),
        (lambda: np.concatenate([part.samples.sample(number).gold_N for part, number in located]))
        if cache.manifest.knows_gold
        else None,
    )
    return {name: torch.from_numpy(value) for name, value in values.items()}


def answers_beside(cache: Cache, samples_M: Array, counts_M: Array) -> dict[str, Tensor]:
    """Return the stored fields of the rows of some samples, which another cache has under the same numbers.

    Args:
        cache: to read.
        samples_M: int64, numbers of the samples.
        counts_M: int64, how many rows each has in the other cache.

    Raises:
        CacheMismatch: a sample has another number of rows here.
        CacheDamaged: a value is one that no teacher gives.
    """
    located = located_samples(cache, samples_M)
    spans = [part.span(number) for part, number in located]
    own_M = np.array([span.stop - span.start for span in spans], np.int64)
    if not np.array_equal(own_M, counts_M):
        first = int(samples_M[np.flatnonzero(own_M != counts_M)[0]])
        raise CacheMismatch(f"{cache.path}: its sample {first} has other rows. Run `logitstore verify` on each cache.")
    return gathered_answers(cache, located, spans, int(own_M.sum()))


def features_beside(cache: Cache, taps: Sequence[Tap], samples_M: Array) -> dict[str, Tensor]:
    """Return what some taps of another cache store about samples that it has under the same numbers. Raises CacheDamaged."""
    located = located_samples(cache, samples_M)
    spans = [part.span(number) for part, number in located]
    return gathered_features(taps, located, spans, sum(span.stop - span.start for span in spans))


def _place(path: str, located: list[tuple[Part, int]]) -> str:
    return parts_text(path, {part.number for part, _ in located})


def parts_text(path: str, parts: Iterable[int]) -> str:
    """Return the place of some parts, for messages."""
    return f"{path}: among the rows of the parts {', '.join(f'{part:05d}' for part in sorted(parts))}"


def located_samples(cache: Cache, samples_M: Array) -> list[tuple[Part, int]]:
    """The parts that hold some samples, and the samples' numbers in them."""
    parts_M, numbers_M = cache.places(samples_M)
    return [(cache.part(part), number) for part, number in zip(parts_M.tolist(), numbers_M.tolist(), strict=True)]


def gathered(
    fields: Mapping[str, FieldInfo], stored: Iterable[dict[str, Array]], spans: list[slice], rows: int
) -> dict[str, Array]:
    """All fields of all rows, copied once, from the mapped files to where they stay. One part at a time is held."""
    values = {
        name: np.empty((rows, *info.shape), np.dtype(info.dtype).newbyteorder("<")) for name, info in fields.items()
    }
    start = 0
    for arrays, span in zip(stored, spans, strict=True):
        stop = start + span.stop - span.start
        for name, value in values.items():
            value[start:stop] = arrays[name][span]
        start = stop
    return values
