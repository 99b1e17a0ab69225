"""`samples.arrow` of a cache of classified texts: tokens, labels and, if they are kept, the texts. No torch.

Axes: S texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from logitstore.classification.sample import ClassifiedText, EncodedInfo, info_of, key_of
from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheDamaged
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.format.row import token_dtype
from logitstore.format.tasks.texts import ClassifiedInfo
from logitstore.store.samples import PartSamples, map_batch
from logitstore.store.storage import Storage


def schema_of(data: ClassifiedInfo) -> pa.Schema:
    """Return the columns of `samples.arrow`; docs/format.md describes each of them."""
    own = (pa.field("label", pa.int32(), nullable=False), pa.field("nll", pa.float32(), nullable=False))
    return encoded_schema(data, own[:1], own[1:])


def encoded_schema(data: EncodedInfo, before: Sequence[pa.Field], behind: Sequence[pa.Field] = ()) -> pa.Schema:
    """Return the columns of texts with their tokens.

    Args:
        data: what the manifest says of the data.
        before, behind: the task's own columns, before and behind the texts themselves.
    """
    kinds = {"tokens": pa.from_numpy_dtype(np.dtype(token_dtype(data.tokenizer.size)))}
    kinds |= {"types": pa.uint8()} if data.token_types else {}
    is_of_pairs = isinstance(data, ClassifiedInfo) and data.pair_column is not None
    texts = (["text"] + ["pair"] * is_of_pairs) if data.texts else []
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            *(
                pa.field(name, pa.list_(pa.field("item", kind, nullable=False)), nullable=False)
                for name, kind in kinds.items()
            ),
            *before,
            *(pa.field(name, pa.large_string(), nullable=False) for name in texts),
            *behind,
        ]
    )


def write_texts(path: Path, samples: Sequence[ClassifiedText], nll_S: Array, schema: pa.Schema) -> None:
    """Write the texts of a part; each has one row, in their order.

    Args:
        path: the new file.
        samples: the texts, in order.
        nll_S: float32, negative logprob of each label, nats; NaN without a label.
        schema: of the file, see `schema_of`.
    """
    offsets = pa.array(np.concatenate([[0], np.cumsum([each.length for each in samples])]).astype(np.int32))

    def column(field: pa.Field) -> pa.Array:
        if field.name == "nll":
            return pa.array(nll_S.astype(np.float32))
        if field.name in ("tokens", "types"):
            flat = np.concatenate([getattr(each, f"{field.name}_T") for each in samples])
            values = pa.array(flat.astype(field.type.value_type.to_pandas_dtype()))
            return pa.ListArray.from_arrays(offsets, values, type=field.type)
        return pa.array([getattr(each, field.name) for each in samples], field.type)

    batch = pa.record_batch([column(field) for field in schema], schema=schema)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(batch)


class EncodedFile(PartSamples):
    """A mapped `samples.arrow` of texts with their tokens, each of which has one row."""

    def __init__(self, path: Path, span: slice, schema: pa.Schema) -> None:
        """Map the file and check its header.

        Args:
            path: the file.
            span: the texts that it must hold.
            schema: its columns.

        Raises:
            CacheDamaged: it is not an Arrow file, has other columns, or holds another count of texts.
        """
        batch = map_batch(path, schema)
        self.batch = batch
        lists = [batch.column(name) for name in ("tokens", "types") if name in batch.schema.names]
        if batch.num_rows != span.stop - span.start:
            raise CacheDamaged(f"{path}: it does not hold the texts of this part. Run `logitstore verify`.")
        if any(each.values.null_count or not each.offsets.equals(lists[0].offsets) for each in lists):
            raise CacheDamaged(f"{path}: it has nulls, or types of other lengths than tokens. Run `logitstore verify`.")
        self._offsets = np.asarray(lists[0].offsets.to_numpy())
        self._lists = [each.values.to_numpy() for each in lists]
        self._has_texts, self._has_pairs = "text" in batch.schema.names, "pair" in batch.schema.names
        self.lengths_S = np.diff(self._offsets)
        self.row_count_S = np.ones(len(self), np.int64)
        self.row_start_S = np.arange(len(self))
        self.document_S = np.arange(span.start, span.stop)

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def tokens_of(self, index: int) -> Array:
        """Return a view of the token ids of one text, in the stored dtype."""
        return np.asarray(self._lists[0][self._offsets[index] : self._offsets[index + 1]])

    def types_of(self, index: int) -> Array | None:
        """Return the token types of one text, uint8; None where they are all 0."""
        if len(self._lists) < 2:
            return None
        return np.asarray(self._lists[1][self._offsets[index] : self._offsets[index + 1]])

    def texts_of(self, index: int) -> tuple[str, str | None]:
        """Return one text, and the second one of a pair. Raises BadInput: the cache keeps none."""
        if not self._has_texts:
            raise BadInput("this cache keeps no texts. Dump again without --no-texts.")
        pair = self.batch.column("pair")[index].as_py() if self._has_pairs else None
        return str(self.batch.column("text")[index].as_py()), pair

    def highest_token(self) -> int:
        """Return the highest token id."""
        return int(self._lists[0].max(initial=0))

    def keys(self) -> list[str]:
        found: list[str] = self.batch.column("key").to_pylist()
        return found

    def misnamed(self) -> bool:
        """Whether a key is not the hash of the text; False where texts are not kept."""
        if not self._has_texts:
            return False
        texts = self.batch.column("text").to_pylist()
        pairs = self.batch.column("pair").to_pylist() if self._has_pairs else [None] * len(self)
        return self.keys() != [key_of(text, pair) for text, pair in zip(texts, pairs, strict=True)]

    def domains(self) -> list[str | None]:
        """Return None for each text: such texts have no domains."""
        return [None] * len(self)

    def domain_column(self) -> pa.Array:
        return pa.nulls(len(self), pa.string())


class ClassifiedFile(EncodedFile):
    """A mapped `samples.arrow` of classified texts.

    Attributes:
        label_S: int64, the class of each text, or -1.
    """

    def __init__(self, path: Path, span: slice, data: ClassifiedInfo, classes: int) -> None:
        """Map the file and check its header.

        Args:
            path: the file.
            span: the texts that it must hold.
            data: what the manifest says of the data.
            classes: count of the teacher's classes.

        Raises:
            CacheDamaged: see `EncodedFile`; or a label is no class.
        """
        super().__init__(path, span, schema_of(data))
        self.label_S = self.batch.column("label").to_numpy().astype(np.int64)
        self.nll_S = self.batch.column("nll").to_numpy()
        if not ((self.label_S >= -1) & (self.label_S < classes)).all():
            raise CacheDamaged(f"{path}: a label is none of the {classes} classes. Run `logitstore verify`.")

    def gold(self) -> Array:
        return np.asarray(self.label_S)

    def nll_problem(self) -> str | None:
        is_possible_S = (self.nll_S >= 0) | (np.isnan(self.nll_S) & (self.label_S < 0))
        return None if is_possible_S.all() else "an nll is negative, or NaN where there is a label"

    def sample(self, index: int) -> ClassifiedText:
        text, pair = self.texts_of(index) if self._has_texts else (None, None)
        return ClassifiedText(
            key=str(self.batch.column("key")[index].as_py()),
            tokens_T=self.tokens_of(index),
            types_T=self.types_of(index),
            label=int(self.label_S[index]),
            document=int(self.document_S[index]),
            text=text,
            pair=pair,
        )


class ClassifiedTexts:
    """Classified texts on disk; see `logitstore.store.samples.StoredSamples`."""

    shared = None

    def open_shared(self, storage: Storage, manifest: Manifest) -> None:
        """Open nothing: the parts say all about the texts."""

    def open(self, path: Path, manifest: Manifest, part: int, shared: None) -> ClassifiedFile:
        return ClassifiedFile(path, manifest.span(part), info_of(manifest), manifest.teacher.vocabulary)

    def write(self, path: Path, manifest: Manifest, samples: Sequence[ClassifiedText], nll_S: Array) -> None:
        write_texts(path, samples, nll_S, schema_of(info_of(manifest)))

    def problems(self, samples: ClassifiedFile, record: PartRecord, manifest: Manifest) -> Iterator[str]:
        data = info_of(manifest)
        yield from encoded_problems(samples, record, data)
        if problem := samples.nll_problem():
            yield problem

    def difference(self, stored: ClassifiedText, asked: ClassifiedText) -> str | None:
        """Compare the labels: texts with the same key are the same."""
        if stored.label == asked.label:
            return None
        return f"its text {stored.document} has another label"

    def mismatch(self, here: Manifest, there: Manifest) -> tuple[str, str] | None:
        """Return None: the same texts fit together, whatever tokens their teachers make of them."""
        return None

    def advice(self, here: Manifest, there: Manifest) -> tuple[str, str]:
        return (
            "{difference}, so the texts or their labels differ",
            "Dump both with the same --data, --limit, --column, --pair-column and --label-column.",
        )


def encoded_problems(samples: EncodedFile, record: PartRecord, data: EncodedInfo) -> Iterator[str]:
    """Say what is wrong with the texts of a part and their tokens."""
    if len(samples) != record.rows:
        yield "the count of texts is not the record's count of rows"
    if int(samples.lengths_S.sum()) != record.tokens:
        yield "the count of tokens is not the record's"
    if not (samples.lengths_S > 0).all() or int(samples.lengths_S.max(initial=0)) > data.max_length:
        yield f"a text has no tokens, or more than {data.max_length}"
    if samples.highest_token() >= data.tokenizer.size:
        yield f"a token id is not below the {data.tokenizer.size} of the tokenizer"
    if samples.misnamed():
        yield "a key is not the hash of its text"


def encoded_of(samples: PartSamples) -> EncodedFile:
    """Return the samples of a part as texts with their tokens.

    Raises:
        BadInput: they are something else.
    """
    if not isinstance(samples, EncodedFile):
        raise BadInput("this cache holds no texts with one row each.")
    return samples


def classified_of(samples: PartSamples) -> ClassifiedFile:
    """Return the samples of a part as classified texts.

    Raises:
        BadInput: they are something else.
    """
    if not isinstance(samples, ClassifiedFile):
        raise BadInput("this cache holds no classified texts.")
    return samples
