"""What is gathered in one pass over a cache and kept beside its parts: means and directions of a tap, perplexity by domain.

A sidecar follows from the cache alone, so it can be thrown away and made again. Its name carries the identity of what it was
made from; one of another tap or plan is never found.

Axes: N rows, D channels, V vocabulary, R directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from logitstore.cache import layout
from logitstore.cache.reader import Cache
from logitstore.errors import BadInput, StorageError, storage_errors
from logitstore.loader import Loader
from logitstore.types import Progress, Step, no_progress

FOLDER = "sidecars"
DIRECTIONS = 64
"""Principal directions that are kept."""

Tensors = dict[str, Tensor]


def means(cache: Cache, tap: str, progress: Progress = no_progress) -> Tensors:
    """Of a tap: `mean` and `std` of each channel, float32[D]; `by_gold` float16[V, D], the mean over the rows before each
    token, NaN where there is none; `count` int64[V]."""
    vocabulary, width = cache.manifest.teacher.vocabulary, _width(cache, tap)
    by_gold_VD = torch.zeros(vocabulary, width)
    count_V = torch.zeros(vocabulary, dtype=torch.int64)
    squares_D = torch.zeros(width, dtype=torch.float64)
    for rows_ND, gold_N in _passes(cache, tap, progress):
        by_gold_VD.index_add_(0, gold_N, rows_ND)
        count_V += torch.bincount(gold_N, minlength=vocabulary)
        squares_D += rows_ND.double().square().sum(0)
    rows = int(count_V.sum())
    mean_D = by_gold_VD.double().sum(0) / rows
    return {
        "mean": mean_D.float(),
        "std": (squares_D / rows - mean_D.square()).clamp(min=0).sqrt().float(),
        "by_gold": (by_gold_VD / count_V[:, None]).half(),
        "count": count_V,
    }


def directions(cache: Cache, tap: str, progress: Progress = no_progress) -> Tensors:
    """Of a tap: `mean` float32[D], `basis` float32[R, D], the directions of most variance, and `variance` float32[R]."""
    width = _width(cache, tap)
    total_D, products_DD, rows = (
        torch.zeros(width, dtype=torch.float64),
        torch.zeros(width, width, dtype=torch.float64),
        0,
    )
    for rows_ND, _ in _passes(cache, tap, progress):
        wide_ND = rows_ND.double()
        total_D += wide_ND.sum(0)
        products_DD += wide_ND.T @ wide_ND
        rows += len(wide_ND)
    mean_D = total_D / rows
    values_D, vectors_DD = torch.linalg.eigh(products_DD / rows - mean_D.outer(mean_D))
    kept = slice(-min(DIRECTIONS, width), None)
    return {
        "mean": mean_D.float(),
        "basis": vectors_DD[:, kept].T.flip(0).float().contiguous(),
        "variance": values_D[kept].flip(0).clamp(min=0).float(),
    }


def perplexity(cache: Cache) -> dict[str, tuple[int, float]]:
    """Rows and the teacher's perplexity on the gold tokens, of every domain; '' for samples without one."""
    rows: dict[str, int] = {}
    nats: dict[str, float] = {}
    for domain, count, nll in zip(cache.domains(), cache.row_counts().tolist(), cache.nll().tolist(), strict=True):
        rows[domain or ""] = rows.get(domain or "", 0) + count
        nats[domain or ""] = nats.get(domain or "", 0.0) + count * nll
    return {domain: (rows[domain], math.exp(min(nats[domain] / max(rows[domain], 1), 700))) for domain in sorted(rows)}


OF_TAPS: dict[str, Callable[[Cache, str, Progress], Tensors]] = {"means": means, "pca": directions}
"""Sidecars of a tap, by name."""


def sidecar(cache: Cache, what: str, tap: str, progress: Progress = no_progress) -> Tensors:
    """A sidecar of a tap: read if it was made before, else made, and kept where the cache can be written.

    Raises:
        BadInput: no such tap, or not whole.
    """
    path = path_of(cache, what, tap)
    if path.is_file():
        with suppress(OSError, safetensors.SafetensorError):
            found: Tensors = safetensors.torch.load_file(path)
            return found
    made = OF_TAPS[what](cache, tap, progress)
    with suppress(StorageError), storage_errors(path.parent):
        layout.write_whole(path, safetensors.torch.save(made))
    return made


def path_of(cache: Cache, what: str, tap: str) -> Path:
    """Where a sidecar of a tap is kept."""
    parts = len(cache.part_numbers)
    return cache.path / FOLDER / f"{what}-{tap}-{cache.taps[tap].plan.identity}-{parts}.safetensors"


def _width(cache: Cache, tap: str) -> int:
    if not cache.rows:
        raise BadInput(f"{cache.path}: it has no rows yet.")
    return cache.taps[tap].info.width


def _passes(cache: Cache, tap: str, progress: Progress) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of a tap and their gold tokens, batch by batch."""
    loader = Loader(cache, batch_size=64, shuffle=False, taps=[tap])
    for number in range(len(loader)):
        batch = loader.at(0, number)
        yield loader.features(batch)[tap], batch.gold
        progress(Step(stage="gather", done=number + 1, total=len(loader)))
