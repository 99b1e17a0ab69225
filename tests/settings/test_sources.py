"""Sources of data: how they are spelled on the command line and in recipes, and which spellings are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logitstore.errors import BadInput
from logitstore.settings.dump import DumpSettings
from logitstore.settings.recipe import load
from logitstore.settings.sources import Source, source_of, sources_of


def settings(tmp_path: Path, data: Any, **more: Any) -> DumpSettings:
    flags = {"teacher": "./teacher", "out": str(tmp_path / "cache"), "data": data, **more}
    return load(DumpSettings, "dump", None, flags)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jsonl", Source(place="a.jsonl")),
        ("hub/name:config", Source(place="hub/name:config")),
        ("hub/name:config,split=test", Source(place="hub/name:config", split="test")),
        ("a.jsonl,share=0.25,domain=the maths", Source(place="a.jsonl", share=0.25, domain="the maths")),
        ("a,b.jsonl,limit=20,column=body", Source(place="a,b.jsonl", limit=20, column="body")),
        ("{a,b}.jsonl,limit=1", Source(place="{a,b}.jsonl", limit=1)),
    ],
)
def test_options_stand_behind_a_source(text: str, expected: Source) -> None:
    assert source_of(text) == expected


def test_a_path_that_exists_as_it_stands_has_no_options(tmp_path: Path) -> None:
    path = tmp_path / "year=2024,limit=3"
    assert source_of(str(path)).limit == 3
    path.mkdir()
    assert source_of(str(path)) == Source(place=str(path))


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("math.jsonl", "math"),
        ("/data/Web.v2.jsonl.gz", "Web.v2"),
        ("texts/*.jsonl", "texts"),
        ("~/texts/", "texts"),
        ("hub/name:config", "name:config"),
        ("*.txt", "*.txt"),
    ],
)
def test_a_source_has_the_name_of_its_file_or_folder(place: str, name: str) -> None:
    assert Source(place=place).name == name


def test_one_source_is_a_text_and_several_are_a_list(tmp_path: Path) -> None:
    assert settings(tmp_path, ["a.jsonl"]).data == "a.jsonl"
    assert settings(tmp_path, "a.jsonl").data == "a.jsonl"
    several = ["a.jsonl", "b.jsonl,share=0.5"]
    assert settings(tmp_path, several).data == several
    assert sources_of(several) == [Source(place="a.jsonl"), Source(place="b.jsonl", share=0.5)]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dump:\n  teacher: t\n  out: cache\n  data: [a.jsonl, 'b.jsonl,share=0.5']\n")
    assert load(DumpSettings, "dump", recipe, {}).data == several


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            ["a.jsonl,shar=0.5"],
            r"--data a\.jsonl,shar=0\.5: no option of a source is named 'shar'\. Did you mean 'share'",
        ),
        (["a.jsonl,share=1"], r"share=1 must be above 0 and below 1"),
        (
            ["b.jsonl", "a.jsonl,share=2.5"],
            r"a\.jsonl,share=2\.5: share=2\.5 must be .* A cache keeps each document at most once",
        ),
        (["a.jsonl,share=half"], r"share=half must be"),
        (["a.jsonl,share=nan"], r"share=nan must be"),
        (["a.jsonl,limit=0"], r"limit=0 must be a count from 1"),
        (["a.jsonl,domain="], r"domain has no value"),
        (["a.jsonl,limit=2,limit=3"], r"limit is given twice"),
        (["a.jsonl,limit=2,share=0.5"], r"Give one of them"),
        (["a.jsonl", "b.jsonl", "a.jsonl"], r"a\.jsonl is given twice"),
        (
            ["x/a.jsonl", "y/a.jsonl"],
            r"x/a\.jsonl and y/a\.jsonl would both be the domain 'a'\. .* x/a\.jsonl,domain=first",
        ),
        ([], r"give one source as a text, or several as a list of texts"),
        (["a.jsonl", 5], r"give one source as a text"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, data: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        settings(tmp_path, data)
    assert str(caught.value).startswith("--data")
    assert "\n" not in str(caught.value)


def test_the_same_file_by_two_paths_is_given_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    with pytest.raises(BadInput, match="is given twice"):
        settings(tmp_path, [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])


def test_a_task_of_one_source_takes_no_other(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--data a b: the task image-classification takes one source of data"):
        settings(tmp_path, ["a", "b"], task="image-classification")
    assert settings(tmp_path, ["pictures,limit=x"], task="image-classification").source == "pictures,limit=x"
