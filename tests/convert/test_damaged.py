"""A file with another byte is never copied into another cache, where it would have a seal of its own, nor asked about."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from logitstore.store.cache import Cache
from tests.parts.commands import Refused


def flipped(sound: Cache, name: Path, copy: Path) -> Path:
    """A copy of a cache with another byte in the middle of a file."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(sound.path, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    return copy


def files_of(cache: Cache) -> list[Path]:
    """The files that all parts share, and those of part 1, but for its records, which tell of themselves."""
    root = Path(cache.path)
    found = [path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".json"]
    return [name for name in found if "shared" in name.parts or "00001" in name.parts]


@pytest.mark.parametrize("fixture", ["small_preset", "rank_cache", "vector_cache", "masked_cache", "class_cache"])
def test_no_cache_is_made_of_a_damaged_one(
    request: pytest.FixtureRequest, refused: Refused, tmp_path: Path, fixture: str
) -> None:
    sound: Cache = request.getfixturevalue(fixture)
    names = files_of(sound)
    assert any("samples.arrow" in name.parts for name in names)
    assert any("rows.zarr" in name.parts for name in names)
    for name in names:
        damaged = flipped(sound, name, tmp_path / "damaged")
        for command in (("recode", damaged, "--layout", "archive"), ("merge", sound.path, damaged)):
            line = refused(*command, "--out", tmp_path / "out")
            # some are refused for what they say, before their seals are looked at
            assert name.name in line
            assert not (tmp_path / "out" / "cache.json").exists()


@pytest.mark.parametrize("name", ["samples", "shared"])
def test_no_teacher_is_asked_about_damaged_samples(
    small_preset: Cache, refused: Refused, tmp_path: Path, name: str
) -> None:
    damaged = flipped(small_preset, next(each for each in files_of(small_preset) if name in str(each)), tmp_path / "it")
    line = refused("add", damaged, "--hidden", "final")
    assert "is not what its seal says" in line
    assert not (damaged / "taps").exists()
