"""A dump that is killed or interrupted at any moment ends byte-identical."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from logitstore.core.progress import Step
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.errors import NotACache
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.sealed import unseal
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from tests.parts.attacks import Attacks
from tests.parts.files import traces, tree
from tests.parts.tasks import FEW_KILLS, MOST_KILLS, RARELY, SEEDS, Start, Task, adding
from tests.parts.warm import WarmProcess

pytestmark = pytest.mark.attack

HOW_MANY = pytest.mark.parametrize(
    ("count", "seed"),
    [
        (FEW_KILLS, SEEDS[0]),
        *(pytest.param(MOST_KILLS, seed, marks=pytest.mark.exhaustive) for seed in SEEDS),
    ],
)
"""How often a dump is killed or interrupted, and by which random numbers."""


def wait_until(happened: Callable[[], bool], process: WarmProcess) -> None:
    """Wait for something that a process does; the process must live to do it."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, f"the dump ended too early: {process.communicate()}"
        assert time.monotonic() < deadline, "the dump hangs"
        time.sleep(0.001)


def listing(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


@pytest.mark.slow
@HOW_MANY
@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
def test_a_dump_killed_at_many_moments_ends_byte_identical(
    start: Start, task: Task, whole_dump: Callable[[int], Path], tmp_path: Path, attacks: Attacks, count: int, seed: int
) -> None:
    """Kills fall into the planning, the loading, the pilot, the shared files, and into the writing of parts."""
    chance = random.Random(seed)
    plan = task.plan(tmp_path / "killed", **task.parts_for(count))
    expected = tree(whole_dump(count))
    out = plan.out
    own_data = {"HF_DATASETS_CACHE": str(tmp_path / "datasets")}

    def said(word: str) -> Callable[[], bool]:
        return lambda: word in (tmp_path / "stderr").read_text()

    def new_parts(count: int) -> Callable[[], bool]:
        before = listing(out / layout.PARTS)
        return lambda: len(listing(out / layout.PARTS) - before) >= count

    def either(one: Callable[[], bool], other: Callable[[], bool]) -> Callable[[], bool]:
        return lambda: one() or other()

    # what to wait for, and how long at most to wait then; what comes after cache.json comes but once
    first, last = task.reading[0], task.reading[-1]
    begin = [
        lambda: (out.is_dir, 0.5),
        lambda: (either(said(first), said(last)), 0.02),
        lambda: (said(last), 0.02),
        lambda: (said("load the teacher"), 0.1),
        lambda: (said("fingerprint"), 0.02),
        lambda: (said("fingerprint"), 0.1),
        lambda: (either(said("pilot"), new_parts(1)), 0.01),
        lambda: (either(said("pilot"), new_parts(1)), 0.003),
    ]
    # the fewer kills, the fewer of the moments that resemble each other
    begin = begin if count > len(begin) else [begin[0], begin[7]]
    within = [lambda: (new_parts(chance.randint(1, 4)), 0.04)] * (count - len(begin))
    for moment in begin + within:
        with (tmp_path / "stderr").open("w") as stderr:
            reached, longest = moment()
            process = start(plan, stderr, **own_data)
            wait_until(reached, process)
            time.sleep(chance.uniform(0, longest))
            process.kill()
            assert process.wait() == -signal.SIGKILL, "the dump was over before it was killed"
        check_killed(out, expected)
        attacks.survived("kills")

    last = start(plan, **own_data)
    _, stderr_text = last.communicate(timeout=120)
    assert last.returncode == 0, stderr_text
    assert verify(out) == []
    assert traces(out) == []
    assert tree(out) == expected
    attacks.survived("caches resumed to the same bytes")


def check_killed(out: Path, expected: dict[str, bytes]) -> None:
    """What a killed dump leaves can be opened, is sound, and every part of it is as it will be in the end."""
    if not (out / MANIFEST_NAME).exists():
        assert layout.committed_parts(out) == []
        with pytest.raises(NotACache):
            Cache(out)
        return
    assert verify(out) == []
    cache = Cache(out)
    assert len(list(cache)) == len(cache)
    for part in cache.part_numbers:
        folder = layout.part_folder(out, part)
        name = folder.relative_to(out).as_posix()
        assert tree(folder) == {
            path.removeprefix(f"{name}/"): content for path, content in expected.items() if path.startswith(f"{name}/")
        }


@pytest.mark.slow
@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_say_how_to_go_on_and_the_next_dump_goes_on(
    start: Start, task: Task, whole_dump: Callable[[int], Path], tmp_path: Path, number: int, code: int
) -> None:
    plan = task.plan(tmp_path / "cache", **task.some)
    process = start(plan)
    wait_until(lambda: len(layout.committed_parts(plan.out)) >= 3, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == (
        f"interrupted. {plan.out} keeps every part written so far; give the same command again to resume."
    )
    assert verify(plan.out) == []
    interrupted = Cache(plan.out)
    assert not interrupted.complete
    assert len(interrupted.part_numbers) >= 3
    assert dump(plan).complete
    assert traces(plan.out) == []
    assert tree(plan.out) == tree(whole_dump(FEW_KILLS))


@pytest.mark.slow
@HOW_MANY
@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
def test_ctrl_c_at_any_moment_of_the_writing_leaves_only_whole_parts(
    task: Task,
    whole_dump: Callable[[int], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    attacks: Attacks,
    count: int,
    seed: int,
) -> None:
    """The interrupt comes into the thread that asks the teacher, while the one behind writes or commits.

    One that Python drops, because it came within a finaliser, comes again: without it the dump would end.
    """
    chance = random.Random(seed)
    plan = task.plan(tmp_path / "cache", **task.parts_for(count))
    armed = dumping = False

    def come_again(lost: sys.UnraisableHookArgs) -> None:
        assert isinstance(lost.exc_value, KeyboardInterrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    monkeypatch.setattr(sys, "unraisablehook", come_again)

    def interrupt(number: int, frame: object) -> None:
        if dumping:
            raise KeyboardInterrupt

    def arm(step: Step) -> None:
        nonlocal armed
        if step.stage == "dump" and not armed:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.04))

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupted = 0
    try:
        for _ in range(count):
            armed, dumping = False, True
            try:
                dump(plan, arm)
                dumping = False
            except KeyboardInterrupt:
                dumping = False
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert verify(plan.out) == []
            attacks.survived("interrupts")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted == count, "the dump was over before it was interrupted"
    assert dump(plan).complete
    assert traces(plan.out) == []
    assert tree(plan.out) == tree(whole_dump(count))
    attacks.survived("caches resumed to the same bytes")


def test_what_killed_writers_left_is_gone_after_the_next_dump(
    small_cache: Path, small_copy: Path, small_plan: Callable[..., DumpSettings]
) -> None:
    """A kill may fall between writing aside and the rename, or between a part's commit and the sweeping after it."""
    shutil.rmtree(small_copy / "parts" / "00002")
    for name in (".cache.json.0123abcd", "shared/.tail.safetensors.0123abcd", ".probe.123"):
        (small_copy / name).write_bytes(b"half a fi")
    for name in ("00001.partial-0123abcd", "00002.partial-4567cdef"):
        (small_copy / "parts" / name).mkdir()
        (small_copy / "parts" / name / "samples.arrow").write_bytes(b"half a fi")
    assert verify(small_copy) == []
    assert dump(small_plan(small_copy)).complete
    assert traces(small_copy) == []
    assert tree(small_copy) == tree(small_cache)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("parts", [[16, 19, 24, 29, 34]])
def test_adding_views_killed_at_some_moments_ends_byte_identical(
    start: Start, two_views: Path, five_views: dict[str, bytes], attacks: Attacks, parts: list[int]
) -> None:
    def grown_to(parts: int) -> Callable[[], bool]:
        return lambda: (
            unseal(Manifest, two_views / MANIFEST_NAME).views == 5 and len(layout.committed_parts(two_views)) >= parts
        )

    for wanted in parts:
        process = start(adding(two_views, "2-4"))
        wait_until(grown_to(wanted), process)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "all views were there before it was killed"
        assert verify(two_views) == []
        for part in layout.committed_parts(two_views):
            name = layout.part_folder(two_views, part).relative_to(two_views).as_posix()
            for path, content in tree(two_views / name).items():
                assert content == five_views[f"{name}/{path}"]
        attacks.survived("kills")
    add(adding(two_views, "2-4"))
    assert traces(two_views) == []
    assert tree(two_views) == five_views
    attacks.survived("caches resumed to the same bytes")
