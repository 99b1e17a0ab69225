"""DistillKit's teacher logits, of both generations and raw, also packed into rows of several samples.

The schema is that of https://github.com/arcee-ai/DistillKit at commit a61c2e7 (sample_common.py, compression/, pack_logits.py):
one record has `input_ids` and, for each token but the last, compressed values and packed ids of the most probable next tokens.
A packed record has several samples, and `attention_mask` numbers them from 1. Axes: N rows, B bytes of a row, K entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.text.foreign.block import Block, Foreign, Lists
from logitstore.text.foreign.formats.distillkit_config import (
    LegacyConfig,
    QuantizedConfig,
    legacy_config,
    quantized_config,
)
from logitstore.text.foreign.formats.distillkit_values import legacy_values, quantized_values
from logitstore.text.foreign.formats.packed import unpacked
from logitstore.text.foreign.records import Records
from logitstore.text.foreign.tables import Tables, files_in, flat, inner, lengths_of

TOKENS, SAMPLES, LABELS = "input_ids", "attention_mask", "labels"

UNLEARNED = -100
"""The label of a token that is not to be learned, as PyTorch has it."""

Generation = Literal["quantized", "legacy", "raw"]

COLUMNS: dict[Generation, tuple[str, ...]] = {
    "quantized": ("bytepacked_indices", "compressed_logprobs"),
    "legacy": ("packed_indices", "exact_values", "coeffs"),
    "raw": ("token_ids", "top_values"),
}
"""The columns of each generation, that with the ids first."""


def open_source(settings: ConvertSettings) -> Foreign:
    """Open a source of DistillKit.

    Raises:
        BadInput: there are no files with these columns, or the configuration of their compression is missing or wrong.
    """
    tables = Tables.of(files_in(settings.source, (".parquet", ".arrow"), settings.split), watched=(SAMPLES, LABELS))
    names = tables.schema.names
    generation = next((name for name, columns in COLUMNS.items() if {TOKENS, *columns} <= set(names)), None)
    if generation is None:
        known = "; or ".join(", ".join(columns) for columns in COLUMNS.values())
        raise BadInput(f"{settings.source}: of DistillKit it needs {TOKENS} and {known}. It has {', '.join(names)}.")
    if generation == "quantized" and settings.values not in (None, "logprobs"):
        raise BadInput(f"--values {settings.values}: compressed_logprobs are logprobs. Leave it out.")
    decoder = _decoder(settings, generation, tables)
    return Foreign(
        format="distillkit",
        files=[table.path for table in tables.tables],
        said=f"{generation} {decoder.said}",
        gold="listed" if decoder.knows_mass else "none",
        mass="known" if decoder.knows_mass else "unknown",
        entries=decoder.entries,
        vocabulary=decoder.vocabulary,
        column=TOKENS,
        is_partial=LABELS in names,
        records=tables.records,
        blocks=_Reader(tables=tables, decoder=decoder),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decoder:
    """Turns the columns of a generation into lists.

    Attributes:
        columns: that it reads, that with the ids first.
        lists: makes ids and values of some rows of each.
        knows_mass: the values are logprobs.
    """

    columns: tuple[str, ...]
    lists: Callable[[list[Array]], tuple[Array, Array]]
    knows_mass: bool
    entries: int
    vocabulary: int | None
    said: str


def _decoder(settings: ConvertSettings, generation: Generation, tables: Tables) -> _Decoder:
    columns = COLUMNS[generation]
    if generation == "quantized":
        config = quantized_config(settings.source, settings.compression)
        return _Decoder(
            columns=columns,
            lists=lambda stored: _quantized(config, *stored),
            knows_mass=True,
            entries=config.k,
            vocabulary=config.d,
            said=config.model_dump_json(),
        )
    # of the legacy generation the teacher's logits were stored, less their mean; raw values are taken for logprobs there
    knows_mass = (settings.values or ("logits" if generation == "legacy" else "logprobs")) == "logprobs"
    if generation == "legacy":
        legacy = legacy_config(settings.source, settings.compression)
        return _Decoder(
            columns=columns,
            lists=lambda stored: _legacy(legacy, *stored),
            knows_mass=knows_mass,
            entries=legacy.k,
            vocabulary=legacy.vocab_size,
            said=f"{knows_mass} {legacy.model_dump_json()}",
        )
    if settings.compression is not None:
        raise BadInput(f"--compression {settings.compression}: raw lists are not compressed. Leave it out.")
    entries = _entries(tables, columns[0])
    return _Decoder(
        columns=columns,
        lists=lambda stored: (stored[0], stored[1].astype(np.float32)),
        knows_mass=knows_mass,
        entries=entries,
        vocabulary=None,
        said=f"{knows_mass} {entries}",
    )


def _entries(tables: Tables, name: str) -> int:
    """Return the entries of the first raw list. Raises BadInput: there is none."""
    for first, batch in tables.batches([name]):
        lists = inner(batch.column(name), name, first)
        if len(lists):
            return int(lengths_of(lists[:1], name, first)[0])
    raise BadInput(f"the column '{name}' holds no list.")


def _quantized(config: QuantizedConfig, packed_NB: Array, values_NB: Array) -> tuple[Array, Array]:
    return unpacked(_bytes(packed_NB), config.id_bits, config.k), quantized_values(config, _bytes(values_NB))


def _legacy(config: LegacyConfig, packed_NW: Array, exact_NE: Array, coefficients_NC: Array) -> tuple[Array, Array]:
    return legacy_values(config, packed_NW, exact_NE, coefficients_NC)


def _bytes(values_NB: Array) -> Array:
    """Return bytes that may be stored as wider integers. Raises ValueError: one is none."""
    if values_NB.dtype == np.uint8:
        return values_NB
    if ((values_NB < 0) | (values_NB > 255)).any():
        raise ValueError("a byte is not from 0 to 255")
    return values_NB.astype(np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    """Reads the records; see `logitstore.text.foreign.block.Blocks`."""

    tables: Tables
    decoder: _Decoder

    def __call__(self, record: int, *, with_lists: bool) -> Iterator[Block]:
        names = [name for name in (TOKENS, SAMPLES, LABELS) if name in self.tables.schema.names]
        wanted = [*names, *(self.decoder.columns if with_lists else ())]
        for first, batch in self.tables.batches(wanted, record):
            records = records_of(first, {name: batch.column(name) for name in names})
            block = records.block()
            if with_lists and len(block.lengths_S):
                block = replace(block, lists=self._lists(first, batch, records))
            yield block

    def _lists(self, first: int, batch: pa.RecordBatch, records: Records) -> Lists:
        columns = [batch.column(name) for name in self.decoder.columns]
        rows_R = lengths_of(columns[0], self.decoder.columns[0], first)
        taken = records.rows_N(rows_R, "next")
        is_all = len(taken) == int(rows_R.sum())
        stored = []
        for column, name in zip(columns, self.decoder.columns, strict=True):
            if (lengths_of(column, name, first) != rows_R).any():
                raise BadInput(f"record {first} or one behind it: its columns have different counts of rows.")
            values_NX = even(column, name, first)
            stored.append(values_NX if is_all else values_NX[taken])
        try:
            ids_NK, values_NK = self.decoder.lists(stored)
        except ValueError as error:
            raise BadInput(
                f"record {first} or one behind it: {error}. Is the compression configured as it was made (--compression)?"
            ) from error
        return Lists(ids_NK=ids_NK, logprobs_NK=values_NK)


def even(column: pa.Array, name: str, first: int) -> Array:
    """Return [N, X], the inner lists of a column of lists of lists, which have the same length. Raises BadInput: they have
    not."""
    lists = inner(column, name, first)
    lengths = lengths_of(lists, name, first)
    size = int(lengths[0]) if len(lengths) else 0
    if (lengths != size).any():
        raise BadInput(f"record {first} or one behind it: the rows of '{name}' have different lengths.")
    return flat(lists, name, first, "iuf").reshape(len(lengths), size)


def records_of(first: int, columns: dict[str, Any]) -> Records:
    """Return the token ids of some records with `attention_mask`, which numbers samples, and `labels`, where they have them.

    Raises:
        BadInput: a column holds something else, or has another length than the tokens.
    """
    lengths_R = lengths_of(columns[TOKENS], TOKENS, first)
    for name in columns.keys() - {TOKENS}:
        if (lengths_of(columns[name], name, first) != lengths_R).any():
            raise BadInput(f"record {first} or one behind it: '{name}' has another length than '{TOKENS}'.")
    samples, labels = columns.get(SAMPLES), columns.get(LABELS)
    return Records(
        first=first,
        lengths_R=lengths_R,
        tokens_T=flat(columns[TOKENS], TOKENS, first).astype(np.int64),
        sample_T=None if samples is None else flat(samples, SAMPLES, first).astype(np.int64),
        learned_T=None if labels is None else flat(labels, LABELS, first).astype(np.int64) != UNLEARNED,
    )
