"""Ids in `cache.json` that a model would look up, forged and sealed again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from logitstore.store.cache import Cache
from tests.parts.commands import Refused
from tests.parts.stranger import reseal


def forged(source: Path, out: Path, names: tuple[str, ...], value: object) -> Path:
    shutil.copytree(source, out)
    content = json.loads((out / "cache.json").read_bytes())
    place = content["data"]
    for name in names[:-1]:
        place = place[name]
    place[names[-1]] = value
    (out / "cache.json").write_text(json.dumps(content))
    reseal(out)
    return out


@pytest.mark.parametrize(
    ("cache", "teacher", "names", "value"),
    [
        ("class_cache", "judge", ("pad",), 10**6),
        ("vector_cache", "judge", ("pad",), 10**6),
        ("rank_cache", "ranker", ("pad",), 10**6),
        ("masked_cache", "guesser", ("pad",), 10**6),
        ("masked_cache", "guesser", ("mask", "token"), 10**6),
        ("masked_cache", "guesser", ("mask", "kept"), [0, 10**6]),
    ],
)
def test_an_id_beyond_the_vocabulary_is_refused_when_a_cache_is_read(
    request: pytest.FixtureRequest,
    refused: Refused,
    tmp_path: Path,
    cache: str,
    teacher: str,
    names: tuple[str, ...],
    value: object,
) -> None:
    source = Path(request.getfixturevalue(cache).path)
    place = forged(source, tmp_path / "forged", names, value)
    student = request.getfixturevalue(teacher)
    for command in (
        ["train", place, "--student", student, "--out", tmp_path / "out", "--max-steps", 2, "--device", "cpu"],
        ["evaluate", place, "--student", student, "--device", "cpu"],
    ):
        assert "1000000 is none of the" in refused(*command)


@pytest.mark.parametrize("cache", ["class_cache", "vector_cache", "rank_cache", "masked_cache"])
def test_verify_tells_of_it_and_the_last_id_is_taken(
    request: pytest.FixtureRequest, command: object, tmp_path: Path, cache: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = request.getfixturevalue(cache)
    data = source.manifest.data.model_dump(mode="json")
    size = source.manifest.tokenizer.size if source.manifest.tokenizer else data["tokenizer"]["size"]
    place = forged(Path(source.path), tmp_path / "forged", ("pad",), size)
    assert command("verify", place) != 0  # type: ignore[operator]
    assert f"is none of the {size} token ids" in " ".join("".join(capsys.readouterr()).split())
    assert Cache(forged(Path(source.path), tmp_path / "last", ("pad",), size - 1)).complete
