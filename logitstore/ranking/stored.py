"""`samples.arrow` of a cache of queries: tokens of each pair, labels and, if they are kept, the texts. No torch.

Axes: S queries, N pairs, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheDamaged
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.format.row import token_dtype
from logitstore.ranking.sample import RankedInfo, RankedQuery, info_of, key_of
from logitstore.store.samples import PartSamples, map_batch
from logitstore.store.storage import Storage


def schema_of(data: RankedInfo) -> pa.Schema:
    """Return the columns of `samples.arrow`; docs/format.md describes each of them."""
    return _schema(token_dtype(data.tokenizer.size), data.token_types, data.texts)


def _list(item: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("item", item, nullable=False))


@cache
def _schema(tokens: str, has_types: bool, has_texts: bool) -> pa.Schema:
    columns = {
        "key": pa.string(),
        "tokens": _list(_list(pa.from_numpy_dtype(np.dtype(tokens)))),
        **({"types": _list(_list(pa.uint8()))} if has_types else {}),
        "labels": _list(pa.int32()),
        **({"query": pa.large_string(), "documents": _list(pa.large_string())} if has_texts else {}),
        "nll": pa.float32(),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def write_queries(path: Path, samples: Sequence[RankedQuery], nll_S: Array, schema: pa.Schema) -> None:
    """Write the queries of a part; each has a row for each of its documents, in their order.

    Args:
        path: the new file.
        samples: the queries, in order.
        nll_S: float32, NaN: a score is no logprob.
        schema: of the file, see `schema_of`.
    """
    starts = np.cumsum([0, *(each.rows for each in samples)]).astype(np.int32)
    ends = np.cumsum([0, *(len(tokens) for each in samples for tokens in each.tokens)]).astype(np.int32)

    def nested(kind: pa.DataType, of_pairs: list[Array]) -> pa.Array:
        values = pa.array(np.concatenate(of_pairs).astype(kind.value_type.value_type.to_pandas_dtype()))
        return pa.ListArray.from_arrays(starts, pa.ListArray.from_arrays(ends, values, type=kind.value_type), type=kind)

    def column(field: pa.Field) -> pa.Array:
        if field.name == "nll":
            return pa.array(nll_S.astype(np.float32))
        if field.name == "tokens":
            return nested(field.type, [tokens for each in samples for tokens in each.tokens])
        if field.name == "types":
            return nested(field.type, [types for each in samples for types in each.types or ()])
        if field.name == "labels":
            return pa.array([each.label_D.tolist() for each in samples], field.type)
        return pa.array([getattr(each, field.name) for each in samples], field.type)

    batch = pa.record_batch([column(field) for field in schema], schema=schema)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch)


class RankedFile(PartSamples):
    """A mapped `samples.arrow` of queries.

    Attributes:
        label_N: int64, the label of each pair, or -1.
    """

    def __init__(self, path: Path, span: slice, data: RankedInfo) -> None:
        """Map the file and check its header.

        Args:
            path: the file.
            span: the queries that it must hold.
            data: what the manifest says of the data.

        Raises:
            CacheDamaged: it is not an Arrow file, has other columns or nulls, holds another count of queries, lists of other
                lengths, or a label below -1.
        """
        batch = map_batch(path, schema_of(data))
        self.batch = batch
        names = batch.schema.names
        self._lists = [batch.column(name) for name in ("tokens", "types") if name in names]
        labels = batch.column("labels")
        if batch.num_rows != span.stop - span.start:
            raise CacheDamaged(f"{path}: it does not hold the queries of this part. Run `logitstore verify`.")
        others = [*self._lists[1:], labels, *([batch.column("documents")] if "documents" in names else [])]
        inner = [each.values for each in self._lists]
        values = [*(each.values for each in inner), labels.values, *(each.values for each in others)]
        first = self._lists[0].offsets
        if (
            any(each.null_count for each in (*inner, *values))
            or not all(each.offsets.equals(first) for each in others)
            or not all(each.offsets.equals(inner[0].offsets) for each in inner)
        ):
            raise CacheDamaged(f"{path}: it has nulls, or lists that do not fit together. Run `logitstore verify`.")
        self.label_N = labels.values.to_numpy().astype(np.int64)
        if not (self.label_N >= -1).all():
            raise CacheDamaged(f"{path}: a label is below -1. Run `logitstore verify`.")
        starts = np.asarray(first.to_numpy()).astype(np.int64)
        self._ends = np.asarray(inner[0].offsets.to_numpy()).astype(np.int64)
        self._flat = [each.values.to_numpy() for each in inner]
        if len(starts) and (starts[0] or self._ends[0] or starts[-1] != len(self.label_N)):
            raise CacheDamaged(f"{path}: lists that do not begin where the file does. Run `logitstore verify`.")
        self._has_texts = "query" in names
        self.nll_S = batch.column("nll").to_numpy()
        self.row_start_S, self.row_count_S = starts[:-1], np.diff(starts)
        self.lengths_S = np.diff(self._ends[starts])
        self.document_S = np.arange(span.start, span.stop)

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def pairs_of(self, index: int) -> range:
        """Return the numbers of the pairs of one query."""
        start = int(self.row_start_S[index])
        return range(start, start + int(self.row_count_S[index]))

    def tokens_of(self, index: int) -> list[Array]:
        """Return views of the token ids of each pair of one query, in the stored dtype."""
        return [self._flat[0][self._ends[pair] : self._ends[pair + 1]] for pair in self.pairs_of(index)]

    def types_of(self, index: int) -> list[Array] | None:
        """Return the token types of each pair of one query, uint8; None where they are all 0."""
        if len(self._flat) < 2:
            return None
        return [self._flat[1][self._ends[pair] : self._ends[pair + 1]] for pair in self.pairs_of(index)]

    def labels_of(self, index: int) -> Array:
        """Return int64[D], the labels of the documents of one query."""
        pairs = self.pairs_of(index)
        return np.asarray(self.label_N[pairs.start : pairs.stop])

    def texts_of(self, index: int) -> tuple[str, list[str]]:
        """Return one query and its documents. Raises BadInput: the cache keeps no texts."""
        if not self._has_texts:
            raise BadInput("this cache keeps no texts. Dump again without --no-texts.")
        return str(self.batch.column("query")[index].as_py()), list(self.batch.column("documents")[index].as_py())

    def longest(self) -> int:
        """Return the most tokens of a pair."""
        return int(np.diff(self._ends).max(initial=0))

    def shortest(self) -> int:
        """Return the fewest tokens of a pair."""
        return int(np.diff(self._ends).min(initial=1))

    def highest_token(self) -> int:
        """Return the highest token id."""
        return int(self._flat[0].max(initial=0))

    def gold(self) -> Array:
        return np.asarray(self.label_N)

    def nll_problem(self) -> str | None:
        return None if np.isnan(self.nll_S).all() else "an nll is a number, although a score is no logprob"

    def keys(self) -> list[str]:
        found: list[str] = self.batch.column("key").to_pylist()
        return found

    def misnamed(self) -> bool:
        """Whether a key is not the hash of the texts; False where texts are not kept."""
        if not self._has_texts:
            return False
        return self.keys() != [key_of(*self.texts_of(index)) for index in range(len(self))]

    def domains(self) -> list[str | None]:
        """Return None for each query: queries have no domains."""
        return [None] * len(self)

    def domain_column(self) -> pa.Array:
        return pa.nulls(len(self), pa.string())

    def sample(self, index: int) -> RankedQuery:
        query, documents = self.texts_of(index) if self._has_texts else (None, None)
        return RankedQuery(
            key=str(self.batch.column("key")[index].as_py()),
            tokens=self.tokens_of(index),
            types=self.types_of(index),
            label_D=self.labels_of(index),
            document=int(self.document_S[index]),
            query=query,
            documents=documents,
        )


class RankedQueries:
    """Queries on disk; see `logitstore.store.samples.StoredSamples`."""

    shared = None

    def open_shared(self, storage: Storage, manifest: Manifest) -> None:
        """Check what the manifest says of the data; the parts say all about the queries. Raises CacheDamaged: see `info_of`."""
        info_of(manifest)

    def open(self, path: Path, manifest: Manifest, part: int, shared: None) -> RankedFile:
        return RankedFile(path, manifest.span(part), info_of(manifest))

    def write(self, path: Path, manifest: Manifest, samples: Sequence[RankedQuery], nll_S: Array) -> None:
        write_queries(path, samples, nll_S, schema_of(info_of(manifest)))

    def problems(self, samples: RankedFile, record: PartRecord, manifest: Manifest) -> Iterator[str]:
        data = info_of(manifest)
        if len(samples.label_N) != record.rows:
            yield "the count of pairs is not the record's count of rows"
        if int(samples.lengths_S.sum()) != record.tokens:
            yield "the count of tokens is not the record's"
        if not (samples.row_count_S > 0).all():
            yield "a query has no documents"
        if samples.shortest() < 1 or samples.longest() > data.max_length:
            yield f"a pair has no tokens, or more than {data.max_length}"
        if samples.highest_token() >= data.tokenizer.size:
            yield f"a token id is not below the {data.tokenizer.size} of the tokenizer"
        if samples.misnamed():
            yield "a key is not the hash of its texts"
        if problem := samples.nll_problem():
            yield problem

    def difference(self, stored: RankedQuery, asked: RankedQuery) -> str | None:
        """Compare the labels: queries with the same key have the same documents."""
        if stored.label_D.tolist() == asked.label_D.tolist():
            return None
        return f"its query {stored.document} has other labels"

    def mismatch(self, here: Manifest, there: Manifest) -> tuple[str, str] | None:
        """Return None: the same queries fit together, whatever tokens their teachers make of them."""
        return None

    def advice(self, here: Manifest, there: Manifest) -> tuple[str, str]:
        return (
            "{difference}, so the queries, their documents or the labels differ",
            "Dump both with the same --data, --limit, --column, --pair-column and --label-column.",
        )


def ranked_of(samples: PartSamples) -> RankedFile:
    """Return the samples of a part as queries.

    Raises:
        BadInput: they are something else.
    """
    if not isinstance(samples, RankedFile):
        raise BadInput("this cache holds no queries with documents.")
    return samples
