"""Hold targets as tensors: the teacher's answers about some rows, exactly as far as they were stored.

Axes: N rows, K listed, R coefficients, V vocabulary of the teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.targets.tails import Tail


@dataclass(frozen=True, eq=False)
class PackedLatent:
    """Packed latents are the stored coefficients of N rows. Only a chunk of rows is decoded at a time, because decoded rows
    are wider.

    Attributes:
        stored_NB: uint8[N, B].
        decode: decodes stored rows to float32[N, R].
    """

    stored_NB: Tensor
    decode: Callable[[Tensor], Tensor]

    def __getitem__(self, rows: slice) -> PackedLatent:
        return PackedLatent(self.stored_NB[rows], self.decode)


@dataclass(frozen=True)
class Targets:
    """Targets are the teacher's answers about N rows, in nats at temperature 1. Listed mass and tail mass sum to 1.

    Attributes:
        ids_NK: int64[N, K]; K may be 0.
        logprobs_NK: float32[N, K]; -inf in an empty slot, whose id means nothing.
        tail_logmass_N: float32[N], log of the mass outside the ids, -inf when there is none.
        tail: how the tail mass is spread.
        latent: float32[N, R], the input of a `LatentTail`, perhaps still packed; see `latent_NR`.
    """

    ids_NK: Tensor
    logprobs_NK: Tensor
    tail_logmass_N: Tensor
    tail: Tail
    latent: Tensor | PackedLatent | None = None

    def __len__(self) -> int:
        return len(self.ids_NK)

    def __getitem__(self, rows: slice) -> Targets:
        latent = None if self.latent is None else self.latent[rows]
        return Targets(self.ids_NK[rows], self.logprobs_NK[rows], self.tail_logmass_N[rows], self.tail, latent)

    @property
    def latent_NR(self) -> Tensor | None:
        """float32[N, R]; each access decodes it where it is still packed."""
        return self.latent.decode(self.latent.stored_NB) if isinstance(self.latent, PackedLatent) else self.latent

    @property
    def is_cut(self) -> bool:
        """True if the cache has no tail although not every token is listed: nothing is known of the other tokens."""
        listed = self.ids_NK.shape[1]
        return listed < self.tail.vocabulary and bool(torch.isneginf(self.tail_logmass_N).all())

    @property
    def is_ranked(self) -> bool:
        """True if the first id listed is the most probable token; else the ids are in their own order, or there are none."""
        return 0 < self.ids_NK.shape[1] < self.tail.vocabulary


@dataclass(frozen=True)
class SampledTargets:
    """Sampled targets are a random estimate: the mean over many draws of sum_j weights_j f(ids_j) is sum_v p(v) f(v), for
    any f.

    Attributes:
        ids_NK: int64[N, K].
        weights_NK: float32[N, K], not negative, 0 in an empty slot; their sum is 1 only on average.
        entropy_N: float32[N], of the whole distribution, nats.
    """

    ids_NK: Tensor
    weights_NK: Tensor
    entropy_N: Tensor

    def __len__(self) -> int:
        return len(self.ids_NK)

    def __getitem__(self, rows: slice) -> SampledTargets:
        return SampledTargets(self.ids_NK[rows], self.weights_NK[rows], self.entropy_N[rows])


AnyTargets = Targets | SampledTargets
