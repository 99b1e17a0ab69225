"""A text with masked tokens as it is put to a model, and how texts are laid side by side.

Axes: B texts, T tokens, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.format.manifest import Manifest
from logitstore.format.tasks.masked import MaskedInfo


def info_of(manifest: Manifest) -> MaskedInfo:
    """Return what a manifest says of masked texts. Raises BadInput: the cache holds none."""
    if not isinstance(manifest.data, MaskedInfo):
        raise BadInput(f"a cache of the task '{manifest.task}' holds no masked texts.")
    return manifest.data


def key_of(tokens_T: Array, positions_N: Array, shown_N: Array) -> str:
    """Return the key of a masked text: xxh3-128, in hex, of its tokens, of the positions of its rows, and of the tokens that
    are shown there, each as little-endian uint32."""
    digest = xxhash.xxh3_128()
    for values in (tokens_T, positions_N, shown_N):
        digest.update(np.ascontiguousarray(values, "<u4").tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Window:
    """Some neighbouring tokens of a document, with the special tokens around them.

    Attributes:
        tokens_T: int64, or the stored dtype if it was read from a cache.
        document: number of the document in the data, from 0.
        window: number of the window in its document, from 0.
        start: offset of the window in the tokens of its document, special ones not counted.
    """

    tokens_T: Array
    document: int
    window: int
    start: int


@dataclass(frozen=True, kw_only=True)
class MaskedText(Window):
    """A window some of whose tokens are masked. A row stands at each of these, and is about the token that was there.

    Attributes:
        key: hex digest of tokens and mask.
        positions_N: int64, the masked positions; they rise.
        shown_N: the token that is shown at each of them.
    """

    key: str
    positions_N: Array
    shown_N: Array

    @property
    def length(self) -> int:
        """Count of tokens."""
        return len(self.tokens_T)

    @property
    def rows(self) -> int:
        return len(self.positions_N)

    @property
    def gold_N(self) -> Array:
        """int64[N]: the token that was at each masked position."""
        return np.asarray(self.tokens_T[self.positions_N], np.int64)

    @property
    def input_T(self) -> Array:
        """int64[T]: the tokens as a model is shown them."""
        shown_T = np.array(self.tokens_T, np.int64)
        shown_T[self.positions_N] = self.shown_N
        return shown_T


def laid(texts: Sequence[Array], pad: int) -> dict[str, Array]:
    """Return `input_ids` and `attention_mask`, int64[B, T] each, of texts that begin at the left; `pad` stands behind them."""
    shape = len(texts), max(map(len, texts))
    found = {"input_ids": np.full(shape, pad, np.int64), "attention_mask": np.zeros(shape, np.int64)}
    for line, tokens_T in enumerate(texts):
        found["input_ids"][line, : len(tokens_T)] = tokens_T
        found["attention_mask"][line, : len(tokens_T)] = 1
    return found


def places_of(positions: Sequence[Array], width: int) -> Array:
    """Return int64[N]: the places of the rows in the flattened [B * T], text after text, from the positions in each text."""
    return np.concatenate([line * width + own_N for line, own_N in enumerate(positions)]).astype(np.int64)
