"""Measure caches in an object store against the same on a disk: `python benchmarks/remote.py`, some ten minutes on two cores.
With names of sections, such as `python benchmarks/remote.py reading`, these alone are measured, and replace their earlier
lines.

The store is moto's server on the same machine, so figures are ratios and counts of requests; what a real store and its network
take comes on top. Both sides take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import RESULTS, at_most, found, in_turns, ratio, save
from demo import TEXTS, find_teacher, write_texts
from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.remote import objects
from logitstore.store.remote.node import node_folder
from logitstore.store.remote.settings import FOLDER as CACHE_VARIABLE
from logitstore.store.remote.settings import local_cache
from logitstore.store.storage import open_storage
from object_server import BUCKET, served, variables
from synthetic import make_cache

FOLDER = Path("build/remote")
FOUND = RESULTS / "remote.json"
DOCUMENTS, PARTS, ROUNDS = 4, 200, 5
COLD_PARTS = 10_000

Lines = list[dict[str, Any]]


@contextmanager
def counted() -> Iterator[list[str]]:
    """Give the requests that are made of stores meanwhile, as they begin: their kind and the object."""
    made: list[str] = []
    library = objects.library()
    names = ("get", "get_range", "get_ranges", "put", "head", "list", "list_with_delimiter", "delete")
    calls = {name: getattr(library, name) for name in names}

    def watched(name: str) -> Callable[..., Any]:
        def call(store: Any, path: Any = None, *rest: Any, **options: Any) -> Any:
            made.extend([f"{name} {path}"] * len(options.get("starts", [0])))
            return calls[name](store, path, *rest, **options)

        return call

    for name in names:
        setattr(library, name, watched(name))
    try:
        yield made
    finally:
        for name, call in calls.items():
            setattr(library, name, call)


def copied(near: Path, far: str) -> None:
    """Copy a cache on the disk to a store, part by part, as it is."""
    target, cache = open_storage(far), Cache(near)
    for name in cache.manifest.shared:
        target.put(name, (near / name).read_bytes())
    target.put("cache.json", (near / "cache.json").read_bytes())
    for part in cache.part_numbers:
        staged = target.stage(part)
        shutil.copytree(layout.part_folder(near, part), staged, dirs_exist_ok=True)
        target.commit(part, staged)
    Cache(far).index.make()


def writing() -> tuple[Lines, dict[str, Any]]:
    """Dump the same texts with the real teacher into a folder and into a store."""
    TEXTS.parent.mkdir(exist_ok=True)
    write_texts()
    number = 0

    def written(place: str | Path) -> None:
        nonlocal number
        number += 1
        out = f"{place}/{number}" if isinstance(place, str) else place / str(number)
        dump(
            DumpSettings(
                teacher=find_teacher(),
                data=str(TEXTS),
                out=out,
                limit=DOCUMENTS,
                max_length=256,
                samples_per_part=4,
            )
        )

    far = f"s3://{BUCKET}/written"
    seconds = in_turns({"disk": lambda: written(FOLDER / "written"), "store": lambda: written(far)}, 3, warm_up=0)
    with counted() as requests:
        written(far)
    parts = Cache(f"{far}/{number}").index.parts
    own = [request for request in requests if "/parts/" in request]
    lines = [
        at_most("dump into a store to a dump into a folder", 1.05, ratio(seconds, "store", "disk")),
        at_most("requests to write a part", 8, len(own) / parts, ""),
        found("requests of that dump besides its parts", len(requests) - len(own), ""),
    ]
    return lines, {"seconds": seconds, "parts": parts, "requests": requests}


def reading() -> tuple[Lines, dict[str, Any]]:
    """Read shuffled epochs through the folder of the node, and of the same cache on the disk."""
    near, far = FOLDER / "near", f"s3://{BUCKET}/read"
    make_cache(near, "small", samples=PARTS * 16, rows=256, samples_per_part=16)
    copied(near, far)
    node_folder(local_cache(), None).empty()
    with counted() as requests:
        cold = time.perf_counter()
        for _ in Cache(far).loader(batch_size=8):
            pass
        cold = time.perf_counter() - cold
    of_parts = [request for request in requests if "/parts/" in request]
    caches = {"near": Cache(near), "far": Cache(far)}

    def epoch(name: str) -> None:
        for _ in caches[name].loader(batch_size=8):
            pass

    seconds = in_turns({name: partial(epoch, name) for name in caches}, ROUNDS)
    lines = [
        at_most(
            "a shuffled epoch from what is on the node, to one of a cache on the disk",
            1.05,
            ratio(seconds, "far", "near"),
        ),
        at_most("requests to read a part", 8, len(of_parts) / PARTS, ""),
        found("the first epoch, which brings the parts, to one of a cache on the disk", cold / min(seconds["near"])),
    ]
    return lines, {"seconds": seconds, "cold_seconds": cold, "requests": len(requests)}


def opening() -> tuple[Lines, dict[str, Any]]:
    """Open a cache of 10,000 parts of which nothing is on the node, to the first batch."""
    near, far = FOLDER / "many", f"s3://{BUCKET}/many"
    make_cache(near, "topk", samples=COLD_PARTS * 2, rows=8, samples_per_part=2, k=8, tail="uniform", linked=True)
    copied(near, far)
    node_folder(local_cache(), None).empty()
    with counted() as requests:
        began = time.perf_counter()
        next(iter(Cache(far).loader(batch_size=1)))
        seconds = time.perf_counter() - began
    first = next(place for place, request in enumerate(requests) if "/parts/" in request)
    lines = [
        at_most("requests before the first part of a cold cache of 10,000 parts", 3, first, ""),
        at_most("listings among them", 0, sum(request.startswith("list") for request in requests), ""),
        found("all requests to the first batch", len(requests), ""),
        found("seconds to the first batch", seconds, "s"),
    ]
    return lines, {"requests": requests, "seconds": seconds}


SECTIONS: dict[str, Callable[[], tuple[Lines, dict[str, Any]]]] = {
    "writing": writing,
    "reading": reading,
    "opening": opening,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"no section is called {', '.join(sorted(unknown))}. There are: {', '.join(SECTIONS)}.")
    torch.set_num_threads(1)
    there = json.loads(FOUND.read_text("utf-8")) if FOUND.exists() else {"lines": [], "facts": {}}
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    with served() as address:
        os.environ |= variables(address) | {CACHE_VARIABLE: str(FOLDER / "node")}
        for name in given.sections or SECTIONS:
            measured, there["facts"][name] = SECTIONS[name]()
            kept = [line for line in there["lines"] if line["section"] != name]
            there["lines"] = kept + [line | {"section": name} for line in measured]
            # after each section, so that an interrupted run loses none that is done
            save("remote", there["lines"], facts=there["facts"])
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
