"""Folders that the system does not let us list are refused; all else is as `rglob` and `glob` of Python say."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

import logitstore
from logitstore.core.place import below, globbed, matching

NAMES = ["b.txt", "a/1", "a/2/x", "a/2/.hidden", "a-b/1", "A/1", "ä/1", "a/10", "[a]/1", "z"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    return tmp_path


def test_all_that_lies_below_a_folder_comes_in_the_order_of_sorted_paths(folder: Path) -> None:
    assert list(below(folder)) == sorted(folder.rglob("*"))
    assert list(below(folder / "missing")) == []
    assert list(below(folder / "z")) == []


def test_links_are_followed_where_that_is_asked_for(folder: Path) -> None:
    found = [path.relative_to(folder).as_posix() for path in below(folder, lambda entry: entry.is_dir())]
    assert "link/2/x" in found
    assert "nowhere" in found


def test_names_match_as_glob_has_them(folder: Path) -> None:
    for pattern in ("*", "a*", "*.txt", "[!a]*"):
        assert matching(folder, pattern) == sorted(folder.glob(pattern))
    assert globbed(f"{folder}/**/1") == [folder / name for name in ("A/1", "[a]/1", "a-b/1", "a/1", "link/1", "ä/1")]


@pytest.fixture
def refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that cannot be listed; by its mode, or for root, whom no mode stops, by a refusal of ours."""
    there, real = folder / "a" / "2", os.scandir

    def scandir(path: str | Path = ".") -> object:
        if Path(path) == there:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return there


@pytest.mark.parametrize(
    "look",
    [
        lambda folder: list(below(folder)),
        lambda folder: matching(folder / "a" / "2", "*"),
        lambda folder: globbed(f"{folder}/**/x"),
        lambda folder: globbed(f"{folder}/a/*/x"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    folder: Path, refused: Path, look: Callable[[Path], object]
) -> None:
    with pytest.raises(PermissionError, match=re.escape(str(refused))):
        look(folder)


def test_nothing_else_looks_into_folders() -> None:
    """Python's own ways to look below a folder pass over what they cannot list."""
    package = Path(logitstore.__file__).parent
    ways = re.compile(r"\.r?glob\(|\.walk\(|os\.path\.(exists|isfile|isdir)\(")
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if ways.search(path.read_text())}
    # the recipes of the package itself
    assert found - {"core/place.py"} == {"settings/recipe.py"}
