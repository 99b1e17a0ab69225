"""Encode all fields of a row at once, from what a sparsifier gives to what is stored, and decode them for a loss.

Axes: N rows, K slots, R coefficients, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.format.codecs.arrays import library, real, wide
from logitstore.format.codecs.bits import Bits
from logitstore.format.codecs.channels import Channels
from logitstore.format.codecs.codebook import Codebook
from logitstore.format.codecs.levels import Levels
from logitstore.format.codecs.log2 import Log2
from logitstore.format.row import FieldInfo, RowInfo

SHARED_CODECS = ("codebook", "channels")
"""Codecs that need what all rows of a cache share."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowCodec:
    """The codecs of a cache's fields.

    Attributes:
        row: what a row holds.
        shared: the tensors that all rows share, by name, where the fields need them: `widths` and `levels` of a sketch, `mean`
            and `std` of hidden states (docs/format.md, "shared").
    """

    row: RowInfo
    shared: Mapping[str, Array] = field(default_factory=dict)

    @cached_property
    def fields(self) -> dict[str, FieldInfo]:
        """The stored arrays, by name."""
        return self.row.fields

    def encode(self, answer: Mapping[str, Array]) -> dict[str, Array]:
        """Return the stored arrays of some rows.

        Args:
            answer: those of these that the fields need: `ids` int[N, K], `logprobs` float[N, K], `tail_logmass` float[N],
                `counts` int[N, draws], `log_normaliser` float[N], `latent` float[N, R] (coefficients or hidden state),
                `gold_logprob` float[N], `entropy` float[N].
        """
        stored: dict[str, Array] = {}
        for name, info in self.fields.items():
            if name == "ids":
                stored[name] = self._ids.encode(answer[name]) if self._ids else answer[name].astype(info.dtype)
            elif name == "logprobs":
                stored[name] = (
                    self._levels.encode(answer[name]) if self._levels else _rounded(answer[name], np.dtype(info.dtype))
                )
                if "ids" not in self.fields and not self._levels:
                    _keep_first(stored[name], answer.get("top1", answer[name].argmax(1)))
            elif name == "tail_logmass" and self._mass:
                stored[name] = self._mass.encode(answer[name])
            elif name == "sketch":
                packed = self._codebook.encode(answer["latent"])
                # a narrow teacher may not need all the bytes it was given
                stored[name] = np.pad(packed, ((0, 0), (0, info.shape[0] - packed.shape[1])))
            elif name == "hidden":
                stored["hidden"], stored["hidden_scale"] = self._channels.encode(answer["latent"])
            elif name != "hidden_scale":
                stored[name] = answer[name].astype(info.dtype)
        return stored

    def decode(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Undo `encode`, in the library and on the device of `stored`; floats become float32, whole numbers int64.

        Logprobs are as stored: see `normalised`. An entry with logprob -inf is an empty slot.
        """
        answer: dict[str, Any] = {}
        for name, value in stored.items():
            if name == "ids":
                answer[name] = self._ids.decode(value) if self._ids else wide(value)
            elif name == "logprobs" and self._levels:
                answer[name] = self._levels.decode(value)
            elif name == "tail_logmass" and self._mass:
                answer[name] = self._mass.decode(value)
            elif name == "sketch":
                answer["latent"] = self._codebook.decode(value)
            elif name == "hidden":
                answer["latent"] = self._channels.decode(value, stored["hidden_scale"])
            elif name == "counts":
                answer[name] = wide(value)
            elif name != "hidden_scale":
                answer[name] = real(value)
        return answer

    def readable(self, stored: Mapping[str, Array]) -> dict[str, Array]:
        """Return the same fields as plain numbers, where that needs nothing shared; views stay views."""
        coded = {name: stored[name] for name in stored if self.fields[name].codec not in ("plain", *SHARED_CODECS)}
        return {**stored, **self.decode(coded)}

    def tail_error(self) -> float:
        """Return the most by which a decoded tail log mass above 2**-32 may differ from the one encoded, nats."""
        return self._mass.bound if self._mass else 2.0**-23

    @property
    def lowest_tail(self) -> float:
        """The smallest tail log mass that can be stored, nats."""
        return float(self._mass.table[1]) if self._mass else -np.inf

    @property
    def probability_error(self) -> float:
        """Largest difference between a decoded probability and the teacher's, as far as levels round it."""
        return self._levels.probability_error if self._levels else 0.0

    @property
    def mass_error(self) -> float:
        """The most by which listed and tail mass, as decoded, may miss 1."""
        if self.row.codec.tail == "float32" and not self._levels:
            # float16 moves a logprob above -16 nats by at most 2**-8, and its probability by as much of itself
            return 5e-3
        listed = self._levels.mass_error if self._levels else 5e-3
        return listed + (float(np.expm1(self._mass.bound)) if self._mass else 0.0)

    def logprob_error(self, logprobs_NK: Array) -> Array:
        """Return float64[N, K]: the most by which decoded logprobs may differ from the ones encoded."""
        if not self._levels:
            return np.abs(logprobs_NK) * 2.0**-11 + 2.0**-25
        with np.errstate(over="ignore"):
            quarter_NK = np.exp(logprobs_NK.astype(np.float64) / 4)
        step = 1 / self._levels.top
        with np.errstate(divide="ignore"):
            bound: Array = 4 * np.log1p(step / np.maximum(quarter_NK - step / 2, step / 2))
        return np.where(quarter_NK < step, np.inf, bound)

    @cached_property
    def _ids(self) -> Bits | None:
        codec = self.fields["ids"].codec
        if codec == "plain":
            return None
        return Bits((int(codec.removeprefix("bits-")),) * self.row.sparsifier.slots)

    @cached_property
    def _levels(self) -> Levels | None:
        name = self.row.codec.logprobs
        if not name.startswith("levels-"):
            return None
        return Levels(int(name.removeprefix("levels-")), self.row.sparsifier.slots or self.row.vocabulary)

    @cached_property
    def _mass(self) -> Log2 | None:
        name = self.row.codec.tail
        return Log2(int(name.removeprefix("log2-"))) if name.startswith("log2-") else None

    @cached_property
    def _codebook(self) -> Codebook:
        return Codebook(tuple(int(width) for width in self.shared["widths"]), self.shared["levels"])

    @cached_property
    def _channels(self) -> Channels:
        return Channels(self.shared["mean"], self.shared["std"])


def _rounded(logprobs_NK: Array, dtype: np.dtype[Any]) -> Array:
    """Round to the nearest; a finite logprob stays finite, because -inf means an empty slot."""
    lowest = np.finfo(dtype).min
    return np.where(np.isneginf(logprobs_NK), -np.inf, np.maximum(logprobs_NK, lowest)).astype(dtype)


def _keep_first(logprobs_NV: Array, first_N: Array) -> None:
    """Lift the most probable token by one step of its float type where rounding made another one equal to it."""
    rows_N = np.arange(len(logprobs_NV))
    highest_N = logprobs_NV.max(1)
    is_tied_N = (logprobs_NV == highest_N[:, None]).sum(1) > 1
    lifted_N = np.nextafter(highest_N, logprobs_NV.dtype.type(0))
    logprobs_NV[rows_N[is_tied_N], first_N[is_tied_N]] = lifted_N[is_tied_N]


def normalised(logprobs_NK: Any, tail_logmass_N: Any) -> tuple[Any, Any]:
    """Return listed logprobs and tail log mass that sum to 1 exactly.

    Both were rounded, and so miss 1 by some 1e-3. The smaller of the two masses is the more precise one and stays: a tail up
    to one half as it is, with the listed logprobs shifted; else the listed logprobs, with the tail what they leave
    (docs/format.md, "Decoding").

    Args:
        logprobs_NK: as stored, float32.
        tail_logmass_N: as stored, nats.

    Returns:
        float32[N, K], float32[N].
    """
    xp = library(logprobs_NK)
    listed_N, tail_N = xp.exp(logprobs_NK).sum(-1), xp.exp(tail_logmass_N)
    keeps_tail_N = ((tail_N <= 0.5) & (listed_N > 0)) | (listed_N >= 1)
    # one logarithm for both: of what the mass that is kept leaves; kept below 1, or NumPy would complain of infinities
    kept_N = xp.where(keeps_tail_N, tail_N, listed_N)
    left_N = xp.log1p(-xp.clip(kept_N, 0.0, 1 - 1e-7))
    shift_N = (left_N - xp.log(xp.clip(listed_N, 1e-38, None))) * keeps_tail_N
    return logprobs_NK + shift_N[:, None], xp.where(keeps_tail_N, tail_logmass_N, left_N)
