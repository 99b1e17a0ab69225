"""Measure caches of very many parts: `python benchmarks/growth_cache.py`.

A cache of 10,000 parts declares 10^7 samples and 10^9 rows, one of 100,000 parts ten times as much. The parts have records
and samples of their own, with documents that count on from part to part, and the rows of one part by hard links (those of
100,000 parts have no rows: opening reads none). What is zero in a file of samples lies in no block of the disk. Every
measurement is a process of its own that has imported everything.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import in_a_process, resident
from logitstore.core.progress import no_progress
from logitstore.core.registry import resolve
from logitstore.core.types import Array
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.format.part_record import RECORD_NAME, PartRecord
from logitstore.format.presets import row_of
from logitstore.format.sealed import seal, seal_of_bytes, unseal
from logitstore.report.summary import summarise
from logitstore.settings.train import TrainSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.train.task import Place
from synthetic import VOCABULARY, make_cache, manifest_of

FOLDER = Path("build/growth-cache")
SAMPLES, ROWS, K = 1000, 100, 8
HOLDOUTS = (0.0, 0.01, 0.5)
_PAGE = 4096


def grown(folder: Path, parts: int, *, rows_too: bool) -> int:
    """Write a cache of many parts of 1,000 samples of 100 rows each; return the bytes that it takes on the disk.

    Args:
        folder: the new cache.
        parts: count of its parts.
        rows_too: give every part rows, hard links of one part's; of at most 60,000 parts, as many names as a file may have.
    """
    one = folder.with_name(f"{folder.name}-one")
    for each in (folder, one):
        shutil.rmtree(each, ignore_errors=True)
    make_cache(one, "topk", samples=SAMPLES, rows=ROWS, samples_per_part=SAMPLES, k=K, tail="uniform")
    first = layout.part_folder(one, 0)
    record = unseal(PartRecord, first / RECORD_NAME)
    row = row_of("topk", {"k": K, "tail": "uniform"}, VOCABULARY, None)
    manifest = manifest_of(row, row.tail, {}, parts * SAMPLES, ROWS, SAMPLES)
    (folder / layout.PARTS).mkdir(parents=True)
    (folder / MANIFEST_NAME).write_bytes(seal(manifest))
    samples, place = _template((first / layout.SAMPLES_FILE).read_bytes())
    for part in range(parts):
        made = layout.part_folder(folder, part)
        made.mkdir()
        numbers = np.arange(part * SAMPLES, (part + 1) * SAMPLES)
        samples[place : place + 8 * SAMPLES] = numbers.view(np.uint8)
        _write_sparse(made / layout.SAMPLES_FILE, samples)
        if rows_too:
            _link(first / layout.ROWS_FOLDER, made / layout.ROWS_FOLDER)
        files = record.files | {layout.SAMPLES_FILE: seal_of_bytes(samples.tobytes())}
        own = record.model_copy(update={"plan": manifest.identity, "part": part, "files": files})
        (made / RECORD_NAME).write_bytes(seal(own))
    shutil.rmtree(one)
    return _on_disk(folder)


def _template(raw: bytes) -> tuple[Array, int]:
    """Return the bytes of a file of samples without keys and tokens, and where the numbers of its documents stand."""
    tokens = np.tile(np.arange(ROWS + 1) % VOCABULARY, SAMPLES).astype(np.uint16).tobytes()
    keys = b"".join(f"{number:032x}".encode() for number in range(SAMPLES))
    documents = np.arange(SAMPLES, dtype=np.int64).tobytes()
    for piece in (tokens, keys):
        raw = raw.replace(piece, bytes(len(piece)))
    return np.frombuffer(bytearray(raw), np.uint8), raw.index(documents)


def _write_sparse(path: Path, content: Array) -> None:
    """Write a file, its zero pages as holes."""
    whole = len(content) // _PAGE * _PAGE
    is_full = np.append(content[:whole].reshape(-1, _PAGE).any(1), True)
    with path.open("wb") as file:
        for page in np.flatnonzero(is_full).tolist():
            file.seek(page * _PAGE)
            file.write(content[page * _PAGE : (page + 1) * _PAGE].data)
        file.truncate(len(content))


def _link(source: Path, target: Path) -> None:
    target.mkdir()
    with os.scandir(source) as entries:
        for entry in entries:
            place = target / entry.name
            if entry.is_dir():
                _link(Path(entry.path), place)
            else:
                os.link(entry.path, place)


def _on_disk(folder: Path) -> int:
    """Return the bytes of the blocks of a folder; a file with several names counts once."""
    seen: dict[int, int] = {}
    left = [str(folder)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                found = entry.stat(follow_symlinks=False)
                seen[found.st_ino] = 512 * found.st_blocks
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
    return sum(seen.values())


def opened(path: Path) -> dict[str, float]:
    """Open a cache."""
    began, cpu = time.perf_counter(), time.process_time()
    cache = Cache(path)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"seconds": seconds, "cpu_seconds": cpu, "parts": cache.index.parts, "samples": len(cache)}


def gathered(path: Path) -> dict[str, float]:
    """Open a cache without an index, and ask for what its parts say."""
    shutil.rmtree(path / layout.SIDECARS, ignore_errors=True)
    began, cpu = time.perf_counter(), time.process_time()
    cache = Cache(path)
    cache.column("documents")
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    parts = cache.index.parts
    return {"seconds": seconds, "cpu_seconds": cpu, "parts": parts, "parts_per_second": parts / seconds}


def first_batch(path: Path, holdout: float) -> dict[str, float]:
    """Do what `train` does with a cache before its first step, but for the student: open, hold out, plan, first batch."""
    settings = TrainSettings(cache=path, out=FOLDER / "student", holdout=holdout, batch_size=8, device="cpu")
    task: Any = resolve("logitstore.text.train:TextTraining")()
    peak = Peak()
    began, cpu = time.perf_counter(), time.process_time()
    with peak:
        cache = Cache(path)
        cache.check_soon()
        data = task.open(settings, cache, None, None, [], Place(), no_progress)
        longest = data.train.longest
        batch = data.train.at(0, 0)
        data.train.targets(batch)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    held = 0 if data.held_out is None else data.held_out.count
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "anonymous_bytes": resident("RssAnon") - peak.before,
        "anonymous_peak_bytes": peak.most - peak.before,
        "held_out": held,
        "longest": longest,
    }


def inspected(path: Path) -> dict[str, float]:
    """Run `logitstore inspect` as a user does, with all imports; and its own work alone."""
    command = [sys.executable, "-m", "logitstore", "inspect", str(path)]
    began, cpu = time.perf_counter(), _cpu_of_children()
    subprocess.run(command, check=True, capture_output=True)
    whole, cpu = time.perf_counter() - began, _cpu_of_children() - cpu
    began = time.perf_counter()
    summarise(Cache(path))
    return {"seconds": whole, "cpu_seconds": cpu, "own_seconds": time.perf_counter() - began}


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Peak:
    """Look again and again how much anonymous memory the process has, on a thread of its own."""

    def __init__(self) -> None:
        self.before = self.most = resident("RssAnon")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.most = max(self.most, resident("RssAnon"))


WAYS: dict[str, Any] = {"open": opened, "gather": gathered, "first-batch": first_batch, "inspect": inspected}


def measured(way: str, path: Path, *more: object) -> dict[str, float]:
    """Do one of WAYS in a process of its own."""
    return in_a_process(__file__, way, path, *more)


def make(folder: Path = FOLDER) -> dict[str, float]:
    """Write the three caches, with an index where there are parts enough; return the bytes on the disk of each."""
    bytes_of: dict[str, float] = {
        name: grown(folder / name, parts, rows_too=rows)
        for name, (parts, rows) in {"few": (10, True), "many": (10_000, True), "most": (100_000, False)}.items()
    }
    time.sleep(4)  # an index is trusted once its folder has been left alone for three seconds
    return bytes_of


def opening(folder: Path = FOLDER, rounds: int = 7) -> dict[str, Any]:
    """Compare opening 100,000 parts, with their index, with opening 10; and count the parts that are read in a second."""
    without = measured("gather", folder / "most")
    runs: dict[str, list[float]] = {"few": [], "most": []}
    for _ in range(rounds):
        for name, seconds in runs.items():
            seconds.append(measured("open", folder / name)["seconds"])
    ratios = [most / few for most, few in zip(runs["most"], runs["few"], strict=True)]
    return {
        "without_index": without,
        "few_seconds": statistics.median(runs["few"]),
        "most_seconds": statistics.median(runs["most"]),
        "most_over_few": statistics.median(ratios),
        "index_bytes": _on_disk(folder / "most" / layout.SIDECARS),
    }


def beginning(folder: Path = FOLDER, rounds: int = 3) -> dict[str, Any]:
    """Measure the way to the first batch with 10,000 parts, 10^7 samples and 10^9 rows, and `inspect` there."""
    path = folder / "many"
    without = measured("gather", path)
    found: dict[str, Any] = {"without_index": without}
    for holdout in HOLDOUTS:
        runs = [measured("first-batch", path, holdout) for _ in range(rounds)]
        found[f"holdout {holdout:g}"] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    runs = [measured("inspect", path) for _ in range(rounds)]
    return found | {"inspect": {name: statistics.median(run[name] for run in runs) for name in runs[0]}}


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in WAYS:
        path, *more = sys.argv[2:]
        way, given = WAYS[sys.argv[1]], [float(each) for each in more]
        way(Path(path).parent / "few", *given)  # what is imported at first use is not counted
        print(json.dumps(way(Path(path), *given)))
        return
    found = {"bytes_on_disk": make(), "opening": opening(), "beginning": beginning()}
    print(json.dumps(found, indent=1))
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
