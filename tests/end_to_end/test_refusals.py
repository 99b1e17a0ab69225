"""Whatever call the system refuses, a command ends in one line, leaves nothing broken, and the same command goes on."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.settings.convert import RecodeSettings
from logitstore.store.checks.verify import verify
from tests.parts.attacks import Attacks
from tests.parts.commands import flags_of, logitstore_command
from tests.parts.files import traces, tree
from tests.parts.texts import plan_for
from tests.parts.warm import can_refuse

ERRNOS = ("EIO", "ESTALE", "EMFILE", "ENAMETOOLONG", "EOPNOTSUPP", "EINVAL", "ENOSPC", "EROFS", "EACCES", "EDQUOT")
COMMANDS = ("dump", "add", "recode", "merge", "select", "repair", "verify", "inspect", "train", "evaluate")
FEW = 1
"""Calls of each command that are refused in `make test`, at another place of each; `make attack` refuses MANY of them."""
MANY = 3 * len(ERRNOS)
"""So every number comes three times to every command."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> dict[str, Path]:
    """Caches that the commands read; do not change them."""
    folder = tmp_path_factory.mktemp("sources")
    small = {"limit": 6, "samples_per_part": 9, "fidelity_rows": 0, "tail": "uniform"}
    made = {name: dump(plan_for(teacher, texts, folder / name, **small)).path for name in ("one", "two")}
    archive = recode(RecodeSettings(cache=folder / "two", out=folder / "other", k=4)).path
    return {name: Path(path) for name, path in (made | {"other": archive}).items()}


def prepared(
    command: str, place: Path, sources: dict[str, Path], teacher: Path, texts: Path, student: Path
) -> list[Any]:
    """Make the folder in which a command works; return the command."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    cache = Path(shutil.copytree(sources["one"], place / "cache"))
    out = place / "out"
    if command == "repair":
        os.truncate(cache / "parts" / "00001" / "samples.arrow", 5)
    small = {"limit": 6, "samples_per_part": 9, "fidelity_rows": 0, "tail": "uniform"}
    ways: dict[str, list[Any]] = {
        "dump": ["dump", *flags_of(plan_for(teacher, texts, out, **small))],
        "add": ["add", cache, "--hidden", "final", "--tap-codec", "int8", "--device", "cpu"],
        "recode": ["recode", cache, "--out", out, "-k", 3, "--layout", "archive"],
        "merge": ["merge", cache, sources["two"], "--out", out, "-k", 4, "--tail", "uniform"],
        "select": ["select", cache, "--method", "top", "--score", "nll", "--ratio", 0.5, "--out", out],
        "repair": ["verify", cache, "--repair"],
        "verify": ["verify", cache],
        "inspect": ["inspect", cache, "--sample", 3],
        "train": [
            "train",
            cache,
            "--student",
            student,
            "--out",
            out,
            "--device",
            "cpu",
            "--max-steps",
            2,
            "--save-every",
            1,
        ],
        "evaluate": ["evaluate", cache, "--student", student, "--device", "cpu"],
    }
    return ways[command]


def places(command: str, count: int, wanted: int) -> list[tuple[int, str]]:
    """Numbers of calls, spread evenly, each with what it is refused with; a single one lies elsewhere in each command."""
    turn = COMMANDS.index(command)
    if wanted == 1:
        return [(1 + (2 * turn + 1) * count // (2 * len(COMMANDS)), ERRNOS[turn % len(ERRNOS)])]
    steps = min(wanted, count)
    spread = [1 + round(step * (count - 1) / (steps - 1)) for step in range(steps)]
    return [(place, ERRNOS[(turn + step) % len(ERRNOS)]) for step, place in enumerate(spread)]


@pytest.mark.slow
@pytest.mark.attack
@pytest.mark.parametrize("wanted", [FEW, pytest.param(MANY, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_refused_call_ends_a_command_in_one_line(
    sources: dict[str, Path], teacher: Path, texts: Path, small_student: Path, tmp_path: Path,
    command: str, wanted: int, attacks: Attacks,
) -> None:  # fmt: skip
    if not can_refuse():
        pytest.skip("it takes a C compiler on Linux to refuse calls")
    place, log = tmp_path / "place", tmp_path / "calls"

    def fresh() -> list[Any]:
        return prepared(command, place, sources, teacher, texts, small_student)

    done = logitstore_command(*fresh(), FAULT_PATH=str(place), FAULT_AT="0", FAULT_LOG=str(log), FAULT_ERRNO="0")
    usual = 1 if command == "repair" else 0
    assert done.returncode == usual, done.stderr
    expected = tree(place)
    for number, name in places(command, log.stat().st_size, wanted):
        arguments = fresh()
        with attacks.of("refused calls", f"{command}: call {number} refused with {name}") as attack:
            refused = str(getattr(errno, name))
            done = logitstore_command(*arguments, FAULT_PATH=str(place), FAULT_AT=str(number), FAULT_ERRNO=refused)
            assert done.returncode in (2, usual), done.stderr
            assert "Traceback" not in done.stderr, done.stderr
            if done.returncode == 2:
                assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr
                assert done.stderr.count("error: ") == 1, done.stderr
                goes_on(command, arguments, place, usual)
                attack.refused = True
            assert traces(place) == []
            if command != "train":
                assert tree(place) == expected
    attacks.check()


def goes_on(command: str, arguments: list[Any], place: Path, usual: int) -> None:
    """The same command ends as it should now; a run of train, from its checkpoint if it has one."""
    if command == "train" and list(place.glob("out/checkpoint-*/trainer_state.json")):
        arguments = [*arguments, "--resume"]
    is_mended = command == "repair" and not verify(place / "cache")
    again = logitstore_command(*arguments)
    # the last call of a run comes after it is finished
    is_over = command == "train" and "is finished" in again.stderr
    assert is_over or again.returncode == (0 if is_mended else usual), again.stderr
