"""A query with its documents, as a cross-encoder is asked about them, and what `cache.json` says of such data.

Axes: D documents of a query, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Self

import numpy as np
import xxhash
from pydantic import ValidationError, model_validator

from logitstore.core.record import Count, Positive, Record
from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheDamaged
from logitstore.format.data import OtherData
from logitstore.format.manifest import Manifest
from logitstore.format.tasks.texts import TokenizerInfo, check_padding

KIND = "ranked"
"""The kind of data by which a cache of queries is known."""


class RankedInfo(Record):
    """Queries with documents that a teacher gave scores to.

    Attributes:
        form: how the data name the documents of a query: in columns of the better and the worse ones (triples), in one column
            of lists (lists), or one in each row (rows).
        column, document_column, label_column: the columns that were read; `document_column` is that of the better document
            in triples, whose other columns are `negative_columns`.
        fingerprint: checksum of the key and the labels of every query, in order; not of its tokens, so that teachers with
            different tokenizers can be compared.
        documents: count of the pairs of a query and a document.
        unlabelled: count of queries without a label.
        tokenizer: what the token ids mean.
        encoded: checksum of the tokens and token types of every pair, in order.
        max_length: the most tokens of a pair that the teacher was shown.
        cut: count of pairs that had more.
        token_types: whether the token types are stored; they are where one is not 0.
        pad: the id of padding.
        padding_side: where it stands.
        texts: whether the texts themselves are stored.
    """

    source: str
    split: str
    kind: Literal["ranked"]
    form: Literal["triples", "lists", "rows"]
    column: str
    document_column: str
    negative_columns: tuple[str, ...] = ()
    label_column: str | None = None
    limit: int | None = None
    fingerprint: str
    documents: Positive
    unlabelled: Count
    tokenizer: TokenizerInfo
    encoded: str
    max_length: Positive
    cut: Count
    token_types: bool
    pad: Count
    padding_side: Literal["left", "right"]
    texts: bool

    @model_validator(mode="after")
    def _padding_is_a_token(self) -> Self:
        check_padding(self.pad, self.tokenizer)
        return self


def info_of(manifest: Manifest) -> RankedInfo:
    """Return what a manifest says of queries with documents.

    Raises:
        BadInput: the cache holds none.
        CacheDamaged: an entry is missing or of another kind.
    """
    if not isinstance(manifest.data, OtherData) or manifest.data.kind != KIND:
        raise BadInput(f"a cache of the task '{manifest.task}' holds no queries with documents.")
    return _info_of(manifest.data.model_dump_json())


@lru_cache(maxsize=64)
def _info_of(data: str) -> RankedInfo:
    try:
        return RankedInfo.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(["data", *map(str, first["loc"])])
        raise CacheDamaged(
            f"cache.json: {name}: {first['msg'].removeprefix('Value error, ')}. Run `logitstore verify`."
        ) from error


def key_of(query: str, documents: Sequence[str]) -> str:
    """Return the key of a query: xxh3-128, in hex, of it and its documents in UTF-8, a zero byte before each document."""
    return xxhash.xxh3_128_hexdigest("\0".join([query, *documents]).encode("utf-8", "surrogatepass"))


@dataclass(frozen=True, kw_only=True)
class RankedQuery:
    """A query with its documents. A row is about one of them.

    Attributes:
        key: hex digest of the texts, not of the tokens.
        tokens: of each document with the query, as the teacher is shown both: token ids, special ones included.
        types: uint8, of each document, which text each token belongs to; None where all are 0.
        label_D: int64, how relevant each document is, from 0; -1 where nobody said.
        document: number of the query in the data.
        query, documents: the texts; None where texts are not kept.
    """

    key: str
    tokens: list[Array]
    types: list[Array] | None
    label_D: Array
    document: int
    query: str | None = None
    documents: list[str] | None = None

    @property
    def rows(self) -> int:
        """Count of documents."""
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Count of tokens of all pairs."""
        return sum(map(len, self.tokens))

    @property
    def gold_N(self) -> Array:
        """int64[D]: the labels."""
        return np.asarray(self.label_D, np.int64)
