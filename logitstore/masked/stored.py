"""`samples.arrow` of a cache of masked texts: tokens, and what was shown at the masked positions. No torch.

Axes: S texts, T tokens, N rows.
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
from logitstore.masked.mask import masker_of
from logitstore.masked.sample import MaskedText, info_of, key_of
from logitstore.store.samples import PartSamples, map_batch
from logitstore.store.storage import Storage

_LISTS = ("tokens", "positions", "shown")


@cache
def schema(token_dtype: str) -> pa.Schema:
    """Return the columns of `samples.arrow`; docs/format.md describes each of them."""
    token = pa.from_numpy_dtype(np.dtype(token_dtype))
    kinds = {"tokens": token, "positions": pa.int32(), "shown": token}
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            *(
                pa.field(name, pa.list_(pa.field("item", kind, nullable=False)), nullable=False)
                for name, kind in kinds.items()
            ),
            pa.field("document", pa.int64(), nullable=False),
            pa.field("window", pa.int32(), nullable=False),
            pa.field("start", pa.int64(), nullable=False),
            pa.field("nll", pa.float32(), nullable=False),
        ]
    )


def write_texts(path: Path, samples: Sequence[MaskedText], nll_S: Array, token_dtype: str) -> None:
    """Write the texts of a part; rows are numbered in their order.

    Args:
        path: the new file.
        samples: the texts, in order.
        nll_S: float32, mean negative logprob of the gold tokens of each text, nats per row.
        token_dtype: "uint16" or "uint32".
    """
    columns = schema(token_dtype)
    lists = {
        "tokens": [each.tokens_T for each in samples],
        "positions": [each.positions_N for each in samples],
        "shown": [each.shown_N for each in samples],
    }

    def column(field: pa.Field) -> pa.Array:
        if field.name == "nll":
            return pa.array(nll_S.astype(np.float32))
        if field.name in lists:
            values = lists[field.name]
            offsets = pa.array(np.concatenate([[0], np.cumsum([len(each) for each in values])]).astype(np.int32))
            flat = pa.array(np.concatenate(values).astype(field.type.value_type.to_pandas_dtype()))
            return pa.ListArray.from_arrays(offsets, flat, type=field.type)
        return pa.array([getattr(each, field.name) for each in samples], field.type)

    batch = pa.record_batch([column(field) for field in columns], schema=columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, columns) as writer:
        writer.write_batch(batch)


class MaskedFile(PartSamples):
    """A mapped `samples.arrow` of masked texts.

    Attributes:
        first: number of the part's first sample among those of all views.
    """

    def __init__(self, path: Path, span: slice, token_dtype: str) -> None:
        """Map the file and check its header.

        Args:
            path: the file.
            span: the samples that it must hold.
            token_dtype: "uint16" or "uint32".

        Raises:
            CacheDamaged: it is not an Arrow file, has other columns, holds another count of texts, or a row stands nowhere.
        """
        batch = map_batch(path, schema(token_dtype))
        self.batch, self.first = batch, span.start
        if batch.num_rows != span.stop - span.start:
            raise CacheDamaged(f"{path}: it does not hold the texts of this part. Run `logitstore verify`.")
        lists = {name: batch.column(name) for name in _LISTS}
        if any(each.values.null_count for each in lists.values()):
            raise CacheDamaged(f"{path}: it has nulls. Run `logitstore verify`.")
        if not lists["positions"].offsets.equals(lists["shown"].offsets):
            raise CacheDamaged(f"{path}: positions and what is shown there differ in number. Run `logitstore verify`.")
        self._offsets = {name: np.asarray(each.offsets.to_numpy()) for name, each in lists.items()}
        self._values = {name: each.values.to_numpy() for name, each in lists.items()}
        self.lengths_S = np.diff(self._offsets["tokens"])
        self.row_count_S = np.diff(self._offsets["positions"])
        self.row_start_S = self._offsets["positions"][:-1].astype(np.int64)
        self.document_S = batch.column("document").to_numpy()
        self.nll_S = batch.column("nll").to_numpy()
        length_N = np.repeat(self.lengths_S, self.row_count_S)
        positions_N = self._values["positions"]
        if len(positions_N) != len(length_N) or not ((positions_N >= 0) & (positions_N < length_N)).all():
            raise CacheDamaged(f"{path}: a row stands at a position that no text has. Run `logitstore verify`.")

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def _part_of(self, name: str, index: int) -> Array:
        offsets = self._offsets[name]
        return np.asarray(self._values[name][offsets[index] : offsets[index + 1]])

    def tokens_of(self, index: int) -> Array:
        """Return a view of the token ids of one text before it was masked, in the stored dtype."""
        return self._part_of("tokens", index)

    def mask_of(self, index: int) -> tuple[Array, Array]:
        """Return int64[N] the masked positions of one text, and the tokens that are shown there, in the stored dtype."""
        return self._part_of("positions", index).astype(np.int64), self._part_of("shown", index)

    def highest_token(self) -> int:
        """Return the highest token id."""
        return max(int(self._values[name].max(initial=0)) for name in ("tokens", "shown"))

    def keys(self) -> list[str]:
        found: list[str] = self.batch.column("key").to_pylist()
        return found

    def domains(self) -> list[str | None]:
        """Return None for each text: masked texts have no domains."""
        return [None] * len(self)

    def domain_column(self) -> pa.Array:
        return pa.nulls(len(self), pa.string())

    def gold(self) -> Array:
        begins_N = np.repeat(self._offsets["tokens"][:-1], self.row_count_S)
        return np.asarray(self._values["tokens"][begins_N + self._values["positions"]], np.int64)

    def sample(self, index: int) -> MaskedText:
        value = {name: self.batch.column(name)[index].as_py() for name in ("key", "document", "window", "start")}
        positions_N, shown_N = self.mask_of(index)
        return MaskedText(tokens_T=self.tokens_of(index), positions_N=positions_N, shown_N=shown_N, **value)


class MaskedSamples:
    """Masked texts on disk; see `logitstore.store.samples.StoredSamples`."""

    shared = None

    def open_shared(self, storage: Storage, manifest: Manifest) -> None:
        """Open nothing: the parts say all about the texts."""

    def open(self, path: Path, manifest: Manifest, part: int, shared: None) -> MaskedFile:
        return MaskedFile(path, manifest.span(part), manifest.token_dtype)

    def write(self, path: Path, manifest: Manifest, samples: Sequence[MaskedText], nll_S: Array) -> None:
        write_texts(path, samples, nll_S, manifest.token_dtype)

    def problems(self, samples: MaskedFile, record: PartRecord, manifest: Manifest) -> Iterator[str]:
        data, vocabulary = info_of(manifest), manifest.teacher.vocabulary
        if int(samples.row_count_S.sum()) != record.rows or not (samples.row_count_S > 0).all():
            yield "the masked positions are not the record's rows, or a text has none"
        if int(samples.lengths_S.sum()) != record.tokens:
            yield "the count of tokens is not the record's"
        if int(samples.lengths_S.max(initial=0)) > data.max_length:
            yield f"a text has more than {data.max_length} tokens"
        if samples.highest_token() >= vocabulary:
            yield f"a token id is not below the vocabulary of {vocabulary}"
            return
        masker = masker_of(data.mask, vocabulary)
        is_other, is_misnamed = False, False
        for index, key in enumerate(samples.keys()):
            tokens_T, found = samples.tokens_of(index), samples.mask_of(index)
            view, number = divmod(samples.first + index, manifest.samples)
            expected = masker.mask(tokens_T, number, view)
            is_other |= not all(map(np.array_equal, expected, found))
            is_misnamed |= key != key_of(tokens_T, *found)
        if is_other:
            yield "a mask is not the one that the seed and the rule make"
        if is_misnamed:
            yield "a key is not the hash of its tokens and its mask"
        if problem := samples.nll_problem():
            yield problem

    def difference(self, stored: MaskedText, asked: MaskedText) -> str | None:
        """Return None: the key covers tokens and mask."""
        return None

    def mismatch(self, here: Manifest, there: Manifest) -> tuple[str, str] | None:
        """Return None: the keys say all."""
        return None

    def advice(self, here: Manifest, there: Manifest) -> tuple[str, str]:
        if here.tokenizer != there.tokenizer:
            return (
                "their teachers have different tokenizers, so the same text makes other samples",
                f"Take one whose teacher has the tokenizer of {here.teacher.name}.",
            )
        if info_of(here).mask != info_of(there).mask:
            return (
                "their tokens are masked by different rules or seeds",
                "Dump both with the same --seed, --mask-share, --mask-random and --mask-unchanged.",
            )
        return (
            "{difference}, so the data, or how they are cut into windows, differ",
            "Dump both with the same --data, --limit, --column and --max-length.",
        )


def masked_of(samples: PartSamples) -> MaskedFile:
    """Return the samples of a part as masked texts.

    Raises:
        BadInput: they are something else.
    """
    if not isinstance(samples, MaskedFile):
        raise BadInput("this cache holds no masked texts.")
    return samples
