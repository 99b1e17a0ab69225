"""Where the time of a dump goes."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from logitstore.core.progress import NO_STOPWATCH, Stopwatch
from logitstore.dump.dump import dump
from tests.parts.commands import Refused, logitstore_command
from tests.parts.files import tree
from tests.parts.texts import plan_for


def test_the_stages_of_a_dump_are_timed_and_fit_into_its_time(teacher: Path, texts: Path, tmp_path: Path) -> None:
    watch = Stopwatch()
    began = time.perf_counter()
    dump(plan_for(teacher, texts, tmp_path / "timed", preset="small", k=None), watch=watch)
    whole = time.perf_counter() - began
    stages = {"forward", "select", "sketch", "fidelity", "wait for the writer"}
    assert {stage for thread, stage in watch.seconds if thread == "teacher"} == stages
    assert {stage for thread, stage in watch.seconds if thread == "behind"} == {
        "copy to the host",
        "encode",
        "write",
        "commit",
    }
    for side in ("teacher", "behind"):
        assert 0 < sum(seconds for (thread, _), seconds in watch.seconds.items() if thread == side) < whole
    dump(plan_for(teacher, texts, tmp_path / "untimed", preset="small", k=None))
    assert tree(tmp_path / "timed") == tree(tmp_path / "untimed")


def test_only_the_thread_that_gives_a_device_work_waits_for_it(teacher: Path, texts: Path, tmp_path: Path) -> None:
    waited = []
    watch = Stopwatch(lambda: waited.append(threading.current_thread()))
    dump(plan_for(teacher, texts, tmp_path / "cache"), watch=watch)
    assert {thread for thread, _ in watch.seconds} == {"teacher", "behind"}
    assert set(waited) == {threading.main_thread()}


def test_who_does_not_ask_pays_nothing_and_learns_nothing() -> None:
    with NO_STOPWATCH("forward"):
        pass
    assert NO_STOPWATCH.seconds == {}


def test_profile_prints_a_line_a_stage(teacher: Path, texts: Path, tmp_path: Path) -> None:
    done = logitstore_command(
        "dump",
        "--teacher",
        teacher,
        "--data",
        texts,
        "--out",
        tmp_path / "cache",
        "--preset",
        "topk",
        "--profile",
        "--max-length",
        512,
    )
    assert done.returncode == 0, done.stderr
    for stage in ("forward", "select", "fidelity", "encode", "commit"):
        assert stage in done.stdout


def test_the_time_of_several_processes_is_not_told(
    refused: Refused, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    arguments = ("dump", "--teacher", teacher, "--data", texts, "--out", tmp_path / "cache")
    line = refused(*arguments, "--profile", "--processes", 2)
    assert line == "error: --profile: it times one process. Leave out --processes."
