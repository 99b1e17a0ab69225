"""Whatever stands in the place of a file of a cache: no command follows it, waits for it or reads it whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.parts.attacks import Attacks, Silent, told
from tests.parts.stranger import KINDS, Target, targets

pytestmark = [pytest.mark.slow, pytest.mark.attack]
WHOLE = ("texts", "archive", "images")


@pytest.fixture(scope="module")
def all_targets(
    tmp_path_factory: pytest.TempPathFactory,
    teacher: Path,
    texts: Path,
    small_student: Path,
    classifier: Path,
    images: Path,
) -> dict[str, Target]:
    return targets(tmp_path_factory.mktemp("targets"), teacher, texts, small_student, classifier, images)


def tries(target: Target, share: int) -> Iterator[tuple[str, Callable[[Path], None], list[str]]]:
    """Files, what stands in their place, and the commands that read them; `share` takes one of so many, and one command."""
    commands = list(target.readers(Path(), Path()))
    every = [(name, kind) for name in target.files() for kind in KINDS]
    for number, (name, kind) in enumerate(every):
        if share == 1:
            yield name, kind, commands
        elif number % share == 0:
            yield name, kind, ["verify", commands[1 + number // share % (len(commands) - 1)]]


@pytest.mark.parametrize("share", [37, pytest.param(1, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("which", WHOLE)
def test_what_is_no_plain_file_of_its_size_is_refused(
    all_targets: dict[str, Target], which: str, share: int, tmp_path: Path, attacks: Attacks
) -> None:
    target = all_targets[which]
    for name, kind, commands in tries(target, share):
        cache = Path(shutil.copytree(target.cache, tmp_path / "cache"))
        kind(cache / name)
        readers = target.readers(cache, tmp_path / "out")
        for command in commands:
            with attacks.of("file kinds", f"{which}: {name} as {kind.__name__}: {command}") as attack:
                code = told(*readers[command])
                # a sidecar is no part of the cache: it is made again
                if command == "verify" and code == 0 and not name.startswith("sidecars/"):
                    raise Silent("verify calls it sound")
                attack.refused = code != 0
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(cache)
    attacks.check()
