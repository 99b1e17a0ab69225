"""A text as a classifier is asked about it, and how tokens are laid side by side.

Axes: B texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xxhash

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.format.manifest import Manifest
from logitstore.format.tasks.texts import ClassifiedInfo, EmbeddedInfo


def info_of(manifest: Manifest) -> ClassifiedInfo:
    """Return what a manifest says of classified texts. Raises BadInput: the cache holds none."""
    if not isinstance(manifest.data, ClassifiedInfo):
        raise BadInput(f"a cache of the task '{manifest.task}' holds no classified texts.")
    return manifest.data


EncodedInfo = ClassifiedInfo | EmbeddedInfo
"""What says how texts became tokens."""


def encoded_info_of(manifest: Manifest) -> EncodedInfo:
    """Return how the texts of a cache became tokens. Raises BadInput: it holds no texts with their tokens."""
    if not isinstance(manifest.data, ClassifiedInfo | EmbeddedInfo):
        raise BadInput(f"a cache of the task '{manifest.task}' holds no texts with one row each.")
    return manifest.data


def key_of(text: str, pair: str | None) -> str:
    """Return the key of a text: xxh3-128, in hex, of the text in UTF-8, and of a zero byte and the second text of a pair."""
    whole = text if pair is None else f"{text}\0{pair}"
    return xxhash.xxh3_128_hexdigest(whole.encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, kw_only=True)
class ClassifiedText:
    """One text, or a pair of texts. Its only row is about its class.

    Attributes:
        key: hex digest of the text, not of its tokens.
        tokens_T: token ids, special ones included; int64, or the stored dtype if it was read from a cache.
        types_T: uint8, which text each token belongs to, as the tokenizer says; None where all are 0.
        label: number of the class; -1 without one.
        document: number of the text in the data.
        text, pair: the text itself, and the second one of a pair; None where texts are not kept.
    """

    rows: ClassVar[int] = 1

    key: str
    tokens_T: Array
    types_T: Array | None
    label: int
    document: int
    text: str | None = None
    pair: str | None = None

    @property
    def length(self) -> int:
        """Count of tokens."""
        return len(self.tokens_T)

    @property
    def gold_N(self) -> Array:
        """int64[1]: the class, or -1."""
        return np.array([self.label], np.int64)


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How texts of different length are laid side by side.

    Attributes:
        token: the id of padding.
        side: where it stands, left or right.
    """

    token: int
    side: str

    @classmethod
    def of(cls, data: EncodedInfo) -> Padding:
        """Return the padding of the texts of a cache."""
        return cls(token=data.pad, side=data.padding_side)

    def laid(self, tokens: Sequence[Array], types: Sequence[Array] | None) -> dict[str, Array]:
        """Return `input_ids`, `attention_mask` and, where types are given, `token_type_ids`, int64[B, T] each."""
        width = max(map(len, tokens))
        shape = len(tokens), width
        found = {"input_ids": np.full(shape, self.token, np.int64), "attention_mask": np.zeros(shape, np.int64)}
        if types is not None:
            found["token_type_ids"] = np.zeros(shape, np.int64)
        for line, tokens_T in enumerate(tokens):
            places = slice(0, len(tokens_T)) if self.side == "right" else slice(width - len(tokens_T), width)
            found["input_ids"][line, places] = tokens_T
            found["attention_mask"][line, places] = 1
            if types is not None:
                found["token_type_ids"][line, places] = types[line]
        return found
