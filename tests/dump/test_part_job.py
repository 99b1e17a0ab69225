"""A part of a dump as a value: other processes write the parts of one cache, each after its own start."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from logitstore.dump.dump import PartJob, dump
from logitstore.dump.parts import ANSWERS, missing_work
from logitstore.store.checks.verify import verify
from logitstore.store.storage import open_storage
from tests.parts.files import tree
from tests.parts.taps import small_taps_plan

CHANGES: dict[str, Any] = {
    "samples_per_part": 4,
    "preset": "small",
    "k": None,
    "hidden": "0,final",
    "tap_codec": "int8",
}
"""Rows, taps and tensors that a pilot decides: everything that a part can have."""


def test_a_job_comes_out_of_a_pickle_as_it_was(teacher: Path, texts: Path, tmp_path: Path) -> None:
    job = PartJob(settings=small_taps_plan(teacher, texts, tmp_path / "cache", **CHANGES), part=2)
    assert pickle.loads(pickle.dumps(job)) == job


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_processes_write_the_parts_of_one_dump_with_the_same_bytes(
    teacher: Path, texts: Path, tmp_path: Path
) -> None:
    whole = dump(small_taps_plan(teacher, texts, tmp_path / "whole", **CHANGES))
    settings = small_taps_plan(teacher, texts, tmp_path / "shared", **CHANGES)
    begun = dump(settings.model_copy(update={"parts": "0"}))
    assert begun.part_numbers == [0]
    jobs = [PartJob(settings=settings, part=part) for part in range(begun.manifest.parts)]
    assert len(jobs) > 2
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["logitstore.dump.dump", "logitstore.text.dump"])  # else each process imports them
    with ProcessPoolExecutor(max_workers=2, mp_context=context) as pool:
        for done in [pool.submit(job.run) for job in jobs]:
            done.result(timeout=300)
    assert missing_work(open_storage(settings.out), range(len(jobs)), [ANSWERS, "hidden-0", "final"]) == {}
    assert dump(settings).complete
    assert verify(settings.out) == []
    assert tree(settings.out) == tree(whole.path)
