"""Train over a cache of thousands of parts with two taps, and count the maps and file descriptors that it takes:
`python benchmarks/growth_maps.py`.

The cache is valid: its parts are hard links to the files of one part, under records of their own. One shuffled epoch is
read with its rows and both taps, padded and packed, each in a process of its own: under the limits that the process has,
and with a small budget of maps and 256 descriptors. Such an epoch reads each part many times, in no order.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import resident
from logitstore.core.types import Answer, Array
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import Fidelity
from logitstore.format.presets import row_of
from logitstore.format.sealed import seal
from logitstore.format.tap import TAP_NAME, TapInfo, TapPlan, tap_fields, tap_folder
from logitstore.store.cache import Cache
from logitstore.store.local_disk import LocalDisk
from logitstore.store.maps import MAPS, map_limit
from logitstore.store.writer import PartWriter, StagedPart
from logitstore.text.sample import Sample, key_of
from logitstore.train.loader.loader import Loader
from synthetic import INVENTED, VOCABULARY, WIDTH, invented_answer, link_part, manifest_of

TAPS = ("hidden-8", "final")
PARTS, SAMPLES, ROWS = 4300, 2, 7
FEW_MAPS, FEW_DESCRIPTORS = 64, 256


def make_tapped(
    folder: Path, parts: int = PARTS, samples: int = SAMPLES, rows: int = ROWS, width: int = WIDTH
) -> Manifest:
    """Write a sound cache of linked parts, each with `samples` samples of `rows` rows, and two taps of `width` channels."""
    row = row_of("topk", {"tail": "uniform"}, VOCABULARY, width)
    manifest = manifest_of(row, row.tail, {}, parts * samples, rows, samples)
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_bytes(seal(manifest))
    answer = invented_answer(row, 0)
    invented = RowCodec(row=row).encode(answer)
    # a gold token that is listed would have to have the listed logprob
    unlisted = np.setdiff1d(np.arange(VOCABULARY), answer["ids"])
    made = [_sample(unlisted, number, rows) for number in range(samples)]
    with PartWriter(LocalDisk(folder), manifest, 0, made) as writer:
        for number in range(samples):
            writer.write(number, Answer(fields=_some(invented, number * rows, rows)))
        writer.commit(Fidelity(rows=0, unbounded=0, sums={}))
    for name in TAPS:
        info = TapInfo(
            plan=manifest.identity, name=name, width=width, codec="bfloat16", fields=tap_fields("bfloat16", width), shared={}
        )  # fmt: skip
        place = folder / tap_folder(name)
        place.mkdir(parents=True)
        (place / TAP_NAME).write_bytes(seal(info))
        drawn = np.random.default_rng(0).normal(size=(INVENTED, width)).astype(np.float32)
        values = {"values": (drawn.view(np.uint32) >> 16).astype(np.uint16)}
        with StagedPart(LocalDisk(place), TapPlan(info=info, manifest=manifest), 0, made) as staged:
            for number in range(samples):
                staged.write(number, _some(values, number * rows, rows))
            staged.commit()
    for place in (folder, *(folder / tap_folder(name) for name in TAPS)):
        for part in range(1, parts):
            link_part(place, manifest, part)
    return manifest


def _sample(tokens: Array, number: int, rows: int) -> Sample:
    tokens_T = tokens[(np.arange(rows + 1) + number * rows) % len(tokens)]
    return Sample(key=key_of(tokens_T), tokens_T=tokens_T, mask_T=np.arange(rows + 1) < rows, document=number)


def _some(fields: dict[str, Array], first: int, count: int) -> dict[str, Array]:
    places = (np.arange(count) + first) % INVENTED
    return {name: value[places] for name, value in fields.items()}


def epoch(folder: Path, packed: bool, is_low: bool, workers: int = 2) -> dict[str, Any]:
    """Read one shuffled epoch with both taps; return the peaks of maps and descriptors, and of the anonymous memory that all
    batches but the first add."""
    if is_low:
        MAPS.most = FEW_MAPS
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, FEW_DESCRIPTORS))
    began, seen, before = time.perf_counter(), 0, 0
    most = {"maps": 0, "of_the_cache": 0, "descriptors": 0, "anonymous": 0}
    loader = Loader(Cache(folder), batch_size=32, seed=1, taps=list(TAPS), packed=packed, workers=workers)
    for number, batch in enumerate(loader):
        seen += len(batch.samples)
        loader.targets(batch)
        loader.features(batch)
        before = before or resident("RssAnon")  # the first batch has imported what it needs
        if number % 8 == 0:
            _raise(most, folder, before)
    _raise(most, folder, before)
    return {
        "samples": seen, "seconds": time.perf_counter() - began, **most, "budget": MAPS.most, "counted": MAPS.used,
        "map_limit": map_limit(), "descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }  # fmt: skip


def _raise(most: dict[str, int], folder: Path, before: int) -> None:
    lines = Path("/proc/self/maps").read_text().splitlines()
    now = {
        "maps": len(lines),
        "of_the_cache": sum(str(folder) in line for line in lines),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "anonymous": resident("RssAnon") - before,
    }
    for name, value in now.items():
        most[name] = max(most[name], value)


def measure(folder: Path = Path("build/growth_maps"), parts: int = PARTS) -> dict[str, Any]:
    """Return the peaks of an epoch over `parts` parts with two taps, by order and limits."""
    shutil.rmtree(folder, ignore_errors=True)
    made = make_tapped(folder, parts)
    found: dict[str, Any] = {"parts": made.parts, "taps": len(TAPS), "samples": made.samples}
    for order in ("padded", "packed"):
        for limits in ("usual", "low"):
            found[f"{order}, {limits} limits"] = _in_a_process(folder, order, limits)
    shutil.rmtree(folder)
    return found


def _in_a_process(folder: Path, order: str, limits: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--epoch", str(folder), order, limits]
    measured: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return measured


def main() -> None:
    if sys.argv[1:2] == ["--epoch"]:
        print(json.dumps(epoch(Path(sys.argv[2]), sys.argv[3] == "packed", sys.argv[4] == "low")))
    else:
        print(json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
