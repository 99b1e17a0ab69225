"""Whatever call the system refuses, a command ends in one line, leaves nothing broken, and the same command goes on."""

from __future__ import annotations

import errno
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from logitstore.store.checks.verify import verify
from tests.parts.attacks import Attacks
from tests.parts.commands import Command, logitstore_command
from tests.parts.files import traces, tree
from tests.parts.refusing import refusing
from tests.parts.warm import can_refuse
from tests.parts.workplace import COMMANDS, Workplace

pytestmark = pytest.mark.attack
ERRNOS = (
    "EIO", "ESTALE", "EMFILE", "ENFILE", "ENAMETOOLONG", "EOPNOTSUPP", "ENOSYS", "EINVAL", "ENOSPC", "EDQUOT", "EROFS",
    "EACCES", "EPERM", "ENOMEM", "ETIMEDOUT", "EBUSY", "EFBIG", "ENOLCK", "EREMOTEIO",
)  # fmt: skip
"""Refusals; numbers that say what stands at a path, such as ENOENT and EEXIST, are none."""
TIMES = 2
"""Every number comes so often to every command in `make attack`."""
FEW_CALLS = {"select": 9, "sidecar": 2, "inspect": 5, "inspect --sample": 7, "evaluate": 20}
"""Which call is refused in `make test`, where there are not many."""
MOST_CALLS = 11
"""Later commands begin again with the first calls: `evaluate ranking` makes 27."""
UNTIMED = frozenset(each for each in COMMANDS if each != "plan" and not each.startswith("train"))
"""Commands that write the same bytes each time; the others write down how long they took."""
WEIGHTS = ("out/model.safetensors", "run/model.safetensors")
"""What runs write is the same student each time."""


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory,
    teacher: Path,
    texts: Path,
    small_student: Path,
    classifier: Path,
    images: Path,
) -> Workplace:
    return Workplace.made(tmp_path_factory.mktemp("work"), teacher, texts, small_student, classifier, images)  # fmt: skip


def diagonal() -> list[tuple[str, str]]:
    """Every command once and every number at least once."""
    assert len(COMMANDS) >= len(ERRNOS)
    return list(zip(COMMANDS, cycle(ERRNOS), strict=False))


@pytest.mark.parametrize(("which", "number"), diagonal())
def test_a_refused_call_of_python_ends_a_command_in_one_line(
    workplace: Workplace,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    attacks: Attacks,
    which: str,
    number: str,
) -> None:
    arguments = workplace.prepared(which)
    usual = 1 if which == "verify --repair" else 0
    at = FEW_CALLS.get(which, 3 + 2 * (COMMANDS.index(which) % MOST_CALLS))
    with attacks.of("refused calls", f"{which}: {number}") as attack:
        with refusing(workplace.place, at, getattr(errno, number)) as refused:
            code = command(*arguments)
        said = capsys.readouterr().err
        assert code in (2, usual), said
        check_line(code, said)
        attack.refused = code == 2
        assert traces(workplace.place) == []
        assert refused.calls >= at, "no call was refused"
    attacks.check()


def check_line(code: int, said: str) -> None:
    """Check that a command that was refused something said so in one line."""
    assert "Traceback" not in said, said
    if code == 2:
        assert said.splitlines()[-1].startswith("error: "), said
        assert [line for line in said.splitlines() if line.startswith("error: ")] == said.splitlines()[-1:], said


def places(calls: str, wanted: int) -> list[int]:
    """Numbers of calls; every kind of call in turn, and of each kind such as lie evenly."""
    kinds = sorted(set(calls))
    of_kind = {kind: [number for number, each in enumerate(calls, 1) if each == kind] for kind in kinds}
    rounds = -(-wanted // len(kinds))
    found = []
    for turn in range(wanted):
        numbers = of_kind[kinds[turn % len(kinds)]]
        found.append(numbers[(2 * (turn // len(kinds)) + 1) * len(numbers) // (2 * rounds)])
    return found


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("command", COMMANDS)
def test_any_refused_call_ends_a_command_in_one_line_and_it_goes_on_to_the_same_bytes(
    workplace: Workplace, tmp_path: Path, command: str, attacks: Attacks
) -> None:
    """Calls of Arrow, torch, safetensors and tokenizers are refused as well."""
    if not can_refuse():
        pytest.skip("it takes a C compiler on Linux to refuse calls")
    place, log = workplace.place, tmp_path / "calls"
    done = logitstore_command(
        *workplace.prepared(command), FAULT_PATH=str(place), FAULT_AT="0", FAULT_LOG=str(log), FAULT_ERRNO="0"
    )
    usual = 1 if command == "verify --repair" else 0
    assert done.returncode == usual, done.stderr
    expected = tree(place)
    for turn, at in enumerate(places(log.read_text(), TIMES * len(ERRNOS))):
        number = ERRNOS[turn % len(ERRNOS)]
        arguments = workplace.prepared(command)
        with attacks.of("refused calls", f"{command}: call {at} refused with {number}") as attack:
            refused = str(getattr(errno, number))
            done = logitstore_command(*arguments, FAULT_PATH=str(place), FAULT_AT=str(at), FAULT_ERRNO=refused)
            assert done.returncode in (2, usual), done.stderr
            check_line(done.returncode, done.stderr)
            if done.returncode == 2:
                goes_on(command, arguments, place, usual)
                attack.refused = True
            # an empty folder whose removal was refused is nothing half-written
            assert [name for name in traces(place) if (place / name).is_file() or tree(place / name)] == []
            if command in UNTIMED:
                assert tree(place) == expected
            else:
                assert [tree(place).get(name) for name in WEIGHTS] == [expected.get(name) for name in WEIGHTS]
    attacks.check()


def goes_on(command: str, arguments: list[Any], place: Path, usual: int) -> None:
    """The same command ends as it should now; a run of train, from its checkpoint if it has one."""
    if (
        command.startswith("train")
        and "--resume" not in command
        and list(place.glob("out/checkpoint-*/trainer_state.json"))
    ):
        arguments = [*arguments, "--resume"]
    is_mended = command == "verify --repair" and not verify(place / "cache")
    again = logitstore_command(*arguments)
    # the last call of a run comes after it is finished
    is_over = command.startswith("train") and "is finished" in again.stderr
    assert is_over or again.returncode == (0 if is_mended else usual), again.stderr
