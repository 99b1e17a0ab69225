"""Whole distributions become lists of their most probable tokens, with what is known of the rest, and the prior of their tails.

Axes: N rows, V vocabulary, K entries kept.
"""

from __future__ import annotations

import numpy as np
import torch

from logitstore.core.order import spread
from logitstore.core.types import Array
from logitstore.dump.begin import Fit
from logitstore.dump.sparsify.prior import prior_of
from logitstore.format.manifest import Manifest
from logitstore.text.foreign.block import Foreign, Lists
from logitstore.text.foreign.index import Index

KEPT = 16
"""Tokens that are listed of a whole distribution, where nobody says how many, and there are many more."""

PILOT_ROWS = 12288
"""Rows on which a prior is fitted, about: as many as `recode` takes."""


def entries_of(vocabulary: int, k: int | None) -> int:
    """Return how many tokens of a whole distribution are listed: k, or by default all of a small vocabulary, and `KEPT` of
    others."""
    return min(k or (vocabulary if vocabulary <= 4 * KEPT else KEPT), vocabulary)


def listed(logprobs_NV: Array, gold_N: Array, k: int, *, has_rest: bool = False) -> Lists:
    """Return the k most probable tokens of each row, equal ones by rising id, with the gold token's logprob and the entropy.

    Args:
        logprobs_NV: float32, normalised, nats; -inf for a token that cannot come. NaN stays for the reader of lists to refuse.
        gold_N: int64, the token that follows; below V.
        k: at most V.
        has_rest: the mass of the unlisted tokens is added up too.
    """
    logprobs_NV = np.minimum(logprobs_NV, 0) + np.float32(0)
    # of floats that are not above 0 the bits rise as the values fall: the smallest whole numbers are the most probable tokens
    keys_NV = logprobs_NV.view(np.uint32).astype(np.uint64) << np.uint64(32)
    keys_NV |= np.arange(logprobs_NV.shape[1], dtype=np.uint64)
    if k < logprobs_NV.shape[1]:
        keys_NV = np.partition(keys_NV, k - 1, axis=1)[:, :k]
    keys_NK = np.sort(keys_NV, axis=1)
    mass_NV = np.exp(logprobs_NV)
    with np.errstate(invalid="ignore"):
        entropy_N = -np.where(mass_NV > 0, mass_NV * logprobs_NV, 0).sum(1, dtype=np.float64)
    ids_NK = (keys_NK & np.uint64(0xFFFFFFFF)).astype(np.int32)
    if has_rest:
        np.put_along_axis(mass_NV, ids_NK.astype(np.int64), 0, 1)
    return Lists(
        ids_NK=ids_NK,
        logprobs_NK=(keys_NK >> np.uint64(32)).astype(np.uint32).view(np.float32),
        gold_N=logprobs_NV[np.arange(len(gold_N)), gold_N],
        entropy_N=entropy_N,
        rest_V=mass_NV.sum(0, dtype=np.float64) if has_rest else None,
    )


def fitted(manifest: Manifest, source: Foreign, index: Index) -> Fit:
    """Return the prior of the tails of some rows, spread over the source, and how many these are; nothing for other tails. See
    `logitstore.dump.sparsify.prior`.

    Args:
        manifest: of the cache to be.
        source: of whole distributions, where the tail is a prior.
        index: of its samples.

    Raises:
        BadInput: the source cannot be read.
    """
    if source.pilot is None or not manifest.tail.is_fitted:
        return {}, 0
    vocabulary = manifest.teacher.vocabulary
    rest_V, rows, last = np.zeros(vocabulary), 0, -1
    for number in spread(len(index), int(index.rows_S.sum()), PILOT_ROWS):
        record = int(index.record_S[number])
        # a block may have several of the records, and is taken as a whole
        block = next(source.pilot(record, with_lists=True)) if record > last else None
        if block is None or block.lists is None or block.lists.rest_V is None:
            continue
        rest_V += block.lists.rest_V[:vocabulary]
        rows, last = rows + len(block.lists.ids_NK), int(block.record_S[-1])
    return {"prior": prior_of(torch.from_numpy(rest_V))}, rows
