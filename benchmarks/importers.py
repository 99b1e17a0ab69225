"""How fast lists that DistillKit stored become rows, on one core: `python benchmarks/importers.py`.

The data are invented, in the shape of its largest public sets: 128 tokens of a vocabulary of 151,936, the first 32 differences
of logprobs as bfloat16, a polynomial with 3 terms for the others, and texts of 1,023 tokens. The source is a Parquet file of
lists of lists of bytes, as its writer makes them.

Axes: N rows, K listed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
import yaml
from transformers import PreTrainedTokenizerFast

import bench
from logitstore.core.types import Array
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.presets import row_of
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.text.foreign.block import Lists
from logitstore.text.foreign.convert import convert
from logitstore.text.foreign.formats.distillkit_config import QuantizedConfig
from logitstore.text.foreign.formats.distillkit_values import quantized_values
from logitstore.text.foreign.formats.packed import unpacked
from logitstore.text.foreign.lists import Changes, ListReader

VOCABULARY, K, EXACT, LENGTH, TEXTS, ROUNDS = 151_936, 128, 32, 1024, 96, 5
ROWS = 8192
"""Rows that are decoded together, as `convert` does."""

CONFIG: dict[str, Any] = {
    "d": VOCABULARY,
    "k": K,
    "exact_k": EXACT,
    "exact_dtype": "bfloat16",
    "polynomial_terms": [0, 1, 2],
    "term_dtype": "float32",
    "residual_bins": [],
    "delta_encoding": True,
}


def packed_ids(draw: np.random.Generator, count: int) -> Array:
    """Return the packed ids of some rows, uint8[N, B]."""
    ids_NK = np.stack([draw.choice(VOCABULARY, K, replace=False) for _ in range(count)])
    width = (VOCABULARY - 1).bit_length()
    bits = (ids_NK[:, :, None] >> np.arange(width - 1, -1, -1)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(count, -1), axis=1)


def stored_values(draw: np.random.Generator, count: int) -> Array:
    """Return the bytes of the values of some rows, uint8[N, B]: differences of falling logprobs."""
    logits_NK = np.sort(draw.normal(0, 2.5, (count, K + 20)), axis=1)[:, ::-1][:, :K]
    logprobs_NK = logits_NK - np.log(np.exp(logits_NK).sum(1, keepdims=True)) - 0.05
    deltas_NK = np.concatenate([logprobs_NK[:, :1], np.diff(logprobs_NK, axis=1)], 1)
    terms_AP = np.stack([np.arange(K - EXACT, dtype=np.float64) ** power for power in range(3)], 1)
    coefficients_NP = (deltas_NK[:, EXACT:] @ np.linalg.pinv(terms_AP).T).astype("<f4")
    exact_NE = np.ascontiguousarray(deltas_NK[:, :EXACT], np.float32).view(np.uint32)
    halves_NE = ((exact_NE + 0x7FFF + ((exact_NE >> 16) & 1)) >> 16).astype("<u2")
    return np.concatenate([halves_NE.view(np.uint8), coefficients_NP.view(np.uint8)], axis=1)


def write_source(folder: Path, draw: np.random.Generator) -> Path:
    """Write a source as DistillKit does, and a tokenizer of so many words beside it. Return its folder."""
    source = folder / "source"
    source.mkdir()
    rows = LENGTH - 1
    ids_NB, values_NB = (
        np.tile(some, (TEXTS * rows // len(some) + 1, 1))[: TEXTS * rows]
        for some in (packed_ids(draw, 4093), stored_values(draw, 4093))
    )

    def nested(values_NB: Array) -> pa.Array:
        inside = pa.ListArray.from_arrays(
            np.arange(len(values_NB) + 1, dtype=np.int32) * values_NB.shape[1], values_NB.ravel()
        )
        return pa.ListArray.from_arrays(np.arange(TEXTS + 1, dtype=np.int32) * rows, inside)

    tokens_T = draw.integers(0, VOCABULARY, TEXTS * LENGTH).astype(np.uint64)
    table = pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(np.arange(TEXTS + 1, dtype=np.int32) * LENGTH, tokens_T),
            "compressed_logprobs": nested(values_NB),
            "bytepacked_indices": nested(ids_NB),
        }
    )
    pq.write_table(table, source / "data_0.parquet")
    (source / "compression_config.yaml").write_text(yaml.safe_dump(CONFIG))
    words = tokenizers.models.WordLevel({str(word): word for word in range(VOCABULARY)}, unk_token="0")
    PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(words)).save_pretrained(folder / "tokenizer")
    return source


def main() -> None:
    """Measure the steps alone, then the command."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    draw = np.random.default_rng(0)
    config = QuantizedConfig.model_validate(CONFIG)
    ids_NB, values_NB = packed_ids(draw, ROWS), stored_values(draw, ROWS)
    ids_NK, logprobs_NK = unpacked(ids_NB, config.id_bits, K), quantized_values(config, values_NB)
    gold_N = ids_NK[:, 3].astype(np.int64)

    def made(k: int) -> dict[str, Array]:
        reader = ListReader(
            k=k, vocabulary=VOCABULARY, head=VOCABULARY, knows_mass=True, knows_gold=False, changes=Changes()
        )
        return reader(Lists(ids_NK=ids_NK, logprobs_NK=logprobs_NK), gold_N, str)

    codecs = {k: RowCodec(row=row_of("topk", {"k": k, "tail": "uniform"}, VOCABULARY, None)) for k in (K, 50)}
    kept = {k: made(k) for k in codecs}
    seconds = bench.in_turns(
        {
            "decode": lambda: (unpacked(ids_NB, config.id_bits, K), quantized_values(config, values_NB)),
            **{f"rows {k}": partial(made, k) for k in codecs},
            **{f"encode {k}": partial(codec.encode, kept[k]) for k, codec in codecs.items()},
        },
        ROUNDS * 5,
        2,
    )
    rate = {name: ROWS / statistics.median(times) for name, times in seconds.items()}
    lines = [bench.at_least("DistillKit's bytes become ids and logprobs, 128 a row", 200_000, rate["decode"], "rows/s")]
    for k in codecs:
        names = ("decode", f"rows {k}", f"encode {k}")
        every = ROWS / statistics.median(sum(times) for times in zip(*(seconds[name] for name in names), strict=True))
        lines.append(bench.found(f"they become checked rows of {k} in our bytes", every, "rows/s"))
    with tempfile.TemporaryDirectory() as folder:
        source, times = write_source(Path(folder), draw), {k: list[float]() for k in codecs}
        for turn in range(ROUNDS):
            for k, taken in times.items():
                out = Path(folder) / f"out-{k}-{turn}"
                settings = ConvertSettings(source=source, out=out, tokenizer=str(Path(folder) / "tokenizer"), k=k)
                began: list[float] = []
                convert(
                    settings,
                    lambda step, began=began: began.append(time.perf_counter()) if step.stage == "convert" else None,
                )
                # from the first rows that are written to the last; the tokenizer of so many words takes its own time
                taken.append((began[-1] - began[0]) / (len(began) - 1))
        per_block = TEXTS * (LENGTH - 1) / len(began)
        for k, taken in times.items():
            name = f"`convert` from Parquet to a cache, rows of {k}, reading and writing included"
            lines.append(bench.found(name, per_block / statistics.median(taken), "rows/s"))
    bench.save("importers", lines, rows=TEXTS * (LENGTH - 1), rounds=ROUNDS)


if __name__ == "__main__":
    main()
