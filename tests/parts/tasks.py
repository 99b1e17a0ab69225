"""The tasks as the tests of reliability see them, and what they compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.store.checks.verify import Problem
from tests.parts.marks import rarely
from tests.parts.warm import WarmProcess

Start = Callable[..., WarmProcess]


FEW_KILLS = 2
"""Of a dump in `make test`."""

MOST_KILLS = 16
"""Of a dump in `make attack`."""

SEEDS = (20, 21, 22)
"""Of the moments; `make attack` takes all of them."""


RARELY = (rarely("text"), rarely("classes"), rarely("masked"), rarely("ranking"), rarely("vectors"))
"""The tasks with which attacks are made in `make attack` alone, beside those on images in `make test`."""


TAIL = "shared/tail.safetensors"
"""What caches of distributions have."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the tests must know of a task.

    Attributes:
        name: text, images, classes, masked, ranking or vectors.
        plan: the dump to a folder, with changes.
        small: changes that make it one of three small parts.
        many: changes that make it one of many parts, for the full count of kills.
        some: the same of fewer parts, for a few.
        reading: the stages in which the data are read.
        split: the numbers of these parts, divided in two.
        room: a disk too small for the whole dump.
        loaded: the shared folder that is loaded with whatever lies in it.
        kinds: files that not the caches of every task have.
        array: an array of part 1.
        other: a change that makes it another plan of the same samples.
        usual: how many samples a part has where nobody says.
        part_bytes: bytes of a part that make it one of a few parts, and the least share of them that rows take.
    """

    name: str
    plan: Callable[..., DumpSettings]
    small: dict[str, Any]
    many: dict[str, Any]
    some: dict[str, Any]
    reading: tuple[str, ...]
    split: tuple[str, str]
    room: str
    loaded: str
    kinds: set[str]
    array: str
    other: dict[str, Any]
    usual: int
    part_bytes: tuple[int, float]

    def chunk(self, cache: Path) -> Path:
        """Return the file with the values of that array."""
        return next(path for path in (cache / self.array / "c").rglob("*") if path.is_file())

    def parts_for(self, kills: int) -> dict[str, Any]:
        """Return the changes for a dump that is killed so often."""
        return self.some if kills <= FEW_KILLS else self.many


def text_task(settings: Callable[..., DumpSettings]) -> Task:
    """What the tests must know of texts."""
    return Task(
        name="text",
        plan=settings,
        small={"limit": 6, "samples_per_part": 9},
        many={"samples_per_part": 2},
        some={"samples_per_part": 2, "limit": 14},
        reading=("data:",),
        split=("0-14,35-38", "15-34"),
        room="500k",
        loaded="tokenizer",
        kinds={"shared/tokenizer/tokenizer.json", TAIL, "rows.zarr/c"},
        array="parts/00001/rows.zarr/ids",
        other={"k": 7},
        usual=1024,
        part_bytes=(30_000, 0.2),
    )


def image_task(settings: Callable[..., DumpSettings]) -> Task:
    """What the tests must know of images."""
    return Task(
        name="images",
        plan=settings,
        # the first two have no label
        small={"limit": 10, "samples_per_part": 10},
        many={"samples_per_part": 2, "augment": "crop,flip,mixup"},
        some={"samples_per_part": 2, "augment": "crop,flip,mixup", "limit": 16},
        reading=("images",),
        split=("0-7,20-23", "8-19"),
        room="300k",
        loaded="processor",
        kinds={"shared/processor/preprocessor_config.json", "shared/images.arrow", TAIL, "rows.zarr/c"},
        array="parts/00001/rows.zarr/ids",
        other={"k": 7},
        usual=8192,
        part_bytes=(1_200, 0.2),
    )


def classes_task(settings: Callable[..., DumpSettings]) -> Task:
    """What the tests must know of classified texts."""
    return Task(
        name="classes",
        plan=settings,
        # the last two of them have no label
        small={"limit": 44, "samples_per_part": 15},
        many={"samples_per_part": 1},
        some={"limit": 44, "samples_per_part": 2},
        reading=("tokenise",),
        split=("0-7,16-21", "8-15"),
        room="300k",
        loaded="tokenizer",
        kinds={"shared/tokenizer/tokenizer.json", "shared/pieces.arrow", TAIL, "rows.zarr/c"},
        array="parts/00001/rows.zarr/ids",
        other={"k": 7},
        usual=8192,
        part_bytes=(3_000, 0.1),
    )


def masked_task(settings: Callable[..., DumpSettings]) -> Task:
    """What the tests must know of masked texts."""
    return Task(
        name="masked",
        plan=settings,
        small={"views": 1, "samples_per_part": 10},
        many={"samples_per_part": 1, "views": 3},
        some={"samples_per_part": 3},
        reading=("tokenise",),
        split=("0-7,16-19", "8-15"),
        room="150k",
        loaded="tokenizer",
        kinds={"shared/tokenizer/tokenizer.json", TAIL, "rows.zarr/c"},
        array="parts/00001/rows.zarr/ids",
        other={"k": 7},
        usual=1024,
        part_bytes=(3_000, 0.2),
    )


def ranking_task(settings: Callable[..., DumpSettings]) -> Task:
    """What the tests must know of queries with documents."""
    return Task(
        name="ranking",
        plan=settings,
        # of every sixth query nobody judged the documents
        small={"limit": 24, "samples_per_part": 8},
        many={"samples_per_part": 1},
        some={"limit": 24, "samples_per_part": 2},
        reading=("tokenise",),
        split=("0-3,8-11", "4-7"),
        room="150k",
        loaded="tokenizer",
        kinds={"shared/tokenizer/tokenizer.json", "shared/pieces.arrow", "rows.zarr/c"},
        array="parts/00001/rows.zarr/score",
        other={"labels": False},
        usual=1024,
        part_bytes=(3_000, 0.02),
    )


def vectors_task(settings: Callable[..., DumpSettings]) -> Task:
    """What the tests must know of texts with vectors."""
    return Task(
        name="vectors",
        plan=settings,
        small={"limit": 22, "samples_per_part": 15},
        many={"samples_per_part": 1},
        some={"limit": 22, "samples_per_part": 2},
        reading=("tokenise",),
        split=("0-7,16-21", "8-15"),
        room="120k",
        loaded="tokenizer",
        kinds={"shared/tokenizer/tokenizer.json", "shared/pieces.arrow", "taps/final/tap.json"},
        array="taps/final/parts/00001/rows.zarr/values",
        other={"normalise": True},
        usual=8192,
        part_bytes=(3_000, 0.02),
    )


def adding(cache: Path, views: str, **options: Any) -> AddSettings:
    return AddSettings(cache=cache, views=views, device="cpu", **options)


def named(problems: list[Problem]) -> set[tuple[int | None, str]]:
    return {(problem.part, problem.file) for problem in problems}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file and folder."""
    found = [folder, *sorted(folder.rglob("*"))]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}
