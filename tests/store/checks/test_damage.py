"""A flipped byte, a cut or a missing file anywhere is reported, and repaired."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from logitstore.dump.dump import dump
from logitstore.errors import LogitstoreError
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import RECORD_NAME, PartRecord
from logitstore.format.sealed import unseal
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import repair, verify
from tests.parts.attacks import Attacks, Silent
from tests.parts.files import tree
from tests.parts.tasks import Task, identities, named

pytestmark = pytest.mark.attack
CUT = "files cut, lengthened or lost"


def files_of(cache: Path) -> list[str]:
    return list(tree(cache))


def part_of(name: str) -> int | None:
    found = re.match(r"(?:taps/[^/]+/)?parts/(\d+)/", name)
    return int(found[1]) if found else None


def kind_of(name: str) -> str:
    """What a file is, without the part it belongs to, the hash in its name, and which array of a part it is."""
    return re.sub(r"parts/\d+/|-[0-9a-f]{16}|(?<=zarr)/\w+(?=/)|(/0)+$", "", name)


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


@pytest.mark.parametrize("flips", [1, pytest.param(16, marks=pytest.mark.exhaustive)])
def test_any_flipped_byte_of_any_file_is_reported_with_its_part_and_file(
    small_copy: Path, flips: int, attacks: Attacks
) -> None:
    chance = random.Random(7)
    assert {part_of(name) for name in files_of(small_copy)} == {None, 0, 1, 2}
    for number, name in enumerate(files_of(small_copy)):
        path = small_copy / name
        size = path.stat().st_size
        places = [0, size - 1, chance.randrange(size)]
        offsets = set(places) if flips > 1 else {places[number % 3]}
        while len(offsets) < min(size, flips):
            offsets.add(chance.randrange(size))
        for offset in sorted(offsets):
            bit = chance.randrange(8)
            flip(path, offset, bit)
            with attacks.of("flipped bits", f"bit {bit} of byte {offset} of {name}") as attack:
                problems = verify(small_copy)
                if not problems:
                    raise Silent("verify calls it sound")
                assert named(problems) == {(part_of(name), name)}
                attack.refused = True
            flip(path, offset, bit)
    assert verify(small_copy) == []
    attacks.check()


@pytest.mark.parametrize(("kind", "name"), [(Manifest, MANIFEST_NAME), (PartRecord, f"parts/00001/{RECORD_NAME}")])
def test_a_record_with_any_byte_flipped_is_not_read(small_copy: Path, kind: Any, name: str) -> None:
    """Every fourth byte, to be quick."""
    chance = random.Random(8)
    whole = (small_copy / name).read_bytes()
    for offset in range(chance.randrange(4), len(whole), 4):
        broken = bytearray(whole)
        broken[offset] ^= 1 << chance.randrange(8)
        (small_copy / name).write_bytes(broken)
        with pytest.raises(LogitstoreError):
            unseal(kind, small_copy / name)


@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_a_truncated_file_is_reported_with_its_part_and_file(small_copy: Path, share: int, attacks: Attacks) -> None:
    """Each to nothing, to its half and by its last byte; or to one of them."""
    for number, name in enumerate(files_of(small_copy)):
        whole = (small_copy / name).read_bytes()
        for size in [0, len(whole) // 2, len(whole) - 1][number % share :: share]:
            os.truncate(small_copy / name, size)
            assert named(verify(small_copy)) == {(part_of(name), name)}, f"{name} cut to {size} bytes"
            attacks.survived(CUT, refused=True)
            (small_copy / name).write_bytes(whole)
    assert verify(small_copy) == []


def test_a_file_with_bytes_added_is_reported_with_its_part_and_file(small_copy: Path, attacks: Attacks) -> None:
    for name in files_of(small_copy):
        whole = (small_copy / name).read_bytes()
        (small_copy / name).write_bytes(whole + b"\n")
        assert named(verify(small_copy)) == {(part_of(name), name)}, name
        attacks.survived(CUT, refused=True)
        (small_copy / name).write_bytes(whole)


def test_a_missing_file_is_reported_with_its_part_and_file(small_copy: Path, attacks: Attacks) -> None:
    for name in files_of(small_copy):
        whole = (small_copy / name).read_bytes()
        (small_copy / name).unlink()
        if name == MANIFEST_NAME:
            problems = verify(small_copy)
            assert named(problems) == {(None, MANIFEST_NAME)}
        else:
            # a tap without its record cannot be read at all
            assert named(verify(small_copy)) == {(part_of(name), name.removesuffix("/tap.json"))}, name
        attacks.survived(CUT, refused=True)
        (small_copy / name).write_bytes(whole)


def test_a_missing_part_is_not_wrong(small_copy: Path) -> None:
    shutil.rmtree(small_copy / "parts" / "00001")
    assert verify(small_copy) == []
    assert Cache(small_copy).part_numbers == [0, 2]


@pytest.mark.parametrize("place", ["../..", "..", ".", "c"])
@pytest.mark.parametrize("name", ["1", ".hidden", "zarr.json.old"])
def test_a_file_added_to_a_part_is_reported(small_copy: Path, task: Task, place: str, name: str) -> None:
    added = (small_copy / task.array / place).resolve() / name
    added.write_bytes(b"")
    assert named(verify(small_copy)) == {(1, added.relative_to(small_copy).as_posix())}


def test_a_file_added_to_the_tokenizer_or_processor_is_reported(small_copy: Path, task: Task) -> None:
    """Whatever lies in that folder is loaded with it."""
    folder = next((small_copy / "shared").glob(f"{task.loaded}-*"))
    (folder / "added_tokens.json").write_text('{"surprise": 3}')
    name = (folder / "added_tokens.json").relative_to(small_copy).as_posix()
    problems = verify(small_copy)
    assert named(problems) == {(None, name)}
    assert repair(small_copy, problems) == [name]
    assert verify(small_copy) == []


def test_a_part_beyond_the_plan_is_reported(small_copy: Path) -> None:
    shutil.copytree(small_copy / "parts" / "00001", small_copy / "parts" / "00003")
    assert [problem.part for problem in verify(small_copy)] == [3]


def test_a_part_under_another_number_is_reported(small_copy: Path) -> None:
    shutil.rmtree(small_copy / "parts" / "00000")
    (small_copy / "parts" / "00001").rename(small_copy / "parts" / "00000")
    assert named(verify(small_copy)) == {(0, f"parts/00000/{RECORD_NAME}")}


def test_a_part_of_another_plan_is_reported(
    small_copy: Path, small_plan: Callable[..., DumpSettings], task: Task, tmp_path: Path
) -> None:
    other = dump(small_plan(tmp_path / "other", **task.other)).path
    shutil.rmtree(small_copy / "parts" / "00001")
    shutil.copytree(other / "parts" / "00001", small_copy / "parts" / "00001")
    problems = verify(small_copy)
    assert named(problems) == {(1, f"parts/00001/{RECORD_NAME}")}
    assert "another plan" in problems[0].what


def test_a_linked_file_is_reported_although_its_bytes_are_right(small_copy: Path, task: Task, tmp_path: Path) -> None:
    path = task.chunk(small_copy)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert {problem.part for problem in verify(small_copy)} == {1}


def test_repair_and_the_same_dump_restore_any_file_and_leave_sound_parts_alone(
    small_cache: Path, small_copy: Path, small_plan: Callable[..., DumpSettings], task: Task
) -> None:
    chance = random.Random(9)
    one_of_each = {kind_of(name): name for name in files_of(small_cache) if part_of(name) in (None, 1)}
    assert {
        "cache.json",
        "part.json",
        "samples.arrow",
        "rows.zarr/zarr.json",
        "shared/vocabulary.arrow",
        *task.kinds,
    } <= one_of_each.keys()
    for name in one_of_each.values():
        broken_part = part_of(name)
        sound = [layout.part_folder(small_copy, part) for part in range(3) if part != broken_part]
        before = [identities(folder) for folder in sound]
        flip(small_copy / name, chance.randrange((small_copy / name).stat().st_size), chance.randrange(8))
        dropped = repair(small_copy, verify(small_copy))
        assert dropped == [name if broken_part is None else re.sub(r"(parts/\d+)/.*", r"\1", name)]
        assert dump(small_plan(small_copy)).complete
        assert tree(small_copy) == tree(small_cache), name
        assert [identities(folder) for folder in sound] == before, name
