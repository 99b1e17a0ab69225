"""Whatever call the system refuses, a command ends in one line, leaves nothing broken, and the same command goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.settings.convert import RecodeSettings
from logitstore.store.checks.verify import verify
from tests.parts.commands import flags_of
from tests.parts.files import traces, tree
from tests.parts.places import ROOT
from tests.parts.texts import plan_for

ERRNOS = ("EIO", "ESTALE", "EMFILE", "ENAMETOOLONG", "EOPNOTSUPP", "EINVAL", "ENOSPC", "EROFS", "EACCES", "EDQUOT")
COMMANDS = ("dump", "add", "recode", "merge", "select", "repair", "verify", "inspect", "train", "evaluate")
FEW = 2
"""Calls of each command that are refused in `make test`; `make test-all` refuses MANY of them."""
MANY = 12

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a command, with the variables that say which call is refused."""
    compiler, library = shutil.which("cc"), tmp_path_factory.mktemp("faults") / "faults.so"
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("it takes a C compiler on Linux to refuse calls")
    source = ROOT / "tests" / "parts" / "faults.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.parts.faults"],
        cwd=ROOT,
        env=os.environ | {"LD_PRELOAD": str(library)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"

        def call(*arguments: object, **variables: object) -> dict[str, Any]:
            assert server.stdin is not None
            assert server.stdout is not None
            texts = {name: str(value) for name, value in variables.items()}
            server.stdin.write(json.dumps({"arguments": [*map(str, arguments)], "variables": texts}) + "\n")
            server.stdin.flush()
            answer: dict[str, Any] = json.loads(server.stdout.readline())
            return answer

        yield call
        server.stdin.close()


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


def places(count: int, wanted: int) -> list[int]:
    """Numbers of calls, spread evenly."""
    return sorted({1 + round(step * (count - 1) / max(wanted - 1, 1)) for step in range(min(wanted, count))})


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [FEW, pytest.param(MANY, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_refused_call_ends_a_command_in_one_line(
    run: Run, sources: dict[str, Path], teacher: Path, texts: Path, small_student: Path, tmp_path: Path,
    command: str, wanted: int, record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    place, log = tmp_path / "place", tmp_path / "calls"

    def fresh() -> list[Any]:
        return prepared(command, place, sources, teacher, texts, small_student)

    arguments = fresh()
    done = run(*arguments, FAULT_PATH=place, FAULT_AT=0, FAULT_LOG=log, FAULT_ERRNO=0)
    usual = 1 if command == "repair" else 0
    assert done["code"] == usual, done["stderr"]
    expected = tree(place)
    tried = {0: 0, 1: 0, 2: 0}
    for turn, number in enumerate(places(log.stat().st_size, wanted)):
        name = ERRNOS[turn % len(ERRNOS)]
        arguments = fresh()
        done = run(*arguments, FAULT_PATH=place, FAULT_AT=number, FAULT_ERRNO=getattr(errno, name))
        said = f"{command}: call {number} refused with {name}: {done['stderr']}"
        assert done["code"] in (2, usual), said
        assert "Traceback" not in done["stderr"], said
        tried[done["code"]] += 1
        if done["code"] == 2:
            assert done["stderr"].splitlines()[-1].startswith("error: "), said
            assert done["stderr"].count("error: ") == 1, said
        if command == "train" and done["code"] == 2 and list(place.glob("out/checkpoint-*/trainer_state.json")):
            arguments = [*arguments, "--resume"]
        is_mended = command == "repair" and not verify(place / "cache")
        if done["code"] == 2:
            again = run(*arguments)
            # the last call of a run comes after it is finished
            is_over = command == "train" and "is finished" in again["stderr"]
            assert is_over or again["code"] == (0 if is_mended else usual), f"{said}\n{again['stderr']}"
        assert traces(place) == [], said
        if command != "train":
            assert tree(place) == expected, said
    record_property("refusals", f"{command}: {sum(tried.values())} of {log.stat().st_size} calls, {tried[2]} told")
    print(f"{command}: {sum(tried.values())} of {log.stat().st_size} calls refused, {tried[2]} ended in one line")
