"""Measure what grows with the data, and what must not: `python benchmarks/growth.py`, about half an hour on two cores. With
names of sections, such as `python benchmarks/growth.py preparing`, these alone are measured, and take the place of their
earlier lines; `--documents` is how many the larger data have.

Texts are prepared in 20,000 and 2,000,000 documents; caches have 10, 10,000 and 100,000 parts; an epoch goes over 4,300
parts with two taps. `growth_prepare.py`, `growth_cache.py` and `growth_maps.py` say how each is made and measured.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from typing import Any

import growth_cache
import growth_maps
import growth_prepare
from bench import RESULTS, at_least, at_most, found, save

FEW, MANY = 20_000, 2_000_000

FOUND = RESULTS / "growth.json"

Lines = list[dict[str, Any]]


def preparing(many: int) -> tuple[Lines, dict[str, Any]]:
    """Prepare texts of two sizes, and open what was prepared of the larger."""
    measured = {count: growth_prepare.measure(count, repeats=repeats) for count, repeats in ((FEW, 3), (many, 1))}
    lines = []
    for count, each in measured.items():
        lines += [
            at_most(f"preparing {count:,} documents to the tokenizer alone", 1.3, each["ratio"]),
            found(f"the same, in seconds of processors, {count:,} documents", each["processor_ratio"]),
        ]
    large = measured[many]
    lines += [
        at_most(
            f"open {many:,} prepared documents, to the teacher's first batch",
            1,
            large["open_to_first_batch_seconds"],
            "s",
        ),
        at_most("memory of that above the start", 300, large["open_to_first_batch_bytes"] / 1e6, "MB"),
        found(
            f"peak memory of the process that prepares {many:,} documents", large["peak_bytes_of_preparing"] / 1e6, "MB"
        ),
        found("bytes of what is prepared, of a token", large["bytes"] / large["tokens"], "B"),
    ]
    return lines, {f"{count} documents": each for count, each in measured.items()}


def opening() -> tuple[Lines, dict[str, Any]]:
    """Open caches of 10 and 100,000 parts, and train from one of 10,000 to the first batch."""
    on_disk = growth_cache.make()
    opened, begun = growth_cache.opening(), growth_cache.beginning()
    shutil.rmtree(growth_cache.FOLDER)
    lines = [
        found("open a cache of 10 parts", 1e3 * opened["few_seconds"], "ms"),
        at_most("open 100,000 parts with the index, to 10 parts", 2, opened["most_over_few"]),
        at_least("open 100,000 parts without the index", 1000, opened["without_index"]["parts_per_second"], "parts/s"),
        found("bytes of the index of 10^8 samples, of a sample", opened["index_bytes"] / 1e8, "B"),
    ]
    for holdout in growth_cache.HOLDOUTS:
        each = begun[f"holdout {holdout:g}"]
        lines += [
            at_most(f"from train to the first batch, 10,000 parts, --holdout {holdout:g}", 1, each["seconds"], "s"),
            at_most(f"anonymous memory of that, --holdout {holdout:g}", 200, each["anonymous_peak_bytes"] / 1e6, "MB"),
        ]
    lines += [
        at_most("inspect of 10,000 parts, with all imports", 2, begun["inspect"]["seconds"], "s"),
        found("the same, its own work", 1e3 * begun["inspect"]["own_seconds"], "ms"),
    ]
    return lines, {"bytes_on_disk": on_disk, "opening": opened, "beginning": begun}


def mapping() -> tuple[Lines, dict[str, Any]]:
    """Read a shuffled epoch of 4,300 parts with two taps, and compare maps and descriptors with their limits."""
    measured = growth_maps.measure()
    lines = []
    for limits in ("usual", "low"):
        runs = [measured[f"{order}, {limits} limits"] for order in ("padded", "packed")]
        lines += [
            at_most(
                f"a shuffled epoch of {measured['parts']:,} parts and two taps, {limits} limits: maps to the limit",
                1,
                max(run["maps"] / run["map_limit"] for run in runs),
                "of it",
            ),
            at_most(
                f"the same: file descriptors to the limit, {limits} limits",
                1,
                max(run["descriptors"] / run["descriptor_limit"] for run in runs),
                "of it",
            ),
            found(f"the same: anonymous memory, {limits} limits", max(run["anonymous"] for run in runs) / 1e6, "MB"),
        ]
    return lines, measured


SECTIONS: dict[str, Callable[[int], tuple[Lines, dict[str, Any]]]] = {
    "mapping": lambda _: mapping(),
    "opening": lambda _: opening(),
    "preparing": preparing,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--documents", type=int, default=MANY)
    given = parser.parse_args()
    if unknown := set(given.sections) - set(SECTIONS):
        parser.error(f"no section is called {', '.join(sorted(unknown))}. There are: {', '.join(SECTIONS)}.")
    there = json.loads(FOUND.read_text("utf-8")) if FOUND.exists() else {"lines": [], "facts": {}}
    for name in given.sections or SECTIONS:
        measured, there["facts"][name] = SECTIONS[name](given.documents)
        kept = [line for line in there["lines"] if line["section"] != name]
        there["lines"] = kept + [line | {"section": name} for line in measured]
        # after each section, so that an interrupted run loses none that is done
        save("growth", there["lines"], facts=there["facts"])


if __name__ == "__main__":
    main()
