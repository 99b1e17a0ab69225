"""Columns of an index: one value for every sample of a cache, in the smallest type that holds them.

Axes: S samples (of a part: s), M runs of parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from logitstore.core.types import Array
from logitstore.store.samples import PartSamples

SAMPLE_COLUMNS = ("lengths", "row_counts", "documents", "domains", "nll")
"""Of every sample: count of tokens, count of rows, document, number of its domain (from 1; 0 for none), and nll."""

_SIZES = [np.dtype(kind) for kind in ("u1", "<u2", "<u4")]


def narrowed(values: Array) -> Array:
    """Return whole numbers in the smallest type that holds them: unsigned up to 32 bits, else int64."""
    if values.dtype.kind == "f" or not len(values):
        return values
    least, most = int(values.min()), int(values.max())
    fitting = [kind for kind in _SIZES if least >= 0 and most <= np.iinfo(kind).max]
    return values.astype(fitting[0] if fitting else np.dtype("<i8"), copy=False)


def columns_of(samples: PartSamples) -> tuple[dict[str, Array], list[str]]:
    """Return the columns of the samples of one part, and the names of the domains that are numbered there, from 1."""
    domains_s, names = _numbered(samples.domain_column())
    columns = {
        "lengths": narrowed(samples.lengths_S),
        "row_counts": narrowed(samples.row_count_S),
        "documents": narrowed(samples.document_S),
        "domains": domains_s,
        "nll": samples.nll_S.astype(np.float32),
    }
    return columns, names


def _numbered(domains: pa.Array) -> tuple[Array, list[str]]:
    if domains.null_count == len(domains):
        return np.zeros(len(domains), np.uint8), []
    encoded = domains.dictionary_encode()
    return narrowed(encoded.indices.fill_null(-1).to_numpy() + 1), encoded.dictionary.to_pylist()


def renumbered(domains_s: Array, names: list[str], all_names: dict[str, int]) -> Array:
    """Return the numbers of domains among all names, to which those that are new are added."""
    if not names:
        return domains_s
    numbers = [0, *(all_names.setdefault(name, len(all_names) + 1) for name in names)]
    return narrowed(np.array(numbers, np.int64)[domains_s])


def joined(pieces: Sequence[Array]) -> Array:
    """Return columns one after the other; where all values are the same, one value that is repeated."""
    whole = narrowed(np.concatenate(pieces)) if pieces else np.zeros(0, np.uint8)
    return repeated(whole[:1], len(whole)) if is_constant(whole) else whole


def is_constant(values: Array) -> bool:
    """Return True if all values are the same whole number."""
    return len(values) > 0 and values.dtype.kind != "f" and bool((values == values[0]).all())


def repeated(one: Array, count: int) -> Array:
    """Return one value as often as wanted, in the memory of one."""
    return np.broadcast_to(one, (count,))


def is_repeated(values: Array) -> bool:
    """Return True for several values that lie in the memory of one."""
    return len(values) > 1 and values.strides == (0,)


def packed_names(names: dict[str, int]) -> dict[str, Array]:
    """Return the names of domains as two columns: their UTF-8 one after the other, and where each ends."""
    encoded = [name.encode() for name in names]
    return {
        "domain_text": np.frombuffer(b"".join(encoded), np.uint8),
        "domain_ends": np.cumsum([len(each) for each in encoded], dtype=np.int64),
    }


def unpacked_names(text: Array, ends: Array) -> dict[str, int]:
    """Return the number of each domain. Raises ValueError: the columns hold no such names."""
    if (np.diff(ends, prepend=0) < 0).any() or (len(ends) and ends[-1] != len(text)):
        raise ValueError("the ends of the names do not rise")
    raw, starts = text.tobytes(), [0, *ends.tolist()]
    names = {
        raw[start:stop].decode(): number for number, (start, stop) in enumerate(zip(starts, ends, strict=False), 1)
    }
    if len(names) != len(ends):
        raise ValueError("a name stands there twice")
    return names


def in_order(names: list[str | None], codes_S: Array) -> tuple[list[str | None], Array]:
    """Number names by where they come first; return those that come, in that order, and which of them each sample has.

    Args:
        names: D names.
        codes_S: numbers of names, below D.
    """
    first_D = np.full(len(names), len(codes_S), np.int64)
    for start in range(max(len(codes_S) - 1, 0) // _BLOCK * _BLOCK, -1, -_BLOCK):
        block = codes_S[start : start + _BLOCK]
        # of several places for one number the last that is written stays, so they are written backwards
        first_D[block[::-1]] = np.arange(start + len(block) - 1, start - 1, -1)
    order = np.argsort(first_D, kind="stable")[: int((first_D < len(codes_S)).sum())]
    ranks_D = np.zeros(len(names), codes_S.dtype)
    ranks_D[order] = np.arange(len(order))
    return [names[place] for place in order.tolist()], ranks_D[codes_S]


_BLOCK = 1 << 20
