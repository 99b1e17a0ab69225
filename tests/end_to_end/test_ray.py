"""Workers on Ray write a cache byte for byte like one process, whoever is killed. One Ray of this machine serves all tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from logitstore.core.progress import Step
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.dump.processes.messages import PartJob
from logitstore.dump.processes.on_ray import RayCrew, ray
from logitstore.dump.processes.pool import Pool
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from tests.parts.files import traces, tree
from tests.parts.processes import notes_of
from tests.parts.taps import small_taps_plan
from tests.parts.tasks import Start

# Ray leaves sockets and processes to the end of the interpreter
# a Ray of its own takes from five seconds to a minute to start, by how busy the machine is
pytestmark = [
    pytest.mark.slow,
    pytest.mark.attack,
    pytest.mark.exhaustive,
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray that the code under test has started; a short path, because sockets lie below it."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        crew = RayCrew("ray", None, None)
        assert crew.open(2) in (1, 2)
        try:
            yield str(ray().get_runtime_context().gcs_address)
        finally:
            crew.close()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def ray_plan(teacher: Path, texts: Path, cluster: str) -> Callable[..., DumpSettings]:
    """A dump of many small parts with rows, taps and tensors that a pilot decides."""
    changes: dict[str, Any] = {
        "samples_per_part": 2,
        "batch_tokens": 96,
        "preset": "small",
        "k": None,
        "limit": 6,
        "hidden": "0,final",
        "tap_codec": "int8",
    }
    return lambda out, **more: small_taps_plan(teacher, texts, out, **changes | more)


def commands() -> dict[int, tuple[int, str]]:
    """Of each process its parent and its command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        found[int(path.name)] = (parent, command)
    return found


def actors(cluster: str) -> list[int]:
    """The processes of the actors of this Ray."""
    known = commands()
    return [
        number
        for number, (parent, command) in known.items()
        if command.startswith("ray::Keeper") and cluster in known.get(parent, (0, ""))[1]
    ]


def servers(cluster: str) -> list[int]:
    """The processes that these actors keep."""
    of = set(actors(cluster))
    return [
        number for number, (parent, command) in commands().items() if parent in of and "child import main" in command
    ]


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Killing:
    """Kills the process of one actor at the first row, and every serving process once some parts are there."""

    def __init__(self, cluster: str, out: Path) -> None:
        self.steps: list[Step] = []
        self._cluster, self._out = cluster, out
        self._kills: list[Callable[[], list[int]]] = [lambda: actors(cluster)[:1], lambda: servers(cluster)]

    def __call__(self, step: Step) -> None:
        self.steps.append(step)
        if step.stage != "dump" or not self._kills:
            return
        if len(self._kills) == 2 or len(layout.committed_parts(self._out)) >= 4:
            for number in self._kills.pop(0)():
                os.kill(number, signal.SIGKILL)

    def notes(self) -> list[str]:
        return [step.note for step in self.steps if step.stage == "note"]


def test_a_dump_whose_workers_are_killed_has_the_bytes_of_one_process(
    ray_plan: Callable[..., DumpSettings], cluster: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = dump(ray_plan(tmp_path / "whole")).path
    plan = ray_plan(tmp_path / "cache", cluster="ray", processes=2)
    killing = Killing(cluster, plan.out)
    capfd.readouterr()
    assert dump(plan, killing).complete
    notes = killing.notes()
    assert any("was lost" in note for note in notes), notes
    assert any("was ended by SIGKILL" in note for note in notes), notes
    assert [step.stage for step in killing.steps].count("load the teacher") <= 2
    assert verify(plan.out) == []
    assert traces(plan.out) == []
    assert tree(plan.out) == tree(whole)
    assert actors(cluster) == []
    # nothing of Ray's own is printed
    assert capfd.readouterr() == ("", "")


def test_taps_are_added_by_workers_of_a_cluster(
    ray_plan: Callable[..., DumpSettings], cluster: str, tmp_path: Path
) -> None:
    for name in ("one", "several"):
        dump(ray_plan(tmp_path / name, hidden=None, tap_codec=None, limit=4))
    adding = AddSettings(cache=tmp_path / "one", hidden="1,final", tap_codec="int8", device="cpu")
    add(adding)
    add(adding.model_copy(update={"cache": tmp_path / "several", "cluster": "ray", "processes": 1}))
    assert tree(tmp_path / "several") == tree(tmp_path / "one")


@pytest.mark.parametrize("fate", ["bug", "is slow once"])
def test_a_bad_part_is_set_aside_and_a_late_one_is_written_by_another(cluster: str, tmp_path: Path, fate: str) -> None:
    jobs = [PartJob(part, ("answers",)) for part in range(6)]
    with Pool(RayCrew("ray", 2, None), partial(notes_of, tmp_path, fate), lambda step: None, len(jobs)) as pool:
        failed = pool.run(jobs)
    assert list(failed) == ([1] if fate == "bug" else [])
    lines = {path.name: path.read_text().splitlines() for path in tmp_path.iterdir() if path.name.isdigit()}
    assert sorted(lines) == [str(part) for part in range(6) if part not in failed]
    assert {len(each) for each in lines.values()} == {1}


def test_ctrl_c_leaves_only_whole_parts_and_no_actor(
    start: Start, ray_plan: Callable[..., DumpSettings], cluster: str, tmp_path: Path
) -> None:
    plan = ray_plan(tmp_path / "cache", cluster="ray", limit=None)
    process = start(plan, RAY_ADDRESS=cluster)
    wait_until(lambda: process.poll() is not None or len(layout.committed_parts(plan.out)) >= 2, "no part is written")
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == (
        f"interrupted. {plan.out} keeps every part written so far; give the same command again to resume."
    )
    assert "Traceback" not in stderr
    assert traces(plan.out) == []
    assert verify(plan.out) == []
    assert not Cache(plan.out).complete
    wait_until(lambda: actors(cluster) == [], "an actor works on")


def test_the_actors_of_a_command_that_is_killed_end_and_the_same_command_goes_on(
    start: Start, ray_plan: Callable[..., DumpSettings], cluster: str, tmp_path: Path
) -> None:
    plan = ray_plan(tmp_path / "cache", cluster="ray", limit=None)
    process = start(plan, RAY_ADDRESS=cluster)
    wait_until(lambda: process.poll() is not None or len(layout.committed_parts(plan.out)) >= 1, "no part is written")
    serving = servers(cluster)
    assert serving
    process.kill()
    wait_until(lambda: actors(cluster) == [], "an actor works on")
    wait_until(lambda: not any(Path(f"/proc/{number}").exists() for number in serving), "an orphan works on")
    assert verify(plan.out) == []
    assert not Cache(plan.out).complete
    assert dump(plan).complete
    assert traces(plan.out) == []
    assert tree(plan.out) == tree(dump(ray_plan(tmp_path / "whole", limit=None)).path)
