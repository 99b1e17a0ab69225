"""Read a shuffled epoch as ready tensors, with our loader and with what people would use instead: `python
benchmarks/readers.py`.

All readers have the same rows: windows of 512 rows, 32 listed tokens of 49,152 and their logprobs, 16 bits each. They
deliver int64 and float32 tensors, eight windows at a time, in shuffled order unless a format can be read in its own order
only. One core, warm page cache, readers take turns. Slow readers get fewer windows; the figures are rows per second.
"""

from __future__ import annotations

import io
import os
import shutil
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
import zarr
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from bench import at_least, at_most, console, found, save
from logitstore.core.types import Array
from logitstore.store.cache import Cache
from logitstore.train.loader.loader import Loader
from synthetic import make_cache

FOLDER = Path("build/readers")
SAMPLES, ROWS, LISTED, BATCH, ROUNDS = 2048, 512, 32, 8, 5
SHARD = 128

Read = Callable[[Array], Iterator[Any]]
"""A function that gives the windows of some numbers as tensors, batch by batch."""


def main() -> None:
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    datasets.disable_progress_bars()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    options = {"samples": SAMPLES, "rows": ROWS}
    plain = make_cache(FOLDER / "plain", "topk", k=LISTED, logprobs="float16", tail="uniform", **options)
    small = make_cache(FOLDER / "small", "small", **options)
    fields = {
        name: np.concatenate([plain.part(p).fields[name] for p in plain.part_numbers]) for name in ("ids", "logprobs")
    }
    readers: dict[str, tuple[Read, int]] = {
        "raw memmap gather, one reused buffer": (raw(fields, reused=True), SAMPLES),
        "raw memmap gather, new tensors": (raw(fields, reused=False), SAMPLES),
        "logitstore, 16-bit layout": (partial(ours, plain), SAMPLES),
        "logitstore, small": (partial(ours, small), SAMPLES),
        "logitstore, 16-bit layout, as stored": (partial(ours, plain, decoded=False), SAMPLES),
        **dict(peers(fields)),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(ROUNDS + 1):
        for name, (read, count) in readers.items():
            order = np.random.default_rng(turn).permutation(SAMPLES)[:count]
            began = time.perf_counter()
            rows = sum(len(batch[0]) for batch in read(order))
            if turn:
                rates[name].append(rows / (time.perf_counter() - began) / 1e6)
    for name, speeds in rates.items():
        console.print(f"{name:45} {statistics.median(speeds):8.3f} million rows/s", highlight=False)
    save(
        "readers",
        lines_of(rates, plain),
        million_rows_per_second={name: statistics.median(speeds) for name, speeds in rates.items()},
    )


def lines_of(rates: dict[str, list[float]], cache: Cache) -> list[dict[str, Any]]:
    def over(ours: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(rates[ours], rates[other], strict=True))

    plain, small, as_stored = (f"logitstore, {name}" for name in ("16-bit layout", "small", "16-bit layout, as stored"))
    reused, new = "raw memmap gather, one reused buffer", "raw memmap gather, new tensors"
    streaming = [name for name in rates if name.startswith(("litdata", "lance", "webdataset"))]
    best = max(streaming, key=lambda name: statistics.median(rates[name]), default=None)
    once, often = one_document(cache)
    return [
        found("raw memmap gather, one reused buffer", statistics.median(rates[reused]), "million rows/s"),
        at_least("16-bit layout to raw gather into one buffer", 0.5, over(plain, reused)),
        found("16-bit layout to raw gather into new tensors", over(plain, new)),
        found("16-bit layout as stored, for a GPU to decode, to raw gather into one buffer", over(as_stored, reused)),
        at_least("small to raw gather into one buffer", 0.35, over(small, reused)),
        *([at_least(f"16-bit layout to the best streaming loader ({best})", 6, over(plain, best))] if best else []),
        at_least("16-bit layout to Parquet of lists", 200, over(plain, "Parquet of lists (as DistillKit)")),
        at_most("one random document, median", 100, once, "us"),
        at_most("one random document, 99 in 100", 300, often, "us"),
    ]


def one_document(cache: Cache) -> tuple[float, float]:
    """Return the median and the 99th percentile of the time to get one random document, microseconds."""
    seconds = []
    for number in np.random.default_rng(0).integers(0, len(cache), 5000).tolist():
        began = time.perf_counter()
        answer = cache[number].answer
        answer["ids"].sum(), answer["logprobs"][0, 0]
        seconds.append(time.perf_counter() - began)
    return 1e6 * statistics.median(seconds), 1e6 * float(np.quantile(seconds, 0.99))


def batches(order: Array) -> Iterator[list[int]]:
    return (order[first : first + BATCH].tolist() for first in range(0, len(order), BATCH))


def raw(fields: dict[str, Array], reused: bool) -> Read:
    """Return a reader of what NumPy and the disk can give: contiguous pieces are copied and cast."""
    files = {name: FOLDER / f"{name}.bin" for name in fields}
    for name, path in files.items():
        fields[name].tofile(path)
    ids, logprobs = (
        np.memmap(files[name], fields[name].dtype, "r", shape=fields[name].shape) for name in ("ids", "logprobs")
    )
    buffers = np.empty((BATCH * ROWS, LISTED), np.int64), np.empty((BATCH * ROWS, LISTED), np.float32)

    def read(order: Array) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in batches(order):
            wide_ids, wide_logprobs = buffers if reused else (np.empty_like(buffers[0]), np.empty_like(buffers[1]))
            for place, number in enumerate(numbers):
                target, source = (slice(at * ROWS, (at + 1) * ROWS) for at in (place, number))
                wide_ids[target], wide_logprobs[target] = ids[source], logprobs[source]
            yield torch.from_numpy(wide_ids), torch.from_numpy(wide_logprobs)

    return read


def ours(cache: Cache, order: Array, decoded: bool = True) -> Iterator[tuple[Any, ...]]:
    """Read with the loader, whose own shuffle replaces the given order; the tensors hold tokens, masks and scores too."""
    loader = Loader(cache, batch_size=BATCH, seed=int(order[0]), workers=0)
    for batch in loader:
        targets: Any = loader.targets(batch) if decoded else None
        yield (targets.ids_NK, targets.logprobs_NK) if decoded else (batch.answer["ids"],)


def peers(fields: dict[str, Array]) -> Iterator[tuple[str, tuple[Read, int]]]:
    """Yield the other readers, each with as many windows as it reads in a second or two; those not installed are left out."""
    windows = {name: value.reshape(SAMPLES, ROWS * LISTED) for name, value in fields.items()}
    yield "safetensors slices", (safetensors_reader(fields), SAMPLES)
    yield "datasets, Arrow decoded by hand", (datasets_reader(windows, "arrow"), SAMPLES)
    yield "datasets, torch format", (datasets_reader(windows, "torch"), 512)
    yield "zarr-python, 8 windows a chunk", (zarr_reader(fields), 512)
    yield "tar of samples (as Megatron-LM)", (tar_reader(windows), SAMPLES)
    yield "Parquet of lists (as DistillKit)", (parquet_reader(windows), 64)
    for name, make, count in (
        ("litdata", litdata_reader, SAMPLES),
        ("lance", lance_reader, SAMPLES),
        ("webdataset", webdataset_reader, SAMPLES),
    ):
        if find_spec(name) is None:
            console.print(f"{name} is not installed and left out")
        else:
            yield name, (make(windows), count)


def tensors(ids: Any, logprobs: Any) -> tuple[Tensor, Tensor]:
    """Return windows put together, as a training loop needs them."""
    together = (np.concatenate([np.asarray(each) for each in some]) for some in (ids, logprobs))
    wide_ids, wide_logprobs = (torch.from_numpy(each.reshape(-1, LISTED)) for each in together)
    return wide_ids.long(), wide_logprobs.float()


def safetensors_reader(fields: dict[str, Array]) -> Read:
    save_file(fields, FOLDER / "rows.safetensors")
    opened = safe_open(FOLDER / "rows.safetensors", "pt")
    ids, logprobs = opened.get_slice("ids"), opened.get_slice("logprobs")

    def read(order: Array) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in batches(order):
            spans = [slice(number * ROWS, (number + 1) * ROWS) for number in numbers]
            yield torch.cat([ids[span] for span in spans]).long(), torch.cat([logprobs[span] for span in spans]).float()

    return read


def datasets_reader(windows: dict[str, Array], form: str) -> Read:
    folder = FOLDER / "datasets"
    if not folder.exists():
        columns = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(value.ravel()), ROWS * LISTED)
            for name, value in windows.items()
        }
        datasets.Dataset(pa.table(columns)).save_to_disk(str(folder))
    rows = datasets.load_from_disk(str(folder)).with_format(form)

    def read(order: Array) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in batches(order):
            if form == "torch":
                some = [rows[number] for number in numbers]
                ids, logprobs = ([each[name].reshape(ROWS, LISTED) for each in some] for name in ("ids", "logprobs"))
                yield torch.cat(ids).long(), torch.cat(logprobs).float()
            else:
                table = [rows[number] for number in numbers]
                arrow = ([each[name].chunk(0).flatten().to_numpy() for each in table] for name in ("ids", "logprobs"))
                yield tensors(*arrow)

    return read


def zarr_reader(fields: dict[str, Array]) -> Read:
    for name, value in fields.items():
        made = zarr.create_array(
            FOLDER / "rows.zarr" / name,
            shape=value.shape,
            chunks=(8 * ROWS, LISTED),
            dtype=value.dtype,
            compressors=None,
        )
        made[:] = value
    ids, logprobs = (zarr.open_array(FOLDER / "rows.zarr" / name, mode="r") for name in ("ids", "logprobs"))

    def read(order: Array) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in batches(order):
            spans = [slice(number * ROWS, (number + 1) * ROWS) for number in numbers]
            yield tensors([ids[span] for span in spans], [logprobs[span] for span in spans])

    return read


def tar_reader(windows: dict[str, Array]) -> Read:
    """Return a reader of samples in a tar file, each one file of bytes; it can be read in its own order only."""
    path = FOLDER / "samples.tar"
    with tarfile.open(path, "w") as tar:
        for number in range(SAMPLES):
            for name, value in windows.items():
                add(tar, f"{number}.{name}", value[number].tobytes())

    def read(order: Array) -> Iterator[tuple[Tensor, Tensor]]:
        with tarfile.open(path) as tar:
            arrays: dict[str, list[Array]] = {"ids": [], "logprobs": []}
            for member in tar:
                name = member.name.partition(".")[2]
                content = tar.extractfile(member)
                assert content is not None
                arrays[name].append(np.frombuffer(content.read(), windows[name].dtype))
                if len(arrays["logprobs"]) == BATCH:
                    yield tensors(arrays["ids"], arrays["logprobs"])
                    arrays = {"ids": [], "logprobs": []}

    return read


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def parquet_reader(windows: dict[str, Array]) -> Read:
    """Return a reader of one row a window, each column a list of lists, which `datasets` gives as Python lists."""
    some = 128
    pieces = np.arange(0, some * ROWS * LISTED + 1, LISTED, dtype=np.int32)
    columns = {}
    for name, value in windows.items():
        flat = pa.array(value[:some].ravel().astype(np.int64 if name == "ids" else np.float32))
        lists = pa.ListArray.from_arrays(pa.array(pieces), flat)
        columns[name] = pa.ListArray.from_arrays(pa.array(np.arange(0, some * ROWS + 1, ROWS, dtype=np.int32)), lists)
    pyarrow.parquet.write_table(pa.table(columns), FOLDER / "lists.parquet")
    rows = datasets.Dataset.from_parquet(str(FOLDER / "lists.parquet"), cache_dir=str(FOLDER / "parquet-cache"))

    def read(order: Array) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in batches(order % some):
            some_rows = [rows[number] for number in numbers]
            ids, logprobs = ([torch.tensor(each[name]) for each in some_rows] for name in ("ids", "logprobs"))
            yield torch.cat(ids), torch.cat(logprobs)

    return read


def litdata_reader(windows: dict[str, Array]) -> Read:
    import litdata  # noqa: PLC0415

    folder = FOLDER / "litdata"
    made = litdata.streaming.Cache(str(folder), chunk_bytes="64MB")
    for number in range(SAMPLES):
        made[number] = {name: torch.from_numpy(value[number].view(np.int16)) for name, value in windows.items()}
    made.done()
    made.merge(1)

    def read(order: Array) -> Iterator[tuple[Tensor, Tensor]]:
        stream = iter(litdata.StreamingDataset(str(folder), shuffle=True, seed=int(order[0])))
        for numbers in batches(order):
            some = [next(stream) for _ in numbers]
            ids = [each["ids"].numpy().view(np.uint16) for each in some]
            yield tensors(ids, [each["logprobs"].numpy().view(np.float16) for each in some])

    return read


def lance_reader(windows: dict[str, Array]) -> Read:
    import lance  # noqa: PLC0415

    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(value.ravel()), ROWS * LISTED)
        for name, value in windows.items()
    }
    rows = lance.write_dataset(pa.table(columns), str(FOLDER / "rows.lance"))

    def read(order: Array) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in batches(order):
            table = rows.take(numbers)
            yield tensors(*([table[name].combine_chunks().flatten().to_numpy()] for name in ("ids", "logprobs")))

    return read


def webdataset_reader(windows: dict[str, Array]) -> Read:
    import webdataset  # noqa: PLC0415

    (FOLDER / "shards").mkdir()
    for first in range(0, SAMPLES, SHARD):
        with tarfile.open(FOLDER / "shards" / f"{first // SHARD:05d}.tar", "w") as tar:
            for number in range(first, first + SHARD):
                for name, value in windows.items():
                    add(tar, f"{number:06d}.{name}", value[number].tobytes())
    shards = str(FOLDER / "shards" / f"{{00000..{SAMPLES // SHARD - 1:05d}}}.tar")

    def read(order: Array) -> Iterator[tuple[Tensor, Tensor]]:
        stream = iter(
            webdataset.WebDataset(shards, shardshuffle=100, seed=int(order[0]), empty_check=False).shuffle(256)
        )
        for numbers in batches(order):
            some = [next(stream) for _ in numbers]
            ids = [np.frombuffer(each["ids"], np.uint16) for each in some]
            yield tensors(ids, [np.frombuffer(each["logprobs"], np.float16) for each in some])

    return read


if __name__ == "__main__":
    main()
