"""Decode stored rows to targets, on any device: by the codecs of a cache and what all its rows share.

The kind of a row says which function below makes its targets (`logitstore.format.row_kinds`).

Axes: N rows, K slots, R coefficients, D channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from logitstore.core.registry import resolve
from logitstore.core.types import Answer, Array
from logitstore.errors import CacheDamaged
from logitstore.format.codecs.answer import RowCodec, normalised
from logitstore.format.row import RowInfo
from logitstore.models.head import LinearHead
from logitstore.store.cache import Cache
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.shared import load_shared
from logitstore.targets.tails import FixedTail, LatentTail, Tail
from logitstore.targets.targets import AnyTargets, PackedLatent, SampledTargets, Targets


class Decoder:
    """Makes of the stored fields of some rows what an objective takes.

    Args:
        row: what a row holds.
        shared: the tensors of the cache's shared file, by name; empty where there is none.
    """

    def __init__(self, row: RowInfo, shared: Mapping[str, Tensor]) -> None:
        self.row = row
        statistics = {name: shared[name].numpy() for name in ("widths", "levels", "mean", "std") if name in shared}
        self.codec = RowCodec(row=row, shared=statistics)
        self.tail = _tail(row, shared)

    @cached_property
    def _targets(self) -> Callable[[Decoder, Mapping[str, Tensor]], AnyTargets]:
        kind = self.row.sparsifier.kind
        if kind.targets is None:
            raise ValueError(f"rows of the sparsifier '{self.row.sparsifier.name}' hold no targets")
        function: Callable[[Decoder, Mapping[str, Tensor]], AnyTargets] = resolve(kind.targets)
        return function

    def __call__(self, stored: Mapping[str, Tensor]) -> AnyTargets:
        """Return the targets of N rows, on the device of `stored`."""
        return self._targets(self, stored)

    def check_packed(self, answer: Mapping[str, Tensor]) -> None:
        """Refuse packed ids beyond the vocabulary.

        Nothing is looked at on a GPU, which would have to be waited for: the reader of a cache has looked at them.

        Raises:
            CacheDamaged: there is one.
        """
        vocabulary = self.row.vocabulary
        if self.row.codec.ids != "packed" or answer["ids"].device.type != "cpu" or not answer["ids"].numel():
            return
        if bool(((answer["ids"] >= vocabulary) & (answer["logprobs"] > -torch.inf)).any()):
            raise CacheDamaged(
                f"a packed id is not below the vocabulary of {vocabulary}. "
                "Run `logitstore verify CACHE --repair`, then the command that wrote it again."
            )


def listed(decoder: Decoder, stored: Mapping[str, Tensor]) -> Targets:
    """Return the targets of rows that list tokens with a tail; a sketch may be missing where only the list is wanted."""
    answer = decoder.codec.decode({name: stored[name] for name in ("ids", "logprobs", "tail_logmass")})
    decoder.check_packed(answer)
    mass_N = answer["tail_logmass"]
    if decoder.row.tail.shape == "none":
        mass_N = torch.full_like(mass_N, -torch.inf)
    sketch = None
    if "sketch" in stored:
        sketch = PackedLatent(stored["sketch"], lambda some_NB: decoder.codec.decode({"sketch": some_NB})["latent"])
    return Targets(answer["ids"], *normalised(answer["logprobs"], mass_N), decoder.tail, sketch)


def drawn(decoder: Decoder, stored: Mapping[str, Tensor]) -> SampledTargets:
    """Return the targets of rows with random draws.

    A listed token weighs p. A drawn one weighs count / draws * p / q, where q = p**tau / Z is what it was drawn from.
    """
    answer, info = decoder.codec.decode(stored), decoder.row.sparsifier
    decoder.check_packed(answer)
    logprobs_NK, counts_ND = answer["logprobs"], answer["counts"]
    drawn_ND = logprobs_NK[:, info.k :]
    log_ratio_ND = (1 - float(info.exponent or 1)) * drawn_ND
    if "log_normaliser" in answer:
        log_ratio_ND = log_ratio_ND + answer["log_normaliser"][:, None]
    share_ND = counts_ND / float(info.draws or 1)
    weights_ND = torch.where(counts_ND > 0, share_ND * log_ratio_ND.exp(), 0.0)
    weights_NK = torch.cat([logprobs_NK[:, : info.k].exp(), weights_ND], 1)
    return SampledTargets(answer["ids"], weights_NK, answer["entropy"])


def hidden(decoder: Decoder, stored: Mapping[str, Tensor]) -> Targets:
    """Return the targets of rows that keep a hidden state: nothing is listed, and the tail is everything."""
    answer = decoder.codec.decode(stored)
    rows, device = len(answer["entropy"]), answer["entropy"].device
    none_N0 = torch.zeros(rows, 0, device=device)
    return Targets(none_N0.long(), none_N0, torch.zeros(rows, device=device), decoder.tail, answer["latent"])


def whole(decoder: Decoder, stored: Mapping[str, Tensor]) -> Targets:
    """Return the targets of rows that keep the logprob of every token: all are listed, and there is no tail."""
    answer = decoder.codec.decode(stored)
    rows, device = len(answer["entropy"]), answer["entropy"].device
    ids_NV = torch.arange(decoder.row.vocabulary, device=device).expand(rows, -1)
    no_tail_N = torch.full((rows,), -torch.inf, device=device)
    return Targets(ids_NV, *normalised(answer["logprobs"], no_tail_N), decoder.tail)


def _tail(row: RowInfo, shared: Mapping[str, Tensor]) -> Tail:
    if row.tail.shape == "prior":
        return FixedTail.prior(shared["prior"])
    if row.tail.needs_hidden:
        return LatentTail(LinearHead(shared["weight"], shared["base"], cap=float(shared["cap"])), shared["bias"])
    return FixedTail.uniform(row.vocabulary)


def decoder_of(cache: Cache) -> Decoder:
    """Return the decoder of a cache.

    Raises:
        BadInput: the cache keeps scores only.
        CacheDamaged: what its rows share cannot be read.
    """
    cache.check_targets("targets")
    return Decoder(cache.manifest.row, load_shared(cache.storage, cache.manifest))


def top_of(cache: Cache, answer: Answer, k: int) -> tuple[Array, Array]:
    """Return ids int64[N, k] and logprobs float32[N, k] of the most probable tokens of some rows of a cache."""
    stored = {name: torch.from_numpy(np.array(answer[name])) for name in cache.manifest.fields}
    targets = decoder_of(cache)(stored)
    if not isinstance(targets, Targets):
        raise TypeError("random samples have no most probable tokens")
    top = dense_logprobs(targets).topk(min(k, targets.tail.vocabulary))
    return top.indices.numpy(), top.values.numpy()
