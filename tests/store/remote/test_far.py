"""A cache in an object store is the same cache as on a disk: to write, to read, to grow, to damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from logitstore.dump.dump import dump
from logitstore.format.part_record import PartRecord
from logitstore.format.sealed import seal, seal_of, unseal
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import repair, verify
from logitstore.store.remote.bundle import pack
from logitstore.store.remote.node import node_folder
from logitstore.store.remote.objects import Objects
from logitstore.store.remote.settings import local_cache
from tests.parts.texts import plan_for

Far = Callable[[str], str]


def forget_all() -> None:
    """Remove what was brought to this node."""
    node_folder(local_cache(), None).let_go_of_last()
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


def test_a_part_that_was_written_anew_in_the_store_is_not_read_as_it_was(
    teacher: Path, texts: Path, tmp_path: Path, far: Far
) -> None:
    cache = dump(plan_for(teacher, texts, far("cache"), samples_per_part=2, limit=6))
    old = np.array(cache[0].answer.fields["entropy"])
    folder = tmp_path / "anew"
    shutil.copytree(cache.storage.local("parts/00000"), folder)
    chunk = folder / "rows.zarr" / "entropy" / "c" / "0"
    chunk.write_bytes((np.frombuffer(chunk.read_bytes(), "<f2") / 2).astype("<f2").tobytes())
    record = unseal(PartRecord, folder / "part.json")
    files = record.files | {"rows.zarr/entropy/c/0": seal_of(chunk)}
    (folder / "part.json").write_bytes(seal(record.model_copy(update={"files": files})))
    Objects(far("cache")).put("parts/00000.zip", pack(folder, "it"))
    # the node still has the part as it was
    again = Cache(far("cache"))
    np.testing.assert_array_equal(again[0].answer.fields["entropy"], (old / 2).astype("<f2"))
    assert verify(far("cache")) == []


def test_a_part_of_features_is_removed_and_written_again(teacher: Path, texts: Path, far: Far) -> None:
    plan = plan_for(teacher, texts, far("cache"), samples_per_part=2, limit=6, hidden="final")
    dump(plan)
    objects = Objects(far("cache"))
    name = "taps/final/parts/00001.zip"
    whole = objects.read(name)
    objects.put(name, whole[:-50])
    problems = verify(plan.out)
    assert {(problem.tap, problem.part) for problem in problems} == {("final", 1)}
    repair(plan.out, problems)
    assert objects.head(name) is None
    dump(plan)
    assert objects.read(name) == whole
    assert verify(plan.out) == []


def test_a_check_leaves_nothing_on_the_node(teacher: Path, texts: Path, far: Far) -> None:
    dump(plan_for(teacher, texts, far("cache"), samples_per_part=2, limit=6, hidden="final"))
    forget_all()
    assert verify(far("cache")) == []
    assert node_folder(local_cache(), None).used() == 0
