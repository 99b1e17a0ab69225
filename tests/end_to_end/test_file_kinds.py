"""Whatever stands in the place of a file of a cache: no command follows it, waits for it or reads it whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logitstore.errors import LogitstoreError
from logitstore.store.checks.verify import verify
from tests.parts.attacks import Attacks, Silent, told
from tests.parts.stranger import KINDS, WHOLE, Target

pytestmark = [pytest.mark.slow, pytest.mark.attack]
HERE = "verify in this process"


def tries(target: Target, share: int) -> Iterator[tuple[str, Callable[[Path], None], list[str]]]:
    """Files, what stands in their place, and the commands that read them.

    `share` takes one of so many; what is left is read by `verify` in this process, and every third by another command.
    """
    commands = list(target.readers(Path(), Path()))
    every = [(name, kind) for name in target.files() for kind in KINDS]
    for number, (name, kind) in enumerate(every):
        if share == 1:
            yield name, kind, commands
        elif number % share == 0:
            turn = number // share
            yield name, kind, [HERE, *(commands[1 + turn // 3 % (len(commands) - 1) :][:1] if turn % 3 == 0 else [])]


@pytest.mark.exhaustive
@pytest.mark.parametrize("which", WHOLE)
def test_every_command_reads_what_is_not_attacked(target: Callable[[str], Target], which: str, tmp_path: Path) -> None:
    """An attack on a cache that a command refuses anyway would tell nothing."""
    attacked = target(which)
    for command, arguments in attacked.readers(attacked.cache, tmp_path / "out").items():
        assert told(*arguments) == 0, f"{which}: {command}"


@pytest.mark.parametrize(
    ("which", "share"), [("texts", 37), *(pytest.param(which, 1, marks=pytest.mark.exhaustive) for which in WHOLE)]
)
def test_what_is_no_plain_file_of_its_size_is_refused(
    target: Callable[[str], Target], which: str, share: int, tmp_path: Path, attacks: Attacks
) -> None:
    attacked = target(which)
    for name, kind, commands in tries(attacked, share):
        cache = Path(shutil.copytree(attacked.cache, tmp_path / "cache"))
        kind(cache / name)
        readers = attacked.readers(cache, tmp_path / "out")
        for command in commands:
            with attacks.of("file kinds", f"{which}: {name} as {kind.__name__}: {command}") as attack:
                code = verified(cache) if command == HERE else told(*readers[command])
                # a sidecar is no part of the cache: it is made again
                if command in ("verify", HERE) and code == 0 and not name.startswith("sidecars/"):
                    raise Silent("verify calls it sound")
                attack.refused = code != 0
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.rmtree(cache)
    attacks.check()


def verified(cache: Path) -> int:
    """The exit code of `verify`, in this process."""
    try:
        return int(bool(verify(cache)))
    except LogitstoreError:
        return 2
