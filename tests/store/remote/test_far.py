"""A cache in an object store is the same cache as on a disk: to write, to read, to grow, to damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from logitstore.dump.dump import dump
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import repair, verify
from logitstore.store.remote.node import node_folder
from logitstore.store.remote.settings import local_cache
from tests.parts.texts import plan_for

Far = Callable[[str], str]


def forget_all() -> None:
    """Remove what was brought to this node."""
    node_folder(local_cache(), None).empty()


def test_a_dump_into_a_bucket_is_that_into_a_folder(teacher: Path, texts: Path, tmp_path: Path, far: Far) -> None:
    near = dump(plan_for(teacher, texts, tmp_path / "near", samples_per_part=2, limit=6))
    there = dump(plan_for(teacher, texts, far("cache"), samples_per_part=2, limit=6))
    assert there.complete
    assert there.manifest == near.manifest
    assert len(there) == len(near)
    for one, other in zip(there, near, strict=True):
        assert one.sample.key == other.sample.key
        for name, value in one.answer.fields.items():
            np.testing.assert_array_equal(value, other.answer.fields[name])
    for part in near.part_numbers:
        folder = there.storage.local(f"parts/{part:05d}")
        names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        source = tmp_path / "near" / "parts" / f"{part:05d}"
        assert names == sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
        assert all((folder / name).read_bytes() == (source / name).read_bytes() for name in names)
    assert verify(far("cache")) == []


def test_a_reader_asks_for_little_before_the_first_part(
    teacher: Path, texts: Path, far: Far, requests: list[str]
) -> None:
    dump(plan_for(teacher, texts, far("cache"), samples_per_part=1, limit=70))
    forget_all()
    requests.clear()
    cache = Cache(far("cache"))
    next(iter(cache.loader(batch_size=1, workers=0)))
    names = [request.rpartition("/")[2].partition("-")[0] for request in requests]
    first_part = next(place for place, name in enumerate(names) if name.endswith(".zip"))
    assert names[:first_part] == ["cache.json", "index.json", "lengths"]
    assert not any(request.startswith("list") for request in requests)
    assert sum(name.endswith(".zip") for name in names) == 1


def test_what_is_lost_or_altered_in_the_store_is_found_and_written_again(teacher: Path, texts: Path, far: Far) -> None:
    plan = plan_for(teacher, texts, far("cache"), samples_per_part=2, limit=6)
    cache = dump(plan)
    objects = cache.storage._objects  # type: ignore[attr-defined]
    whole = {found.name: objects.read(found.name) for found in objects.below("parts/")}
    names = sorted(whole)
    altered = bytearray(whole[names[0]])
    altered[len(altered) // 2] ^= 1
    objects.put(names[0], bytes(altered))
    objects.put(names[1], whole[names[1]][:-100])
    objects.delete([names[2]])
    problems = verify(plan.out)
    assert {problem.part for problem in problems} == {0, 1}
    repair(plan.out, problems)
    assert [part for part in Cache(plan.out).part_numbers if part < 3] == []
    dump(plan)
    assert {found.name: objects.read(found.name) for found in objects.below("parts/")} == whole
    assert verify(plan.out) == []
