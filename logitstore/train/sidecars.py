"""Gather figures in one pass over a cache and keep them beside its parts: means and directions of a tap, perplexity by
domain.

A sidecar follows from the cache alone, so it can be deleted and made again. Its name carries the identity of what it was
made from; a sidecar of another tap or plan is never read.

Axes: N rows, D channels, V vocabulary, R directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import safetensors.torch
import torch
import xxhash
from torch import Tensor

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.tasks import task_of
from logitstore.errors import BadInput, StorageError, storage_errors
from logitstore.models.moments import Moments
from logitstore.store.cache import Cache
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import Targets
from logitstore.train.loader.gather import COUNTS
from logitstore.train.loader.loader import Loader
from logitstore.train.task import train_task

FOLDER = "sidecars"


DIRECTIONS = 64
"""Number of principal directions that are kept."""


_HEADER = 1 << 16
"""Most bytes of the header of a sidecar, which no record seals: a larger file is none, and is not read."""


Tensors = dict[str, Tensor]


def means(cache: Cache, tap: str, progress: Progress = no_progress) -> Tensors:
    """Return statistics of a tap: `mean` and `std` of each channel, float32[D]; `by_gold` float16[V, D], the mean over the
    rows before each token, or about the views of each class, NaN where there is none; `count` int64[V]."""
    vocabulary, width = cache.manifest.teacher.vocabulary, _width(cache, tap)
    moments = Moments(width, has_products=False)
    # in float32, the sum of a frequent token would soon be too large for one more row to change it
    by_gold_VD = torch.zeros(vocabulary, width, dtype=torch.float64)
    count_V = torch.zeros(vocabulary, dtype=torch.int64)
    for rows_ND, gold_N in _passes(cache, tap, progress):
        moments.add(rows_ND)
        has_gold_N = gold_N >= 0
        by_gold_VD.index_add_(0, gold_N[has_gold_N], rows_ND[has_gold_N].double())
        count_V += torch.bincount(gold_N[has_gold_N], minlength=vocabulary)
    return {
        "mean": moments.mean_D.float(),
        "std": moments.deviation_D.float(),
        "by_gold": by_gold_VD.div_(count_V[:, None]).half(),
        "count": count_V,
    }


def directions(cache: Cache, tap: str, progress: Progress = no_progress) -> Tensors:
    """Return principal directions of a tap: `mean` float32[D], `basis` float32[R, D], the directions of most variance, and
    `variance` float32[R]."""
    moments = Moments(_width(cache, tap), has_products=True)
    for rows_ND, _ in _passes(cache, tap, progress):
        moments.add(rows_ND)
    basis_RD, variance_R = moments.directions(DIRECTIONS)
    return {
        "mean": moments.mean_D.float(),
        "basis": basis_RD.float().contiguous(),
        "variance": variance_R.float(),
    }


def subclasses(cache: Cache, tap: str, progress: Progress = no_progress) -> Tensors:
    """Return what divides the classes of a teacher into finer ones (LELP, Loo et al. 2024).

    The teacher's output layer is found from its answers, by least squares in float64. What of a tap has no part in the logits
    is then a row less its share along that layer, and its main directions are taken class by class, over the rows of which the
    teacher finds the class most probable.

    Returns:
        `weight` float32[V, D] and `bias` float32[V] give the centred logits; `basis` float32[R, D], R = V - 1, spans the rows
        of `weight`; `mean` float32[V, D], `directions` float32[V, S, D] and `variance` float32[V, S] are of the rest.

    Raises:
        BadInput: the cache does not list every class.
    """
    classes, width = cache.manifest.teacher.vocabulary, _width(cache, tap)
    listed = cache.manifest.row.sparsifier
    if (listed.k or classes) < classes or cache.manifest.row.tail.shape == "sketch":
        raise BadInput(
            f"{cache.path}: it does not list every one of its {classes} classes. Dump with --preset topk -k {classes}."
        )
    products, answers, rows = torch.zeros(width + 1, width + 1).double(), torch.zeros(width + 1, classes).double(), 0
    for rows_ND, _, logprobs_NV in _answered(cache, tap, progress):
        with_one = torch.nn.functional.pad(rows_ND.double(), (0, 1), value=1.0)
        products += with_one.T @ with_one
        answers += with_one.T @ (logprobs_NV - logprobs_NV.mean(-1, keepdim=True))
        rows += len(rows_ND)
    layer_DV = torch.linalg.pinv(products / rows, rtol=1e-12, hermitian=True) @ (answers / rows)
    weight_VD, bias_V = layer_DV[:-1].T, layer_DV[-1]
    basis_RD = torch.linalg.svd(weight_VD, full_matrices=False)[2][: classes - 1]
    found = [Moments(width, has_products=True) for _ in range(classes)]
    for rows_ND, _, logprobs_NV in _answered(cache, tap, progress):
        rest_ND = rows_ND.double() - rows_ND.double() @ basis_RD.T @ basis_RD
        for number, each in enumerate(found):
            each.add(rest_ND[logprobs_NV.argmax(-1) == number])
    count = subclasses_of(width, classes)
    seen = [each for each in found if each.rows]
    parts = [(each if each.rows else seen[0]) for each in found]
    directions, variances = zip(*(each.directions(count) for each in parts), strict=True)
    tensors = {
        "weight": weight_VD,
        "bias": bias_V,
        "basis": basis_RD,
        "mean": torch.stack([each.mean_D for each in parts]),
        "directions": torch.stack(directions),
        "variance": torch.stack(variances),
    }
    return {name: value.float().contiguous() for name, value in tensors.items()}


def subclasses_of(width: int, classes: int) -> int:
    """Return how many directions of a class are kept: what a tap has besides the logits, at most 16."""
    return max(min(16, width - classes + 1), 1)


def perplexity(cache: Cache) -> dict[str, tuple[int, float]]:
    """Return the number of rows, and the teacher's perplexity on the gold tokens, of every domain; '' stands for samples
    without a domain.

    Raises:
        BadInput: the cache has no tokens.
    """
    if cache.manifest.tokenizer is None:
        samples = task_of(cache.manifest.task).samples
        raise BadInput(
            f"--of perplexity: {cache.path} is a cache of {samples}, which have no gold tokens. Give --of means or --of pca."
        )
    names, code_S = cache.domain_codes()
    count_S = cache.column("row_counts")
    rows_D = np.bincount(code_S, count_S, minlength=len(names)).astype(np.int64)
    nats_D = np.bincount(code_S, count_S * cache.nll().astype(np.float64), minlength=len(names))
    found: dict[str, tuple[int, float]] = {}
    for name, rows, nats in zip(names, rows_D.tolist(), nats_D.tolist(), strict=True):
        before = found.get(name or "", (0, 0.0))
        found[name or ""] = before[0] + rows, before[1] + nats
    return {name: (rows, math.exp(min(nats / max(rows, 1), 700))) for name, (rows, nats) in sorted(found.items())}


OF_TAPS: dict[str, Callable[[Cache, str, Progress], Tensors]] = {
    "means": means,
    "pca": directions,
    "subclasses": subclasses,
}
"""The sidecars of a tap, by name."""


def sidecar(cache: Cache, what: str, tap: str, progress: Progress = no_progress) -> Tensors:
    """Return a sidecar of a tap. It is read if it was made before and has its checksum; else it is made, and kept where the
    cache can be written.

    Raises:
        BadInput: there is no such tap, or not all of it.
    """
    name, storage = name_of(cache, what, tap), cache.storage
    expected = sum(dtype.itemsize * math.prod(shape) for dtype, shape in _kinds_of(cache, what, tap).values())
    if expected <= (storage.size(name) or 0) <= expected + _HEADER:
        with suppress(OSError, safetensors.SafetensorError):
            raw = storage.read(name)
            stored: Tensors = safetensors.torch.load(raw)
            if _kinds(stored) == _kinds_of(cache, what, tap) and _saved(stored) == raw:
                return stored
    made = OF_TAPS[what](cache, tap, progress)
    with suppress(StorageError), storage_errors(storage):
        storage.put(name, _saved(made))
    return made


def gathered(cache: Cache, progress: Progress) -> dict[str, Callable[[], Any]]:
    """Return what objectives are given of a cache besides their options, by name; each is gathered when it is asked for."""
    return {
        "means_VD": lambda: sidecar(cache, "means", "final", progress)["by_gold"],
        "subclasses": lambda: sidecar(cache, "subclasses", "final", progress),
    }


def _saved(tensors: Tensors) -> bytes:
    """Return tensors as a file that has their checksum in its header; the same tensors give the same bytes."""
    checksum = xxhash.xxh3_128_hexdigest(safetensors.torch.save(tensors))
    return bytes(safetensors.torch.save(tensors, {"xxh3_128": checksum}))


def name_of(cache: Cache, what: str, tap: str) -> str:
    """Return the name, in the cache, of a sidecar of a tap; it has a hash of the numbers of the cache's parts."""
    parts = xxhash.xxh3_64_hexdigest(",".join(map(str, cache.part_numbers)).encode())
    return f"{FOLDER}/{what}-{tap}-{cache.taps[tap].plan.identity}-{parts}.safetensors"


def _kinds(tensors: Tensors) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {name: (value.dtype, tuple(value.shape)) for name, value in tensors.items()}


def _kinds_of(cache: Cache, what: str, tap: str) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return the dtypes and shapes of a sidecar, without gathering it."""
    vocabulary, width = cache.manifest.teacher.vocabulary, cache.taps[tap].info.width
    if what == "subclasses":
        count = subclasses_of(width, vocabulary)
        shapes = {"weight": (vocabulary, width), "bias": (vocabulary,), "basis": (min(vocabulary - 1, width), width)}
        shapes |= {
            "mean": (vocabulary, width),
            "directions": (vocabulary, count, width),
            "variance": (vocabulary, count),
        }
        return {name: (torch.float32, shape) for name, shape in shapes.items()}
    mean = {"mean": (torch.float32, (width,))}
    if what == "means":
        by_gold = {"by_gold": (torch.float16, (vocabulary, width)), "count": (torch.int64, (vocabulary,))}
        return mean | {"std": (torch.float32, (width,))} | by_gold
    count = min(DIRECTIONS, width)
    return mean | {"basis": (torch.float32, (count, width)), "variance": (torch.float32, (count,))}


def _width(cache: Cache, tap: str) -> int:
    if not cache.rows:
        raise BadInput(f"{cache.path}: it has no rows yet.")
    return cache.taps[tap].info.width


def _answered(cache: Cache, tap: str, progress: Progress) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the rows of a tap, their labels, and the teacher's logprobs float64[N, V], batch by batch."""
    loader = Loader(cache, batch_size=256, shuffle=False, taps=[tap], **train_task(cache).rows_only)
    for number in range(len(loader)):
        batch = loader.at(0, number)
        targets = loader.targets(batch)
        if not isinstance(targets, Targets):
            raise BadInput(f"{cache.path}: its rows are random samples of the classes. Dump with --preset topk.")
        yield loader.features(batch)[tap], batch.gold, dense_logprobs(targets).double()
        progress(Step(stage="gather", done=number + 1, total=len(loader)))


def _passes(cache: Cache, tap: str, progress: Progress) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of a tap and their gold tokens, batch by batch."""
    loader = Loader(cache, batch_size=64, shuffle=False, taps=[tap], **train_task(cache).rows_only)
    for number in range(len(loader)):
        batch = loader.at(0, number)
        counts_M = batch.features.get(f"{tap}/{COUNTS}")
        yield loader.features(batch)[tap], batch.gold if counts_M is None else batch.gold.repeat_interleave(counts_M)
        progress(Step(stage="gather", done=number + 1, total=len(loader)))
