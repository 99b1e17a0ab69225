"""What the commit records of many parts say, as one array with an entry for each part.

Axes: P parts, F names of files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from logitstore.core.types import Array
from logitstore.format.part_record import FIDELITY_NAMES, HISTOGRAM_BINS, Fidelity, PartRecord, Sums

_TOTALS = tuple(name for name in Sums.model_fields if name != "entropy_histogram")

_OF_SUMS = [(name, "<f8" if field.annotation is float else "<i8") for name, field in Sums.model_fields.items()]

FACTS = np.dtype(
    [
        ("rows", "<i8"),
        ("tokens", "<i8"),
        *((name, kind) for name, kind in _OF_SUMS if name in _TOTALS),
        ("entropy_histogram", "<i8", (HISTOGRAM_BINS,)),
        ("against_source", "u1"),
        ("compared", "<i8"),
        ("unbounded", "<i8"),
        ("fidelity", "<f8", (len(FIDELITY_NAMES), 2)),
        ("nll_is_wrong", "u1"),
    ]
)
"""What is kept of a part: counts, sums, fidelity, and 1 where an nll of its samples is one that no teacher gives."""

MOST_FILES = 1024
"""Most names of files whose sizes are kept; the parts of a cache have the same dozen, archives some more."""


def facts_of(record: PartRecord, *, nll_is_wrong: bool = False) -> tuple[object, ...]:
    """Return an entry of FACTS.

    Args:
        record: the commit record of a part.
        nll_is_wrong: whether an nll of its samples is one that no teacher gives.
    """
    sums, fidelity = record.sums, record.fidelity
    histogram = [*sums.entropy_histogram, *[0] * HISTOGRAM_BINS][:HISTOGRAM_BINS]
    figures = [fidelity.sums[name] for name in FIDELITY_NAMES] if fidelity.rows else np.zeros((len(FIDELITY_NAMES), 2))
    return (
        record.rows,
        record.tokens,
        *(getattr(sums, name) for name in _TOTALS),
        histogram,
        fidelity.against == "source",
        fidelity.rows,
        fidelity.unbounded,
        figures,
        nll_is_wrong,
    )


def sizes_of(parts: Sequence[dict[str, int]], names: list[str]) -> Array:
    """Return int64[P, F]: the bytes of every file of some parts, -1 for one that a part does not have.

    Args:
        parts: bytes of the files of each part, by name.
        names: names of files, F of them afterwards; those that are new are added.
    """
    places = {name: place for place, name in enumerate(names)}
    for name in dict.fromkeys(name for sizes in parts for name in sizes):
        if name not in places and len(names) <= MOST_FILES:
            places[name] = len(names)
            names.append(name)
    sizes_PF = np.full((len(parts), len(names)), -1, np.int64)
    for sizes_F, sizes in zip(sizes_PF, parts, strict=True):
        for name, size in sizes.items():
            if name in places:
                sizes_F[places[name]] = size
    return sizes_PF


def added_sums(facts_P: Array) -> Sums:
    """Return the sums over some parts."""
    if not len(facts_P):
        return Sums()
    totals = {name: _total(facts_P[name]).item() for name in _TOTALS}
    return Sums(**totals, entropy_histogram=facts_P["entropy_histogram"].sum(0).tolist())


def added_fidelity(facts_P: Array) -> Fidelity:
    """Return the fidelity of some parts together.

    All parts of a cache are compared with the same thing, a teacher or a source, so the sums can be added.
    """
    measured = facts_P[facts_P["compared"] > 0]
    if not len(measured):
        return Fidelity()
    sums = _total(measured["fidelity"])
    return Fidelity(
        against="source" if measured["against_source"][0] else "teacher",
        rows=int(measured["compared"].sum()),
        unbounded=int(measured["unbounded"].sum()),
        sums={name: (float(a), float(b)) for name, (a, b) in zip(FIDELITY_NAMES, sums, strict=True)},
    )


def _total(values_P: Array) -> Array:
    """Return the sum, part after part: the last bits do not depend on how NumPy sums."""
    return np.asarray(np.add.accumulate(values_P)[-1])
