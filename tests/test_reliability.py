"""What a cache of texts or images survives: killed writers, full disks, two writers at once, and a flipped byte anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from logitstore.add import add
from logitstore.cache import layout
from logitstore.cache.reader import Cache
from logitstore.cache.row_checks import row_block_problems
from logitstore.cache.verify import Problem, repair, verify
from logitstore.codecs.answer import AnswerCodec
from logitstore.dump import dump
from logitstore.errors import LogitstoreError, NotACache, StorageError
from logitstore.fields import CodecInfo, RowInfo, SparsifierInfo, TailInfo
from logitstore.manifest import MANIFEST_NAME, RECORD_NAME, Manifest, PartRecord
from logitstore.plans import AddPlan, DumpPlan
from logitstore.sealed import seal, seal_of, unseal
from logitstore.sparsify.topk import TopK
from logitstore.types import Step, key_of
from logitstore.view_order import view_order
from tests.conftest import error_line, flags_of, logitstore_command, plan_for, traces, tree
from tests.made_images import images_plan

Start = Callable[..., subprocess.Popen[str]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the tests must know of a task.

    Attributes:
        plan: the dump to a folder, with changes.
        small: changes that make it one of three small parts.
        many: changes that make it one of many parts.
        reading: the stages in which the data are read.
        kills: how often a process that dumps is killed.
        interrupts: how often a dump in this process is interrupted.
        split: the numbers of the many parts, divided in two.
        room: a disk too small for the whole dump.
        loaded: the shared folder that is loaded with whatever lies in it.
        kinds: files that only caches of this task have.
    """

    plan: Callable[..., DumpPlan]
    small: dict[str, Any]
    many: dict[str, Any]
    reading: tuple[str, ...]
    kills: int
    interrupts: int
    split: tuple[str, str]
    room: str
    loaded: str
    kinds: set[str]


@pytest.fixture(scope="module", params=["text", "images"])
def task(request: pytest.FixtureRequest, teacher: Path, texts: Path, classifier: Path, images: Path) -> Task:
    """Every test that uses it, or a cache, is made for both."""
    if request.param == "text":
        return Task(
            plan=partial(plan_for, teacher, texts),
            small={"limit": 6, "samples_per_part": 9},
            many={"samples_per_part": 2},
            reading=("tokenise", "windows"),
            kills=20,
            interrupts=20,
            split=("0-40,100-112", "41-99"),
            room="500k",
            loaded="tokenizer",
            kinds={"shared/tokenizer/tokenizer.json"},
        )
    return Task(
        plan=partial(images_plan, classifier, images),
        # the first two have no label
        small={"limit": 10, "samples_per_part": 10},
        many={"samples_per_part": 2, "augment": "crop,flip,mixup"},
        reading=("images",),
        kills=4,
        interrupts=10,
        split=("0-30,80-89", "31-79"),
        room="300k",
        loaded="processor",
        kinds={"shared/processor/preprocessor_config.json", "shared/images.arrow"},
    )


@pytest.fixture
def start() -> Iterator[Start]:
    """Begins a dump, or an add, in a process of its own; whatever is not over when the test is gets killed."""
    processes: list[subprocess.Popen[str]] = []

    def begin(plan: DumpPlan | AddPlan, stderr: Any = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
        arguments = (
            ["dump", *flags_of(plan)] if isinstance(plan, DumpPlan) else ["add", str(plan.cache), *flags_of(plan)]
        )
        command = [sys.executable, "-m", "logitstore", *arguments]
        output = {"stdout": subprocess.DEVNULL, "stderr": stderr, "text": True}
        # a shell starts its background jobs with SIGINT ignored, and what they start would inherit that
        listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        processes.append(subprocess.Popen(command, env=os.environ | variables, preexec_fn=listen, **output))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does; the process must live to do it."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, f"the dump ended too early: {process.communicate()}"
        assert time.monotonic() < deadline, "the dump hangs"
        time.sleep(0.001)


def listing(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


@pytest.fixture(scope="module")
def small_plan(task: Task) -> Callable[..., DumpPlan]:
    """A dump of three small parts."""

    def make(out: Path, **changes: Any) -> DumpPlan:
        return task.plan(out, **task.small | changes)

    return make


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, small_plan: Callable[..., DumpPlan]) -> Path:
    """A complete small cache; do not change it."""
    cache = dump(small_plan(tmp_path_factory.mktemp("small") / "cache"))
    assert cache.manifest.parts == 3
    return cache.path


@pytest.fixture(scope="module")
def many_parts(tmp_path_factory: pytest.TempPathFactory, task: Task) -> Path:
    """A complete cache of 113 or 90 parts of two samples, written by one process; do not change it."""
    cache = dump(task.plan(tmp_path_factory.mktemp("many") / "cache", **task.many))
    assert cache.manifest.parts > 5 * max(task.kills, task.interrupts)
    return cache.path


@pytest.fixture(autouse=True)
def _as_many_threads_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last bits of a float may depend on the number of threads; here they must not differ."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    """The small cache again, to be spoilt."""
    return Path(shutil.copytree(small, tmp_path / "copy"))


# killed and interrupted


@pytest.mark.slow
def test_a_dump_killed_at_many_moments_ends_byte_identical(
    start: Start, task: Task, many_parts: Path, tmp_path: Path
) -> None:
    """Kills fall into the planning, the loading, the pilot, the shared files, and mostly into the writing of parts."""
    chance = random.Random(20)
    plan = task.plan(tmp_path / "killed", **task.many)
    expected = tree(many_parts)
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
    begin = begin if task.kills > len(begin) else [begin[0], begin[7]]
    within = [lambda: (new_parts(chance.randint(1, 4)), 0.04)] * (task.kills - len(begin))
    for moment in begin + within:
        with (tmp_path / "stderr").open("w") as stderr:
            reached, longest = moment()
            process = start(plan, stderr, **own_data)
            wait_until(reached, process)
            time.sleep(chance.uniform(0, longest))
            process.kill()
            assert process.wait() == -signal.SIGKILL, "the dump was over before it was killed"
        check_killed(out, expected)

    last = start(plan, **own_data)
    _, stderr_text = last.communicate(timeout=120)
    assert last.returncode == 0, stderr_text
    assert verify(out) == []
    assert traces(out) == []
    assert tree(out) == expected


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
def test_ctrl_c_says_how_to_go_on_and_the_next_dump_goes_on(
    start: Start, task: Task, many_parts: Path, tmp_path: Path
) -> None:
    plan = task.plan(tmp_path / "cache", **task.many)
    process = start(plan)
    wait_until(lambda: len(layout.committed_parts(plan.out)) >= 3, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == (
        f"interrupted. {plan.out} keeps every part written so far; give the same command again to go on."
    )
    assert verify(plan.out) == []
    interrupted = Cache(plan.out)
    assert not interrupted.complete
    assert len(interrupted.part_numbers) >= 3
    assert dump(plan).complete
    assert traces(plan.out) == []
    assert tree(plan.out) == tree(many_parts)


def test_ctrl_c_within_a_write_of_zarr_python_says_nothing_of_its_event_loop() -> None:
    code = """
import asyncio, threading
from zarr.core import sync
from logitstore_cli import main

begun = threading.Event()

async def write():
    begun.set()
    await asyncio.sleep(60)

def interrupted(**options):
    asyncio.run_coroutine_threadsafe(sync._runner(write()), sync._get_loop())
    assert begun.wait(60)
    raise KeyboardInterrupt

main.app = interrupted
main.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.slow
def test_ctrl_c_at_any_moment_of_the_writing_leaves_only_whole_parts(
    task: Task, many_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt comes into the thread that asks the teacher, while the one behind writes or commits.

    One that Python drops, because it came within a finaliser, comes again: without it the dump would end.
    """
    chance = random.Random(21)
    plan = task.plan(tmp_path / "cache", **task.many)
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
        for _ in range(task.interrupts):
            armed, dumping = False, True
            try:
                dump(plan, arm)
                dumping = False
            except KeyboardInterrupt:
                dumping = False
                interrupted += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert verify(plan.out) == []
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted == task.interrupts, "the dump was over before it was interrupted"
    assert dump(plan).complete
    assert traces(plan.out) == []
    assert tree(plan.out) == tree(many_parts)


def test_what_killed_writers_left_is_gone_after_the_next_dump(
    small: Path, copy: Path, small_plan: Callable[..., DumpPlan]
) -> None:
    """A kill may fall between writing aside and the rename, or between a part's commit and the sweeping after it."""
    shutil.rmtree(copy / "parts" / "00002")
    for name in (".cache.json.0123abcd", "shared/.tail.safetensors.0123abcd", ".probe.123"):
        (copy / name).write_bytes(b"half a fi")
    for name in ("00001.partial-0123abcd", "00002.partial-4567cdef"):
        (copy / "parts" / name).mkdir()
        (copy / "parts" / name / "samples.arrow").write_bytes(b"half a fi")
    assert verify(copy) == []
    assert dump(small_plan(copy)).complete
    assert traces(copy) == []
    assert tree(copy) == tree(small)


# views that are added


@pytest.fixture(scope="module")
def views_plan(classifier: Path, images: Path) -> Callable[..., DumpPlan]:
    """A dump of 16 images, eight parts a view."""
    changes = {"limit": 16, "samples_per_part": 2, "augment": "crop,flip,erase,cutmix"}
    return lambda out, views: images_plan(classifier, images, out, views=views, **changes)


@pytest.fixture(scope="module")
def five_views(tmp_path_factory: pytest.TempPathFactory, views_plan: Callable[..., DumpPlan]) -> dict[str, bytes]:
    """The files of a cache of five views, dumped in one go."""
    return tree(dump(views_plan(tmp_path_factory.mktemp("views") / "cache", 5)).path)


@pytest.fixture(scope="module")
def first_views(tmp_path_factory: pytest.TempPathFactory, views_plan: Callable[..., DumpPlan]) -> Path:
    """A cache of two of them; do not change it."""
    return dump(views_plan(tmp_path_factory.mktemp("views") / "cache", 2)).path


@pytest.fixture
def two_views(first_views: Path, tmp_path: Path) -> Path:
    """The same cache, to be added to."""
    return Path(shutil.copytree(first_views, tmp_path / "cache"))


def adding(cache: Path, views: str, **options: Any) -> AddPlan:
    return AddPlan(cache=cache, views=views, device="cpu", **options)


@pytest.mark.parametrize(
    "steps",
    [
        [{"views": "2-4"}],
        [{"views": "2"}, {"views": "3 - 4", "workers": 1}],
        [{"views": "0-3"}, {"views": "4"}],
        [{"views": "2-4", "parts": "39"}, {"views": "2-4", "parts": "16-20,31"}, {"views": "1-4"}],
    ],
    ids=lambda steps: "; ".join(step["views"] for step in steps),
)
def test_views_that_are_added_make_the_cache_of_a_dump_with_all_of_them(
    two_views: Path, five_views: dict[str, bytes], steps: list[dict[str, Any]]
) -> None:
    there = {part: identities(layout.part_folder(two_views, part)) for part in range(16)}
    for step in steps:
        cache = add(adding(two_views, **step))
        assert verify(two_views) == []
        assert cache.manifest.views == int(step["views"][-1]) + 1
    assert tree(two_views) == five_views
    assert {part: identities(layout.part_folder(two_views, part)) for part in range(16)} == there


def test_a_dump_with_more_views_adds_them_and_one_with_fewer_leaves_them(
    two_views: Path, five_views: dict[str, bytes], views_plan: Callable[..., DumpPlan]
) -> None:
    assert dump(views_plan(two_views, 5)).complete
    assert tree(two_views) == five_views
    assert len(dump(views_plan(two_views, 1))) == 5 * 16
    assert tree(two_views) == five_views


def test_nothing_of_a_manifest_changes_but_the_count_of_views(two_views: Path) -> None:
    before = json.loads((two_views / MANIFEST_NAME).read_bytes())
    add(adding(two_views, "2"))
    after = json.loads((two_views / MANIFEST_NAME).read_bytes())
    assert (before.pop("views"), after.pop("views")) == (2, 3)
    assert before.pop("checksum") != after.pop("checksum")
    assert before == after


def test_views_whose_adding_was_interrupted_are_not_read_before_they_are_whole(
    two_views: Path, five_views: dict[str, bytes]
) -> None:
    def interrupt(step: Step) -> None:
        if step.part == 28:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(adding(two_views, "2-4"), interrupt)
    cache = Cache(two_views)
    assert verify(two_views) == []
    assert traces(two_views / layout.PARTS) == []
    assert (cache.manifest.views, cache.complete) == (5, False)
    assert cache.part_numbers == list(range(28))
    assert cache.whole_views == [0, 1, 2]
    order = view_order(cache, np.arange(16), None, 1, 0)
    assert order.firsts == (0, 16, 32)
    add(adding(two_views, "2-4"))
    assert tree(two_views) == five_views


@pytest.mark.slow
def test_adding_views_killed_at_some_moments_ends_byte_identical(
    start: Start, two_views: Path, five_views: dict[str, bytes]
) -> None:
    def grown_to(parts: int) -> Callable[[], bool]:
        return lambda: (
            unseal(Manifest, two_views / MANIFEST_NAME).views == 5 and len(layout.committed_parts(two_views)) >= parts
        )

    for wanted in (16, 19):
        process = start(adding(two_views, "2-4"))
        wait_until(grown_to(wanted), process)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "all views were there before it was killed"
        assert verify(two_views) == []
        for part in layout.committed_parts(two_views):
            name = layout.part_folder(two_views, part).relative_to(two_views).as_posix()
            for path, content in tree(two_views / name).items():
                assert content == five_views[f"{name}/{path}"]
    add(adding(two_views, "2-4"))
    assert traces(two_views) == []
    assert tree(two_views) == five_views


def test_the_same_views_are_added_by_two_at_once(two_views: Path, five_views: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for cache in pool.map(add, [adding(two_views, "2-4")] * 2):
            assert cache.manifest.views == 5
    assert traces(two_views) == []
    assert verify(two_views) == []
    assert tree(two_views) == five_views


# writers beside each other


@pytest.mark.slow
def test_two_processes_with_disjoint_parts_begin_one_cache_together(
    start: Start, task: Task, many_parts: Path, tmp_path: Path
) -> None:
    plans = [task.plan(tmp_path / "cache", **task.many, parts=parts) for parts in task.split]
    processes = [start(plan) for plan in plans]
    for process in processes:
        _, stderr = process.communicate(timeout=180)
        assert process.returncode == 0, stderr
    assert Cache(tmp_path / "cache").complete
    assert traces(tmp_path / "cache") == []
    assert tree(tmp_path / "cache") == tree(many_parts)


@pytest.mark.slow
def test_the_same_command_started_twice_at_once_does_no_harm(
    start: Start, task: Task, many_parts: Path, tmp_path: Path
) -> None:
    plan = task.plan(tmp_path / "cache", **task.many)
    processes = [start(plan) for _ in range(2)]
    for process in processes:
        _, stderr = process.communicate(timeout=180)
        assert process.returncode == 0, stderr
    assert traces(plan.out) == []
    assert tree(plan.out) == tree(many_parts)


def test_what_a_part_holds_does_not_depend_on_the_run_that_wrote_it(
    small: Path, small_plan: Callable[..., DumpPlan], tmp_path: Path
) -> None:
    for out, splits in (
        (tmp_path / "one", ["2", "0", "1"]),
        (tmp_path / "two", ["1", "0,2"]),
        (tmp_path / "3", ["0-2"]),
    ):
        for parts in splits:
            cache = dump(small_plan(out, parts=parts))
            assert set(layout.parse_parts(parts, 3)) <= set(cache.part_numbers)
        assert tree(out) == tree(small)


def test_parts_of_another_run_fit_into_a_cache_of_the_same_plan(
    copy: Path, small: Path, small_plan: Callable[..., DumpPlan], tmp_path: Path
) -> None:
    other = dump(small_plan(tmp_path / "other", parts="1")).path
    shutil.rmtree(copy / "parts" / "00001")
    shutil.copytree(other / "parts" / "00001", copy / "parts" / "00001")
    assert verify(copy) == []
    assert tree(copy) == tree(small)


# full and read-only disks


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on_when_there_is_space(
    disk: Callable[[str], Path], task: Task, tmp_path: Path
) -> None:
    plan = task.plan(disk(f"size={task.room}") / "cache")
    done = logitstore_command("dump", *flags_of(plan))
    assert done.returncode == 2
    line = error_line(done.stderr)
    assert str(plan.out) in line
    assert "no space left" in line
    assert verify(plan.out) == []
    assert traces(plan.out) == []
    assert not Cache(plan.out).complete
    disk("size=16m")
    assert dump(plan).complete
    assert tree(plan.out) == tree(dump(task.plan(tmp_path / "whole")).path)


def open_below(folder: Path) -> list[str]:
    """Files below a folder that this process holds open; mapped ones do not count."""
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [name for name in names if name.startswith(str(folder))]


def storage_error_of(plan: DumpPlan) -> str | None:
    """What a dump says about the disk, if anything."""
    try:
        dump(plan)
    except StorageError as error:
        return str(error)
    return None


def test_wherever_the_disk_gets_full_nothing_broken_is_left(
    disk: Callable[[str], Path], small: Path, small_plan: Callable[..., DumpPlan]
) -> None:
    """The disk grows page by page, so that it gets full in the shared files, the metadata, the rows and the records."""
    plan = small_plan(disk("size=4k") / "cache")
    needed = 4 * sum(-(-len(content) // 4096) for content in tree(small).values())
    full = 0
    for size in (4, 12, 20, *range(24, needed, 20), 4 * needed):
        disk(f"size={size}k")
        error = storage_error_of(plan)
        if error is not None:
            full += 1
            assert "no space left" in error
            assert str(plan.out) in error
        assert traces(plan.out) == []
        if (plan.out / MANIFEST_NAME).exists():
            assert verify(plan.out) == []
        else:
            assert layout.committed_parts(plan.out) == []
    assert full >= 8
    assert tree(plan.out) == tree(small)
    assert open_below(plan.out) == []


def test_a_disk_without_free_inodes_is_a_full_disk(
    disk: Callable[[str], Path], small: Path, small_plan: Callable[..., DumpPlan]
) -> None:
    plan = small_plan(disk("size=16m,nr_inodes=45") / "cache")
    with pytest.raises(StorageError, match="no space left"):
        dump(plan)
    assert verify(plan.out) == []
    assert traces(plan.out) == []
    disk("nr_inodes=4096")
    assert dump(plan).complete
    assert tree(plan.out) == tree(small)


# the target is looked at before the task is
@pytest.mark.parametrize("task", ["text"], indirect=True)
@pytest.mark.slow
def test_a_read_only_target_ends_in_one_line(disk: Callable[[str], Path], small_plan: Callable[..., DumpPlan]) -> None:
    plan = small_plan(disk("ro,size=16m") / "cache")
    done = logitstore_command("dump", *flags_of(plan))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [error_line(done.stderr)]
    assert str(plan.out) in done.stderr
    assert "read-only" in done.stderr


def test_a_cache_that_became_read_only_is_read_but_not_written(
    disk: Callable[[str], Path], small: Path, small_plan: Callable[..., DumpPlan]
) -> None:
    plan = small_plan(disk("size=16m") / "cache")
    dump(small_plan(plan.out, parts="0"))
    disk("ro")
    with pytest.raises(StorageError, match="read-only"):
        dump(plan)
    assert verify(plan.out) == []
    problems = [Problem(part=0, file="parts/00000/samples.arrow", what="its checksum does not match")]
    with pytest.raises(StorageError, match="read-only"):
        repair(plan.out, problems)
    disk("rw")
    assert dump(plan).complete
    assert tree(plan.out) == tree(small)


# damage


def files_of(cache: Path) -> list[str]:
    return list(tree(cache))


def part_of(name: str) -> int | None:
    found = re.match(r"parts/(\d+)/", name)
    return int(found[1]) if found else None


def kind_of(name: str) -> str:
    """What a file is, without the part it belongs to, the hash in its name, and which array of a part it is."""
    return re.sub(r"parts/\d+/|-[0-9a-f]{16}|(?<=zarr)/\w+(?=/)|(/0)+$", "", name)


def named(problems: list[Problem]) -> set[tuple[int | None, str]]:
    return {(problem.part, problem.file) for problem in problems}


def flip(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def test_any_flipped_byte_of_any_file_is_reported_with_its_part_and_file(copy: Path) -> None:
    chance = random.Random(7)
    assert len(files_of(copy)) > 3 * 13
    for name in files_of(copy):
        path = copy / name
        size = path.stat().st_size
        offsets = {0, size - 1, *(chance.randrange(size) for _ in range(6))}
        while len(offsets) < min(size, 8):
            offsets.add(chance.randrange(size))
        for offset in sorted(offsets):
            bit = chance.randrange(8)
            flip(path, offset, bit)
            assert named(verify(copy)) == {(part_of(name), name)}, f"bit {bit} of byte {offset} of {name}"
            flip(path, offset, bit)
    assert verify(copy) == []


@pytest.mark.parametrize(("kind", "name"), [(Manifest, MANIFEST_NAME), (PartRecord, f"parts/00001/{RECORD_NAME}")])
def test_a_record_with_any_byte_flipped_is_not_read(copy: Path, kind: Any, name: str) -> None:
    """Every fourth byte, to be quick."""
    chance = random.Random(8)
    whole = (copy / name).read_bytes()
    for offset in range(chance.randrange(4), len(whole), 4):
        broken = bytearray(whole)
        broken[offset] ^= 1 << chance.randrange(8)
        (copy / name).write_bytes(broken)
        with pytest.raises(LogitstoreError):
            unseal(kind, copy / name)


def test_a_truncated_file_is_reported_with_its_part_and_file(copy: Path) -> None:
    for name in files_of(copy):
        whole = (copy / name).read_bytes()
        for size in {0, len(whole) // 2, len(whole) - 1}:
            os.truncate(copy / name, size)
            assert named(verify(copy)) == {(part_of(name), name)}, f"{name} cut to {size} bytes"
            (copy / name).write_bytes(whole)
    assert verify(copy) == []


def test_a_file_with_bytes_added_is_reported_with_its_part_and_file(copy: Path) -> None:
    for name in files_of(copy):
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(whole + b"\n")
        assert named(verify(copy)) == {(part_of(name), name)}, name
        (copy / name).write_bytes(whole)


def test_a_missing_file_is_reported_with_its_part_and_file(copy: Path) -> None:
    for name in files_of(copy):
        whole = (copy / name).read_bytes()
        (copy / name).unlink()
        if name == MANIFEST_NAME:
            problems = verify(copy)
            assert named(problems) == {(None, MANIFEST_NAME)}
        else:
            assert named(verify(copy)) == {(part_of(name), name)}, name
        (copy / name).write_bytes(whole)


def test_a_missing_part_is_not_wrong(copy: Path) -> None:
    shutil.rmtree(copy / "parts" / "00001")
    assert verify(copy) == []
    assert Cache(copy).part_numbers == [0, 2]


@pytest.mark.parametrize("place", ["", "rows.zarr/", "rows.zarr/ids/", "rows.zarr/ids/c/0/"])
@pytest.mark.parametrize("name", ["1", ".hidden", "zarr.json.old"])
def test_a_file_added_to_a_part_is_reported(copy: Path, place: str, name: str) -> None:
    (copy / "parts" / "00001" / place / name).write_bytes(b"")
    assert named(verify(copy)) == {(1, f"parts/00001/{place}{name}")}


def test_a_file_added_to_the_tokenizer_or_processor_is_reported(copy: Path, task: Task) -> None:
    """Whatever lies in that folder is loaded with it."""
    folder = next((copy / "shared").glob(f"{task.loaded}-*"))
    (folder / "added_tokens.json").write_text('{"surprise": 3}')
    name = (folder / "added_tokens.json").relative_to(copy).as_posix()
    problems = verify(copy)
    assert named(problems) == {(None, name)}
    assert repair(copy, problems) == [name]
    assert verify(copy) == []


def test_a_part_beyond_the_plan_is_reported(copy: Path) -> None:
    shutil.copytree(copy / "parts" / "00001", copy / "parts" / "00003")
    assert [problem.part for problem in verify(copy)] == [3]


def test_a_part_under_another_number_is_reported(copy: Path) -> None:
    shutil.rmtree(copy / "parts" / "00000")
    (copy / "parts" / "00001").rename(copy / "parts" / "00000")
    assert named(verify(copy)) == {(0, f"parts/00000/{RECORD_NAME}")}


def test_a_part_of_another_plan_is_reported(copy: Path, small_plan: Callable[..., DumpPlan], tmp_path: Path) -> None:
    other = dump(small_plan(tmp_path / "other", k=7)).path
    shutil.rmtree(copy / "parts" / "00001")
    shutil.copytree(other / "parts" / "00001", copy / "parts" / "00001")
    problems = verify(copy)
    assert named(problems) == {(1, f"parts/00001/{RECORD_NAME}")}
    assert "another plan" in problems[0].what


def test_a_linked_file_is_reported_although_its_bytes_are_right(copy: Path, tmp_path: Path) -> None:
    path = copy / "parts" / "00001" / "rows.zarr" / "ids" / "c" / "0" / "0"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert {problem.part for problem in verify(copy)} == {1}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file and folder."""
    found = [folder, *sorted(folder.rglob("*"))]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def test_repair_and_the_same_dump_restore_any_file_and_leave_sound_parts_alone(
    small: Path, copy: Path, small_plan: Callable[..., DumpPlan], task: Task
) -> None:
    chance = random.Random(9)
    one_of_each = {kind_of(name): name for name in files_of(small) if part_of(name) in (None, 1)}
    assert {
        "cache.json",
        "part.json",
        "samples.arrow",
        "rows.zarr/zarr.json",
        "rows.zarr/c",
        "shared/tail.safetensors",
        "shared/vocabulary.arrow",
        *task.kinds,
    } <= one_of_each.keys()
    for name in one_of_each.values():
        broken_part = part_of(name)
        sound = [layout.part_folder(copy, part) for part in range(3) if part != broken_part]
        before = [identities(folder) for folder in sound]
        flip(copy / name, chance.randrange((copy / name).stat().st_size), chance.randrange(8))
        dropped = repair(copy, verify(copy))
        assert dropped == [name if broken_part is None else f"parts/{broken_part:05d}"]
        assert dump(small_plan(copy)).complete
        assert tree(copy) == tree(small), name
        assert [identities(folder) for folder in sound] == before, name


# invariants, broken one at a time in a cache whose checksums are right


def reseal(cache: Path, part: int, **changes: Any) -> None:
    """Write the commit record of a part anew, about the files as they are now."""
    folder = layout.part_folder(cache, part)
    record = unseal(PartRecord, folder / RECORD_NAME)
    files = {name: seal_of(folder / name) for name in record.files}
    (folder / RECORD_NAME).write_bytes(seal(record.model_copy(update={"files": files} | changes)))


def change_samples(cache: Path, part: int, change: Callable[[dict[str, list[Any]]], object]) -> None:
    """Rewrite the columns of `samples.arrow`."""
    path = layout.part_folder(cache, part) / layout.SAMPLES_FILE
    with pa.OSFile(str(path)) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
        columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
        schema = batch.schema
    change(columns)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))


def change_rows(cache: Path, part: int, field: str, change: Callable[[Any], object]) -> None:
    """Change stored values in place."""
    manifest = unseal(Manifest, cache / MANIFEST_NAME)
    info = manifest.fields[field]
    chunk = (
        layout.part_folder(cache, part) / layout.ROWS_FOLDER / field / "/".join(["c", "0", *("0" for _ in info.shape)])
    )
    values = np.fromfile(chunk, np.dtype(info.dtype).newbyteorder("<")).reshape(-1, *info.shape)
    change(values)
    values.tofile(chunk)


def one_more_row(columns: dict[str, list[Any]]) -> None:
    columns["row_count"][1] += 1


def shifted_spans(columns: dict[str, list[Any]]) -> None:
    columns["row_start"][1] -= 1


def row_at_the_last_position(columns: dict[str, list[Any]]) -> None:
    mask = columns["mask"][1]
    mask[mask.index(True)] = False
    mask[-1] = True


def unknown_token(columns: dict[str, list[Any]]) -> None:
    columns["tokens"][1][3] = 320
    columns["key"][1] = key_of(np.array(columns["tokens"][1]))


def changed_token(columns: dict[str, list[Any]]) -> None:
    columns["tokens"][1][3] += 1 if columns["tokens"][1][3] < 319 else -1


def another_image(columns: dict[str, list[Any]]) -> None:
    columns["image"][3] += 1


def another_view(columns: dict[str, list[Any]]) -> None:
    columns["view"][3] += 1


def negative_nll(columns: dict[str, list[Any]]) -> None:
    columns["nll"][3] = -1.0


def no_nll(columns: dict[str, list[Any]]) -> None:
    columns["nll"][3] = float("nan")


SAMPLE_BREAKS: list[tuple[str, str, Callable[[dict[str, list[Any]]], None]]] = [
    ("text", "row_count is not the count of the mask", one_more_row),
    ("text", "the row spans do not follow each other", shifted_spans),
    ("text", "a row stands at the last position", row_at_the_last_position),
    ("text", "a token id is not below the vocabulary", unknown_token),
    ("text", "a key is not the hash of its sample's tokens", changed_token),
    ("text", "an nll is negative", negative_nll),
    ("images", "it does not hold the views of this part", another_image),
    ("images", "it does not hold the views of this part", another_view),
    ("images", "an nll is negative", negative_nll),
    ("images", "NaN where there is a label", no_nll),
]


@pytest.mark.parametrize(("task", "what", "change"), SAMPLE_BREAKS, indirect=["task"])
def test_a_broken_invariant_of_the_samples_is_reported_although_the_checksums_are_right(
    copy: Path, what: str, change: Callable[[dict[str, list[Any]]], None]
) -> None:
    change_samples(copy, 1, change)
    reseal(copy, 1)
    problems = verify(copy)
    assert any(what in problem.what for problem in problems)
    assert any("parts/00001/samples.arrow" in str(problem) for problem in problems)
    assert {problem.part for problem in problems} == {1}


def test_samples_that_are_rewritten_unchanged_are_sound(copy: Path) -> None:
    """So it is the change, not the rewriting, that the test above reports."""
    change_samples(copy, 1, lambda columns: None)
    reseal(copy, 1)
    assert verify(copy) == []


@pytest.mark.parametrize("count", ["tokens", "rows"])
def test_a_record_that_counts_wrongly_is_reported(copy: Path, count: str) -> None:
    record = unseal(PartRecord, copy / "parts" / "00001" / RECORD_NAME)
    reseal(copy, 1, **{count: getattr(record, count) + 1})
    problems = verify(copy)
    assert problems
    assert {problem.part for problem in problems} == {1}


def put(index: Any, value: float) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        values[index] = value

    return change


def swap_first_two(values: Any) -> None:
    row = int(np.flatnonzero(values[:, 0] != values[:, 1])[0])
    values[row, [0, 1]] = values[row, [1, 0]]


ROW_BREAKS: list[tuple[str, str, Callable[[Any], None]]] = [
    ("ids", "not below the vocabulary", put((3, 7), 320)),
    ("ids", "lists an id twice", lambda ids: ids.__setitem__((3, 6), ids[3, 7])),
    ("logprobs", "positive or NaN", put((3, 0), 0.25)),
    ("logprobs", "positive or NaN", put((3, 7), np.nan)),
    ("logprobs", "not in falling order", swap_first_two),
    ("logprobs", "do not sum to 1", put((3, 0), -0.001)),
    ("tail_logmass", "above 1 or NaN", put(3, 0.5)),
    ("tail_logmass", "above 1 or NaN", put(3, np.nan)),
    ("entropy", "negative, NaN or above", put(3, -0.5)),
    ("entropy", "negative, NaN or above", put(3, np.nan)),
    ("entropy", "negative, NaN or above", put(3, 9.0)),
]


@pytest.mark.parametrize(("field", "what", "change"), ROW_BREAKS)
def test_a_broken_invariant_of_the_rows_is_reported_although_the_checksums_are_right(
    copy: Path, field: str, what: str, change: Callable[[Any], None]
) -> None:
    change_rows(copy, 1, field, change)
    reseal(copy, 1)
    problems = verify(copy)
    assert (1, f"parts/00001/rows.zarr/{field}") in named(problems)
    assert any(problem.file.endswith(field) and what in problem.what for problem in problems)
    assert {problem.part for problem in problems} == {1}


VOCABULARY = 30
KEPT = 5
CODEC = AnswerCodec(
    row=RowInfo(
        sparsifier=SparsifierInfo(name="topk", k=KEPT),
        tail=TailInfo(shape="uniform"),
        codec=CodecInfo(),
        vocabulary=VOCABULARY,
    )
)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[dict[str, Any], Any]:
    """Rows as the sparsifier makes them from random logits, in the dtypes that are stored, and their gold tokens."""
    rows = draw(st.integers(1, 6))
    scale = draw(st.floats(0.1, 6.0))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits_NV = torch.from_numpy(noise.normal(0, scale, (rows, VOCABULARY)).astype(np.float32))
    gold_N = noise.integers(0, VOCABULARY, rows)
    sparsifier = TopK(k=KEPT, vocabulary=VOCABULARY)
    targets = sparsifier(logits_NV, torch.from_numpy(gold_N))
    return CODEC.encode({name: value.numpy() for name, value in targets.items()}), gold_N


def found_in(block: dict[str, Any], gold_N: Any) -> set[str]:
    return {f"{field}: {what}" for field, what in row_block_problems(block, gold_N, CODEC)}


@given(block=blocks())
def test_rows_as_the_sparsifier_makes_them_break_no_invariant(block: tuple[dict[str, Any], Any]) -> None:
    assert found_in(*block) == set()


@given(block=blocks(), row=st.integers(0, 5), place=st.integers(0, KEPT - 1), beyond=st.integers(0, 1000))
def test_an_id_outside_the_vocabulary_is_the_only_problem_of_its_row(
    block: tuple[dict[str, Any], Any], row: int, place: int, beyond: int
) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    fields["ids"][row, place] = VOCABULARY + beyond
    assert found_in(fields, gold_N) == {f"ids: an id is not below the vocabulary of {VOCABULARY}"}


@given(block=blocks(), row=st.integers(0, 5), pair=st.permutations(range(KEPT)))
def test_an_id_listed_twice_is_reported(block: tuple[dict[str, Any], Any], row: int, pair: list[int]) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    assume(gold_N[row] not in fields["ids"][row])
    fields["ids"][row, pair[0]] = fields["ids"][row, pair[1]]
    assert found_in(fields, gold_N) == {"ids: a row lists an id twice"}


@given(block=blocks(), row=st.integers(0, 5), place=st.integers(0, KEPT - 2))
def test_logprobs_out_of_order_are_reported(block: tuple[dict[str, Any], Any], row: int, place: int) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    pair = [place, place + 1]
    assume(fields["logprobs"][row, place] > fields["logprobs"][row, place + 1])
    for name in ("ids", "logprobs"):
        fields[name][row, pair] = fields[name][row, pair[::-1]]
    assert found_in(fields, gold_N) == {"logprobs: a row is not in falling order"}


@given(block=blocks(), row=st.integers(0, 5), place=st.integers(0, KEPT - 1), value=st.sampled_from([0.01, 3, np.nan]))
def test_a_logprob_that_is_positive_or_nan_is_reported(
    block: tuple[dict[str, Any], Any], row: int, place: int, value: float
) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    fields["logprobs"][row, place] = value
    assert "logprobs: a logprob is positive or NaN" in found_in(fields, gold_N)


@given(block=blocks(), row=st.integers(0, 5), value=st.sampled_from([0.01, 3, np.nan, np.inf]))
def test_a_tail_mass_above_one_or_nan_is_reported(block: tuple[dict[str, Any], Any], row: int, value: float) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    fields["tail_logmass"][row] = value
    assert "tail_logmass: a mass is above 1 or NaN" in found_in(fields, gold_N)


@given(block=blocks(), row=st.integers(0, 5), moved=st.floats(0.01, 0.3), up=st.booleans())
def test_mass_that_does_not_sum_to_one_is_the_only_problem_of_its_row(
    block: tuple[dict[str, Any], Any], row: int, moved: float, up: bool
) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    mass = float(np.exp(fields["tail_logmass"][row].astype(np.float64)))
    wanted = mass + moved if up else mass - moved
    assume(0 <= wanted <= 1)
    with np.errstate(divide="ignore"):
        fields["tail_logmass"][row] = np.log(wanted)
    assert found_in(fields, gold_N) == {"logprobs: listed and tail mass of a row do not sum to 1"}


@given(block=blocks(), row=st.integers(0, 5), place=st.integers(0, KEPT - 1), moved=st.sampled_from([-2.0, -0.1]))
def test_a_gold_logprob_that_is_not_the_listed_one_is_the_only_problem_of_its_row(
    block: tuple[dict[str, Any], Any], row: int, place: int, moved: float
) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    gold_N[row] = fields["ids"][row, place]
    fields["gold_logprob"][row] = fields["logprobs"][row, place]
    assert found_in(fields, gold_N) == set()
    fields["gold_logprob"][row] += np.float16(moved)
    assert found_in(fields, gold_N) == {"gold_logprob: it is not the listed logprob of the gold token"}


@given(block=blocks(), row=st.integers(0, 5), value=st.sampled_from([-0.1, 3.5, np.nan, np.inf]))
def test_an_entropy_that_cannot_be_is_the_only_problem_of_its_row(
    block: tuple[dict[str, Any], Any], row: int, value: float
) -> None:
    fields, gold_N = block
    assume(row < len(gold_N))
    fields["entropy"][row] = value
    assert found_in(fields, gold_N) == {"entropy: it is negative, NaN or above log(vocabulary)"}


def test_a_gold_logprob_of_an_unlisted_token_that_is_positive_or_nan_is_reported(copy: Path) -> None:
    part = Cache(copy).part(1)
    golds = np.concatenate([part[index].sample.gold_N for index in range(len(part.samples))])
    unlisted = int(np.flatnonzero(~(part.fields["ids"] == golds[:, None]).any(1) & (golds >= 0))[0])
    for value in (0.5, np.nan):
        change_rows(copy, 1, "gold_logprob", put(unlisted, value))
        reseal(copy, 1)
        assert named(verify(copy)) == {(1, "parts/00001/rows.zarr/gold_logprob")}


@pytest.mark.parametrize("task", ["images"], indirect=True)
def test_a_gold_logprob_where_there_is_no_label_is_reported(copy: Path) -> None:
    change_rows(copy, 1, "gold_logprob", put(0, -0.5))
    reseal(copy, 1)
    assert named(verify(copy)) == {(1, "parts/00001/rows.zarr/gold_logprob")}


def test_an_invariant_broken_in_a_late_row_is_reported(copy: Path) -> None:
    change_rows(copy, 1, "entropy", put(-1, -0.5))
    reseal(copy, 1)
    assert named(verify(copy)) == {(1, "parts/00001/rows.zarr/entropy")}


def test_zarr_metadata_that_the_manifest_does_not_ask_for_is_reported_although_the_checksums_are_right(
    copy: Path,
) -> None:
    path = copy / "parts" / "00001" / "rows.zarr" / "entropy" / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_type": "int16"}))
    reseal(copy, 1)
    problems = verify(copy)
    assert {problem.part for problem in problems} == {1}
    assert "entropy/zarr.json" in str(problems[0])
