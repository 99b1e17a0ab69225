"""Labelled texts: a sample as a teacher is asked about it, and `samples.arrow`. No torch.

The text is stored, not its tokens: a class means the same to a student with another tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import xxhash

from logitstore.core.types import Array
from logitstore.errors import CacheDamaged
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.store.samples import PartSamples, map_batch
from logitstore.store.storage import Storage


@dataclass(frozen=True, kw_only=True)
class LabelledText:
    """One text; its one row is about its class.

    Attributes:
        document: its number in the data.
        text: the text itself.
        label: number of its class.
    """

    length: ClassVar[int] = 1
    rows: ClassVar[int] = 1

    document: int
    text: str
    label: int

    @property
    def key(self) -> str:
        """xxh3-128, in hex, of the number and the text: the same text may stand in the data twice."""
        return xxhash.xxh3_128_hexdigest(f"{self.document}\0{self.text}".encode("utf-8", "surrogatepass"))

    @property
    def gold_N(self) -> Array:
        """int64[1]: the class."""
        return np.array([self.label], np.int64)


SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("nll", pa.float32(), nullable=False),
    ]
)


class LabelledTextFile(PartSamples):
    """A mapped `samples.arrow` of labelled texts."""

    def __init__(self, path: Path, span: slice) -> None:
        """Map the file. Raises CacheDamaged: it holds something else, or another count of texts."""
        batch = map_batch(path, SCHEMA)
        if batch.num_rows != span.stop - span.start:
            raise CacheDamaged(f"{path}: it does not hold the texts of this part. Run `logitstore verify`.")
        self._keys, self._texts = batch.column("key"), batch.column("text")
        self.label_S = batch.column("label").to_numpy().astype(np.int64)
        self.nll_S = batch.column("nll").to_numpy()
        self.lengths_S = self.row_count_S = np.ones(len(self), np.int64)
        self.row_start_S = np.arange(len(self))
        self.document_S = span.start + np.arange(len(self))

    def __len__(self) -> int:
        return len(self.label_S)

    def sample(self, index: int) -> LabelledText:
        return LabelledText(
            document=int(self.document_S[index]), text=self._texts[index].as_py(), label=int(self.label_S[index])
        )

    def keys(self) -> list[str]:
        found: list[str] = self._keys.to_pylist()
        return found

    def domains(self) -> list[str | None]:
        return [None] * len(self)


class LabelledTexts:
    """Labelled texts on disk; see `logitstore.store.samples.StoredSamples`."""

    shared = None

    def open_shared(self, storage: Storage, manifest: Manifest) -> None:
        """Open nothing: the parts say all."""

    def open(self, path: Path, manifest: Manifest, part: int, shared: Any) -> LabelledTextFile:
        return LabelledTextFile(path, manifest.span(part))

    def write(self, path: Path, manifest: Manifest, samples: Sequence[LabelledText], nll_S: Array) -> None:
        columns: dict[str, Any] = {name: [getattr(sample, name) for sample in samples] for name in SCHEMA.names[:-1]}
        columns["nll"] = nll_S.astype(np.float32)
        batch = pa.record_batch([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            writer.write_batch(batch)

    def problems(self, samples: LabelledTextFile, record: PartRecord, manifest: Manifest) -> Iterator[str]:
        if (len(samples), len(samples)) != (record.rows, record.tokens):
            yield "the count of texts is not the record's count of rows"
        if not ((samples.label_S >= 0) & (samples.label_S < manifest.teacher.vocabulary)).all():
            yield "a label is not among the classes"
        if samples.keys() != [samples.sample(index).key for index in range(len(samples))]:
            yield "a key is not the hash of its text"
        if not (samples.nll_S >= 0).all():
            yield "an nll is negative or NaN"

    def difference(self, stored: LabelledText, asked: LabelledText) -> str | None:
        return None if stored.label == asked.label else f"text {asked.document} has another label"

    def mismatch(self, here: Manifest, there: Manifest) -> None:
        """Return None: caches of the same texts fit together."""

    def advice(self, here: Manifest, there: Manifest) -> tuple[str, str]:
        return "{difference}, so the data differ", "Dump both with the same --data and --limit."
