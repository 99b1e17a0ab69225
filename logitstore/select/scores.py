"""Read scores from a cache: one number a sample, from its columns or as a mean over its rows.

Axes: S samples (of a part: s), N rows, K slots.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.format.codecs.answer import RowCodec
from logitstore.settings.look import COLUMN, FIGURE
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.rows import check_values
from logitstore.store.index.figures import read_figure
from logitstore.store.index.scored import column_scores
from logitstore.store.part import Part


def scores_of(cache: Cache, name: str, figures: Path | None = None) -> Array:
    """Return float64[S]: a score of every sample.

    nll: mean negative logprob of the gold tokens, nats per row. entropy: mean entropy of the teacher, nats per row.
    confidence: mean probability of the teacher's most probable token. rows, tokens: counts. column:NAME: what the data say;
    NaN where they say nothing. figure:NAME: what a file of figures says; NaN where it says nothing.

    Args:
        cache: to read.
        name: of the score.
        figures: the file of figures, for a score of them.

    Raises:
        BadInput: this cache does not keep what the score needs, or the file is none of figures.
        CacheMismatch: the file is about other samples.
        CacheDamaged: a value is one that no teacher gives.
    """
    if name.startswith(COLUMN):
        return column_scores(cache, name.removeprefix(COLUMN), f"--score {name}")
    if name.startswith(FIGURE) and figures is not None:
        return read_figure(figures, cache, name.removeprefix(FIGURE))
    if name == "nll":
        return cache.nll().astype(np.float64)
    if name == "rows":
        return cache.row_counts().astype(np.float64)
    if name == "tokens":
        return cache.lengths().astype(np.float64)
    cache.check_targets(f"--score {name}")
    if not cache.manifest.sparsifier.kind.is_distribution:
        raise BadInput(
            f"--score {name}: {cache.path} keeps one number of each row, and no distributions. Use --score tokens or rows."
        )
    if name == "entropy":
        return _means(cache, "entropy", lambda part: part.fields["entropy"].astype(np.float64))
    info = cache.manifest.sparsifier
    if not info.k:
        raise BadInput(
            f"--score confidence: {cache.path} does not list its most probable tokens (sparsifier '{info.name}'). "
            "Use --score nll or entropy, or a cache that lists them."
        )
    codec = RowCodec(row=cache.manifest.row)
    return _means(cache, "logprobs", lambda part: _highest(part, codec))


def rounding(cache: Cache, name: str) -> float:
    """Return by how much the score of a row may differ from the teacher's, because the cache stores it in levels; else 0."""
    return RowCodec(row=cache.manifest.row).probability_error if name == "confidence" else 0.0


def _highest(part: Part, codec: RowCodec) -> Array:
    """Return float64[N]: the probability of the most probable token of each row. The k listed ones come before any drawn
    one."""
    logprobs_NK = codec.decode({"logprobs": part.fields["logprobs"]})["logprobs"]
    first_N = logprobs_NK.max(1) if "ids" not in part.fields else logprobs_NK[:, 0]
    return np.asarray(np.exp(first_N.astype(np.float64)))


def _means(cache: Cache, field: str, values: Callable[[Part], Array]) -> Array:
    """Return float64[S]: means over the rows of each sample, of values that follow from a stored field."""
    means = []
    for number in cache.part_numbers:
        part = cache.part(number)
        place = f"{part.folder / layout.ROWS_FOLDER}"
        check_values({field: part.fields[field]}, part.codec, lambda place=place: place)  # type: ignore[misc]
        sums_s = np.add.reduceat(values(part), part.samples.row_start_S)  # every sample has a row
        means.append(sums_s / part.samples.row_count_S)
    return np.concatenate(means) if means else np.zeros(0)
