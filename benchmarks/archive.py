"""Compare ways to compress the rows of a cache: `python benchmarks/archive.py`.

Teacher: SmolLM2-135M-Instruct. Text: the first 21 topics of the Python language reference, as in the demo; 15,605 rows. The
teacher's hidden states are dumped once, and become the other presets by `recode`; the caches stay in build/archive. All is
compressed in chunks as an archive has them, unless a line says otherwise. The fields of a row are compressed alone, so a way is
judged field by field, and those of a whole row are added up. Speed is that of decompressing and of bringing the values back
into rows, on one thread: bytes of the layout mapped in each second, the median of seven rounds.

Axes: N rows, K values of a row.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numcodecs import Blosc, Zstd, blosc

import demo
from bench import console, in_turns, save
from logitstore.core.types import Array
from logitstore.format.codecs.bits import Bits
from logitstore.format.row import ARCHIVE_ROWS
from logitstore.store.cache import Cache
from logitstore.store.rows import archive_codecs, first_archive_codecs

FOLDER = Path("build/archive")
PRESETS = ("small", "faithful", "topk", "sampled", "exact")
ROUNDS = 7
CHUNKS = (1024, 4096, ARCHIVE_ROWS)


@dataclass(frozen=True)
class Way:
    """A way to compress one field: what is done to its rows before, and the compressor.

    Attributes:
        codec: has `encode` and `decode`; called with the bytes of an array.
        columns: whether the values of one column lie together.
    """

    codec: Any
    columns: bool = False

    def compress(self, rows_NK: Array) -> list[bytes]:
        """Return the chunks."""
        return [self.codec.encode(self._laid(rows_NK[first : first + ARCHIVE_ROWS])) for first in starts(rows_NK)]

    def _laid(self, rows_NK: Array) -> Array:
        return np.ascontiguousarray(rows_NK.T if self.columns else rows_NK)

    def restore(self, chunks: list[bytes], like_NK: Array) -> Array:
        """Return the rows of compressed chunks."""
        return np.concatenate([self._restored(chunk, like_NK) for chunk in chunks])

    def _restored(self, chunk: bytes, like_NK: Array) -> Array:
        flat = np.frombuffer(self.codec.decode(chunk), like_NK.dtype)
        width = like_NK.shape[1]
        return np.ascontiguousarray(flat.reshape(width, -1).T) if self.columns else flat.reshape(-1, width)


def main() -> None:
    blosc.use_threads = False
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    make_caches()
    found = {preset: fields_of(FOLDER / preset) for preset in PRESETS}
    rows = len(next(iter(found["small"].values())))
    ways = [line for preset in PRESETS for line in measured(preset, found[preset])]
    save(
        "archive",
        ways,
        rows=rows,
        presets=[totals(preset, found[preset]) for preset in PRESETS],
        chunks=[of_chunks(found["small"], size) for size in CHUNKS],
        packed=packed_ids(found["small"]["ids"]),
        order=order_of(found["small"]),
        skipped=[name for name in ("pcodec", "zstandard") if find_spec(name) is None],
    )


def make_caches() -> None:
    """Make the caches that are not there yet."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    demo.FOLDER, demo.TEXTS = FOLDER, FOLDER / "texts.jsonl"
    if not (FOLDER / "exact" / "parts" / "00000").exists():
        demo.write_texts()
        demo.run(
            "dump", "--teacher", demo.find_teacher(), "--data", demo.TEXTS, "--out", FOLDER / "exact", "--preset", "exact",
            "--max-length", "256", "--overlap", "32", "--samples-per-part", "4096",
        )  # fmt: skip
    for preset in PRESETS[:-1]:
        if not (FOLDER / preset / "parts" / "00000").exists():
            demo.run("recode", FOLDER / "exact", "--preset", preset, "--out", FOLDER / preset)


def fields_of(folder: Path) -> dict[str, Array]:
    """Return the stored fields of a cache, as rows [N, K]."""
    cache = Cache(folder)
    parts = [cache.part(number).fields for number in cache.part_numbers]
    arrays = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in cache.manifest.fields}
    return {name: array.reshape(len(array), -1) for name, array in arrays.items()}


def starts(rows_NK: Array, size: int = ARCHIVE_ROWS) -> range:
    return range(0, len(rows_NK), size)


def zstd(shuffle: str, columns: bool, level: int = 9, blocksize: int = 0) -> Way:
    """Return the way of Blosc with zstd."""
    kinds = {"none": Blosc.NOSHUFFLE, "bytes": Blosc.SHUFFLE, "bits": Blosc.BITSHUFFLE}
    return Way(Blosc("zstd", clevel=level, shuffle=kinds[shuffle], blocksize=blocksize), columns)


def ways_of(rows_NK: Array) -> dict[str, Way]:
    """Return the ways to compress a field, by what the page calls them."""
    column = min(len(rows_NK), ARCHIVE_ROWS) * rows_NK.dtype.itemsize
    ways = {
        "rows, blosc zstd 9": zstd("none", False),
        "rows, bytes shuffled, blosc zstd 9": zstd("bytes", False),
        "rows, bits shuffled, blosc zstd 9": zstd("bits", False),
        "rows, blosc zstd 5": zstd("none", False, 5),
        "rows, blosc zstd 1": zstd("none", False, 1),
        "rows, zstd 3": Way(Zstd(3)),
        "rows, zstd 19": Way(Zstd(19)),
        "columns, blosc zstd 9": zstd("none", True),
        "columns, bytes shuffled, blosc zstd 9": zstd("bytes", True),
        "columns, bits shuffled, blosc zstd 9": zstd("bits", True),
        "columns, blosc zstd 9, a block for each": zstd("none", True, 9, column),
        "columns, bytes shuffled, blosc zstd 9, a block for each": zstd("bytes", True, 9, column),
    }
    if find_spec("pcodec") and rows_NK.dtype.itemsize > 1:
        from numcodecs.pcodec import PCodec  # noqa: PLC0415

        ways |= {f"rows, pcodec {level}": Way(PCodec(level)) for level in (8, 12)}
    return ways


def measured(preset: str, fields: dict[str, Array]) -> list[dict[str, Any]]:
    """Return a line for each field and each way: bytes a row, and MB/s of reading back."""
    lines = []
    for field, rows_NK in fields.items():
        ways = ways_of(rows_NK)
        chunks = {name: way.compress(rows_NK) for name, way in ways.items()}
        reads: dict[str, Callable[[], Array]] = {}
        for name, way in ways.items():
            np.testing.assert_array_equal(way.restore(chunks[name], rows_NK), rows_NK)
            reads[name] = partial(way.restore, chunks[name], rows_NK)
        seconds = in_turns(reads, ROUNDS)
        for name in ways:
            line = {
                "name": f"{preset}, {field}: {name}",
                "preset": preset,
                "field": field,
                "way": name,
                "bare": rows_NK.nbytes / len(rows_NK),
                "bytes": bytes_of(chunks[name], rows_NK),
                "mb_per_second": float(f"{rows_NK.nbytes / 1e6 / median(seconds[name]):.3g}"),
            }
            lines.append(line)
            console.print(f"{line['name']}: {line['bytes']:g} B, {line['mb_per_second']:g} MB/s", highlight=False)
    return lines + [unlike(preset, fields, *each) for each in others(fields)]


def bytes_of(chunks: list[bytes], rows_NK: Array) -> float:
    return round(sum(map(len, chunks)) / len(rows_NK), 3)


def others(fields: dict[str, Array]) -> list[tuple[str, str, float]]:
    """Return what ways give that change what is stored: field, way, bytes a row. None of them is for an archive of today."""
    found = []
    column = zstd("none", True, 9, min(len(next(iter(fields.values()))), ARCHIVE_ROWS))
    if "logprobs" in fields and fields["logprobs"].dtype == np.uint8:
        levels_NK = fields["logprobs"]
        steps_NK = levels_NK.copy()
        steps_NK[:, 1:] = levels_NK[:, :-1] - levels_NK[:, 1:]
        found.append(
            (
                "logprobs",
                "steps to the next slot, columns, a block for each",
                bytes_of(column.compress(steps_NK), steps_NK),
            )
        )
    if find_spec("zstandard"):
        found += [
            (field, "rows, chunks of 1,024, zstd 19", of_small(rows_NK, False)) for field, rows_NK in fields.items()
        ]
        found += [
            (field, "rows, chunks of 1,024, zstd 19 with a dictionary", of_small(rows_NK, True))
            for field, rows_NK in fields.items()
        ]
    return found


def of_small(rows_NK: Array, with_dictionary: bool) -> float:
    """Return the bytes a row in chunks of 1,024 rows; a dictionary is trained on every second one, and counts."""
    import zstandard  # noqa: PLC0415

    pieces = [rows_NK[first : first + 1024].tobytes() for first in starts(rows_NK, 1024)]
    if not with_dictionary:
        compressor, extra = zstandard.ZstdCompressor(level=19), 0
    else:
        samples: list[Any] = [rows_NK[first : first + 16].tobytes() for first in range(0, len(rows_NK), 32)]
        trained = zstandard.train_dictionary(16384, samples)
        compressor, extra = zstandard.ZstdCompressor(level=19, dict_data=trained), len(trained.as_bytes())
    return float(round((sum(len(compressor.compress(piece)) for piece in pieces) + extra) / len(rows_NK), 3))


def unlike(preset: str, fields: dict[str, Array], field: str, way: str, size: float) -> dict[str, Any]:
    bare = fields[field].nbytes / len(fields[field])
    return {
        "name": f"{preset}, {field}: {way}",
        "preset": preset,
        "field": field,
        "way": way,
        "bare": bare,
        "bytes": size,
    }


def way_by(codecs: list[dict[str, Any]]) -> Way:
    """Return the way that the Zarr codecs of an archive name."""
    settings = codecs[-1]["configuration"]
    shuffles = {"noshuffle": "none", "shuffle": "bytes"}
    return zstd(
        shuffles[settings["shuffle"]], codecs[0]["name"] == "transpose", settings["clevel"], settings["blocksize"]
    )


def totals(preset: str, fields: dict[str, Array]) -> dict[str, Any]:
    """Return bytes a row and MB/s of a whole row, by the codecs of the first archives and by those of today."""
    infos = Cache(FOLDER / preset).manifest.fields
    rows = len(next(iter(fields.values())))
    ways = {
        "first": {name: way_by(first_archive_codecs(infos[name])) for name in fields},
        "today": {name: way_by(archive_codecs(name, infos[name], rows)) for name in fields},
    }
    line: dict[str, Any] = {"preset": preset, "bare": sum(each.nbytes for each in fields.values()) / rows}
    chunks = {which: {name: way.compress(fields[name]) for name, way in own.items()} for which, own in ways.items()}

    def read(which: str) -> None:
        for name, way in ways[which].items():
            way.restore(chunks[which][name], fields[name])

    seconds = in_turns({which: partial(read, which) for which in ways}, ROUNDS)
    for which, own in chunks.items():
        line[which] = round(sum(bytes_of(own[name], fields[name]) for name in fields), 2)
        line[f"{which}_mb_per_second"] = float(f"{line['bare'] * rows / 1e6 / median(seconds[which]):.3g}")
    console.print(line, highlight=False)
    return line


def of_chunks(fields: dict[str, Array], size: int) -> dict[str, Any]:
    """Return the bytes a row of small in chunks of `size` rows."""
    infos = Cache(FOLDER / "small").manifest.fields
    rows, total = len(fields["ids"]), 0.0
    for name, rows_NK in fields.items():
        pieces = [rows_NK[first : first + size] for first in starts(rows_NK, size)]
        total += sum(len(way_by(archive_codecs(name, infos[name], len(piece))).compress(piece)[0]) for piece in pieces)
    return {"rows": size, "bytes": round(total / rows, 2)}


def packed_ids(ids_NK: Array) -> dict[str, float]:
    """Return the bytes of the same ids in 18 bits each, as for a vocabulary of 151,936 tokens, in rows and in columns."""
    packed = Bits((18,) * ids_NK.shape[1]).encode(ids_NK.astype(np.int64))
    ways = ways_of(packed)
    names = "rows, blosc zstd 9", "columns, blosc zstd 9", "columns, blosc zstd 9, a block for each"
    return {"bare": packed.shape[1], **{name: bytes_of(ways[name].compress(packed), packed) for name in names}}


def order_of(fields: dict[str, Array]) -> dict[str, float]:
    """Return what comes of ids sorted by number: bytes a row of ids and levels, and what is lost of the order of slots."""
    ids_NK, levels_NK = fields["ids"], fields["logprobs"]
    order_NK = np.argsort(ids_NK, axis=1, kind="stable")
    sorted_NK, moved_NK = (np.take_along_axis(each, order_NK, 1) for each in (ids_NK, levels_NK))
    steps_NK = sorted_NK.copy()
    steps_NK[:, 1:] = sorted_NK[:, 1:] - sorted_NK[:, :-1]
    rows = zstd("none", False)
    ties = [np.unique(row, return_counts=True)[1] for row in levels_NK]
    lost = [sum(np.log2(np.arange(1, count + 1)).sum() for count in counts) for counts in ties]
    return {
        "ids": bytes_of(rows.compress(ids_NK), ids_NK),
        "levels": bytes_of(rows.compress(levels_NK), ids_NK),
        "sorted ids": bytes_of(rows.compress(sorted_NK), ids_NK),
        "steps of sorted ids": bytes_of(rows.compress(steps_NK), ids_NK),
        "levels in their order": bytes_of(rows.compress(moved_NK), ids_NK),
        "rows with equal levels": float(np.mean([bool((counts > 1).any()) for counts in ties]).round(3)),
        "bits of order lost": float(np.mean(lost).round(3)),
    }


if __name__ == "__main__":
    main()
