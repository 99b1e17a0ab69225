"""Several processes of one machine write a cache together, byte for byte that of one; some are killed, some interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.core.progress import Step
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.errors import CacheMismatch, ProcessDied
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from tests.parts.commands import flags_of
from tests.parts.files import traces, tree
from tests.parts.processes import warm_members
from tests.parts.taps import small_taps_plan
from tests.parts.tasks import FEW_KILLS, RARELY, Start, Task
from tests.parts.texts import PADDED_VOCABULARY, plan_for, save_model
from tests.parts.warm import WarmMember

pytestmark = pytest.mark.attack


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WarmMember]]:
    with warm_members(monkeypatch) as members:
        yield members


@pytest.fixture
def taps_plan(teacher: Path, texts: Path) -> Callable[..., DumpSettings]:
    """A dump of many small parts with everything that a part can have: rows, taps, and tensors that a pilot decides."""
    changes: dict[str, Any] = {
        "samples_per_part": 2,
        "batch_tokens": 96,
        "preset": "small",
        "k": None,
        "limit": 4,
        "hidden": "0,final",
        "tap_codec": "int8",
    }
    return lambda out, **more: small_taps_plan(teacher, texts, out, **changes | more)


class Killing:
    """Kills some processes as soon as one of them has written rows, and keeps the steps."""

    def __init__(self, members: list[WarmMember], victims: slice) -> None:
        self.steps: list[Step] = []
        self._members, self._victims = members, victims

    def __call__(self, step: Step) -> None:
        if step.stage in ("dump", "add") and self.steps[-1].stage != step.stage:
            for member in self._members[self._victims]:
                member.kill()
        self.steps.append(step)

    def notes(self) -> list[str]:
        return [step.note for step in self.steps if step.stage == "note"]


def test_a_process_that_is_killed_leaves_its_part_to_the_others(
    taps_plan: Callable[..., DumpSettings], members: list[WarmMember], tmp_path: Path
) -> None:
    whole = dump(taps_plan(tmp_path / "whole")).path
    killing = Killing(members, slice(0, 1))
    plan = taps_plan(tmp_path / "cache", processes=2)
    assert dump(plan, killing).complete
    (note,) = killing.notes()
    assert note.startswith("process 1 (1 thread) was ended by SIGKILL")
    assert [step.stage for step in killing.steps].count("load the teacher") == 1
    last = [step for step in killing.steps if step.stage == "dump"][-1]
    assert last.done == last.total == Cache(plan.out).rows
    assert verify(plan.out) == []
    assert traces(plan.out) == []
    assert tree(plan.out) == tree(whole)


@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
def test_when_all_are_killed_the_command_says_so_and_the_next_one_goes_on(
    task: Task, whole_dump: Callable[[int], Path], members: list[WarmMember], tmp_path: Path
) -> None:
    plan = task.plan(tmp_path / "cache", **task.some, processes=2)
    with pytest.raises(ProcessDied, match=r"all of them died before the work was done. The last one, process \d"):
        dump(plan, Killing(members, slice(None)))
    assert verify(plan.out) == []
    assert not Cache(plan.out).complete
    assert dump(plan).complete
    assert traces(plan.out) == []
    assert tree(plan.out) == tree(whole_dump(FEW_KILLS))


def test_taps_that_are_added_by_several_processes_are_those_of_one(
    teacher: Path, texts: Path, members: list[WarmMember], tmp_path: Path
) -> None:
    for name in ("one", "several"):
        dump(plan_for(teacher, texts, tmp_path / name, samples_per_part=6, limit=6))
    adding = AddSettings(cache=tmp_path / "one", hidden="1,final", tap_codec="int8", device="cpu")
    add(adding)
    killing = Killing(members, slice(1, 2))
    add(adding.model_copy(update={"cache": tmp_path / "several", "processes": 2}), killing)
    assert len(killing.notes()) == 1
    assert tree(tmp_path / "several") == tree(tmp_path / "one")


def test_views_that_are_added_by_several_processes_are_those_of_one(
    two_views: Path, five_views: dict[str, bytes], members: list[WarmMember]
) -> None:
    add(AddSettings(cache=two_views, views="2-4", device="cpu", processes=2))
    assert len(members) == 2
    assert traces(two_views) == []
    assert tree(two_views) == five_views


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_end_all_of_them_and_leave_only_whole_parts(
    start: Start, taps_plan: Callable[..., DumpSettings], tmp_path: Path, number: int, code: int
) -> None:
    plan = taps_plan(tmp_path / "cache", processes=2)
    process = start(plan)
    while len(layout.committed_parts(plan.out)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert stderr.splitlines()[-1] == (
        f"interrupted. {plan.out} keeps every part written so far; give the same command again to resume."
    )
    assert "Traceback" not in stderr
    # each has dropped the part that it had begun, and has ended
    assert traces(plan.out) == []
    assert verify(plan.out) == []
    assert not Cache(plan.out).complete


def test_an_error_of_one_process_is_the_error_of_the_command(
    taps_plan: Callable[..., DumpSettings],
    members: list[WarmMember],
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    plan = taps_plan(tmp_path / "cache", parts="0")
    dump(plan)
    # the weights are read in the processes alone
    other = save_model(tmp_path / "other", tokenizer, PADDED_VOCABULARY, seed=7)
    with pytest.raises(CacheMismatch, match=r"the cache there has teacher\.fingerprint"):
        dump(plan.model_copy(update={"parts": None, "teacher": str(other), "processes": 2}))
    assert None not in [member.poll() for member in members]
    assert Cache(plan.out).part_numbers == [0]


@pytest.mark.exhaustive
def test_processes_whose_parent_is_killed_end_soon(taps_plan: Callable[..., DumpSettings], tmp_path: Path) -> None:
    """As a user starts them, from the beginning of the interpreter on."""
    plan = taps_plan(tmp_path / "cache", processes=2, samples_per_part=1, batch_tokens=1, limit=None)
    command = [sys.executable, "-m", "logitstore", "dump", *flags_of(plan)]
    parent = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not layout.committed_parts(plan.out):
        assert parent.poll() is None
        time.sleep(0.01)
    children = [int(each) for each in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    assert len(children) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{child}") for child in children):
        assert time.monotonic() < deadline, "an orphan works on"
        time.sleep(0.05)
    assert traces(plan.out) == []
    assert verify(plan.out) == []
    assert not Cache(plan.out).complete
