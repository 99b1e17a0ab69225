"""Queries with their documents in the tokens of a cross-encoder: all of a dump, in memory.

Axes: N pairs of a query and a document, S queries, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from logitstore.classification.encode import Encoder
from logitstore.core.progress import Progress, Step
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.ranking.data import Query
from logitstore.ranking.sample import RankedQuery, key_of

_BLOCK = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedQueries:
    """All queries of a dump; see `logitstore.dump.task.AskedSamples`.

    Attributes:
        queries: as they were read.
        tokens, types: of all pairs, one after the other: uint32 and uint8; types are None where all are 0.
        ends: int64[N + 1], where each pair begins, and where the last one ends.
        starts: int64[S + 1], the first pair of each query, and behind them N.
        cut: count of pairs that were cut.
        longest: most tokens of a pair before it was cut.
        keeps_texts: whether samples carry their texts.
    """

    queries: list[Query]
    tokens: Array
    types: Array | None
    ends: Array
    starts: Array
    cut: int
    longest: int
    keeps_texts: bool

    @classmethod
    def of(cls, queries: list[Query], encode: Encoder, keeps_texts: bool, progress: Progress) -> EncodedQueries:
        """Encode all pairs. Raises BadInput: the length leaves no room for a token of the query and one of the document."""
        special = encode.tokenizer.num_special_tokens_to_add(True)
        if special + 2 > encode.max_length:
            raise BadInput(
                f"--max-length {encode.max_length}: the tokenizer puts {special} tokens of its own around a query and a "
                "document. Give more."
            )
        first = [each.text for each in queries for _ in each.documents]
        second = [document for each in queries for document in each.documents]
        tokens: list[Array] = []
        types: list[Array] = []
        cut, longest = 0, 0
        for start in range(0, len(first), _BLOCK):
            some, others = first[start : start + _BLOCK], second[start : start + _BLOCK]
            found, kinds = encode(some, others)
            full = [place for place, each in enumerate(found) if len(each) >= encode.max_length]
            if full:
                lengths = encode.lengths([some[place] for place in full], [others[place] for place in full])
                cut += sum(length > encode.max_length for length in lengths)
                longest = max(longest, *lengths)
            if empty := [start + place for place, each in enumerate(found) if not len(each)]:
                raise BadInput(
                    f"pair {empty[0] + 1} of the data: query and document are empty, and the tokenizer adds no token. Leave it "
                    "out."
                )
            tokens.extend(each.astype(np.uint32) for each in found)
            types.extend(kinds)
            progress(Step(stage="tokenise", done=min(start + _BLOCK, len(first)), total=len(first)))
        flat = np.concatenate(types)
        return cls(
            queries=queries,
            tokens=np.concatenate(tokens),
            types=flat if flat.any() else None,
            ends=np.cumsum([0, *map(len, tokens)]),
            starts=np.cumsum([0, *(len(each.documents) for each in queries)]),
            cut=cut,
            longest=longest,
            keeps_texts=keeps_texts,
        )

    @property
    def pairs(self) -> int:
        """Count of all pairs."""
        return int(self.starts[-1])

    def __len__(self) -> int:
        return len(self.queries)

    def rows_in(self, span: slice) -> int:
        """Return how many documents the queries of a slice have."""
        return sum(len(each.documents) for each in self.queries[span])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[int(index)]
        query = self.queries[number]
        spans = [slice(*self.ends[pair : pair + 2]) for pair in range(*self.starts[number : number + 2])]
        return RankedQuery(
            key=key_of(query.text, query.documents),
            tokens=[self.tokens[span].astype(np.int64) for span in spans],
            types=None if self.types is None else [self.types[span] for span in spans],
            label_D=np.array(query.labels, np.int64),
            document=number,
            query=query.text if self.keeps_texts else None,
            documents=list(query.documents) if self.keeps_texts else None,
        )

    def fingerprint(self) -> str:
        """Return xxh3-128 over the labels and the key of every query, in order."""
        digest = xxhash.xxh3_128()
        for each in self.queries:
            digest.update(f"{','.join(map(str, each.labels))} {key_of(each.text, each.documents)}\0".encode())
        return digest.hexdigest()

    def encoded(self) -> str:
        """Return xxh3-128 over the tokens, the ends and the types of all pairs."""
        digest = xxhash.xxh3_128(self.tokens.astype("<u4").tobytes())
        digest.update(self.ends.astype("<i8").tobytes())
        if self.types is not None:
            digest.update(self.types.tobytes())
        return digest.hexdigest()
