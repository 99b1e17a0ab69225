"""A teacher that two processes compute says the same as in one, within the noise of other sums; neither outlives the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from logitstore.core.progress import Step
from logitstore.dump.dump import dump
from logitstore.dump.teachers.causal_lm import source
from logitstore.errors import ModelError, StorageError
from logitstore.models.placing import launch
from logitstore.models.placing.placement import Placement
from logitstore.store.cache import Cache
from tests.models.placing.test_spread import experts
from tests.parts.texts import plan_for, save_model

IDS = torch.randint(0, 300, (2, 16), generator=torch.Generator().manual_seed(0))
BATCH = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
NOISE = 2e-5
"""Largest difference of float32 logits of size 10 when the sums of a layer are made of two parts."""


def followers() -> list[int]:
    """The processes that this one has started to follow it."""
    shown = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in shown.stdout.splitlines() if "placing.follower" in line]


@pytest.mark.slow
def test_two_processes_say_the_same_as_one(tmp_path: Path) -> None:
    folder = str(save_model(tmp_path, None, 328, tie_word_embeddings=True))
    whole = source(folder).load("float32", "cpu")
    split = source(folder, placement=Placement(tensor_parallel=2)).load("float32", "auto")
    assert len(followers()) == 1
    assert split.fingerprint() == whole.fingerprint()
    assert torch.equal(split.head(320).weight_VD, whole.head(320).weight_VD)
    names = ["hidden-1", "final"]
    assert split.widths(names) == whole.widths(names) == {"hidden-1": 32, "final": 32}
    for name, value in split.features(BATCH, names).items():
        torch.testing.assert_close(value, whole.features(BATCH, names)[name], rtol=0, atol=NOISE)
    torch.testing.assert_close(split.logits(BATCH), whole.logits(BATCH), rtol=0, atol=NOISE)
    with pytest.raises(ModelError, match="queries, keys and values are not whole"), split.recording(["query-1"]):
        pass
    os.kill(followers()[0], signal.SIGKILL)
    with pytest.raises(ModelError, match="process 1 of the 2 that compute the teacher was ended by signal 9"):
        split.logits(BATCH)
    split.close()
    assert followers() == []


def test_where_one_process_fails_the_dump_ends(
    teacher: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_FOLLOW", "raise SystemExit('error: nothing works here')")
    with pytest.raises(ModelError, match="process 1 of the 2 that compute the teacher has ended: nothing works here"):
        dump(plan_for(teacher, texts, tmp_path / "out", device="auto", tensor_parallel=2))
    assert followers() == []


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("stopped", [StorageError, KeyboardInterrupt, None])
def test_the_others_end_with_the_first(
    stopped: type[BaseException] | None, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    seen: list[int] = []

    def progress(step: Step) -> None:
        if step.stage == "dump" and step.done:
            seen.extend(followers())
            if stopped is not None:
                raise stopped("the disk is full")

    plan = plan_for(teacher, texts, tmp_path / "out", device="auto", tensor_parallel=2, limit=6)
    if stopped is None:
        dump(plan, progress)
    else:
        with pytest.raises(stopped, match="the disk is full"):
            dump(plan, progress)
    assert len(set(seen)) == 1
    assert followers() == []


@pytest.mark.slow
@pytest.mark.exhaustive
def test_torchrun_may_start_them(teacher: Path, texts: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "logitstore",
    ]
    for processes, code in (
        (2, 0),
        (2, 0),
        (4, 1),
    ):  # a whole cache is not written again; too few processes are refused
        options = {"teacher": teacher, "data": texts, "out": tmp_path / "out", "limit": 6, "max-length": 96, "k": 8}
        options |= {"preset": "topk", "dtype": "float32", "tensor-parallel": processes}
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        done = subprocess.run([*command, "dump", *flags], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, done.stderr
    assert done.stderr.count("error: --tensor-parallel 4: torchrun has started 2 processes.") == 1
    whole = dump(plan_for(teacher, texts, tmp_path / "whole", limit=6, overlap=None))
    split = Cache(tmp_path / "out")
    assert split.manifest.teacher == whole.manifest.teacher
    for sample, other in zip(split, whole, strict=True):
        for name, value in sample.answer.fields.items():
            if name != "ids":
                np.testing.assert_allclose(value, other.answer.fields[name], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_kind_of_layer_is_gathered_whole(tmp_path: Path) -> None:
    folder = str(experts(tmp_path))
    whole = source(folder).load("float32", "cpu")
    split = source(folder, placement=Placement(tensor_parallel=2)).load("float32", "auto")
    assert split.fingerprint() == whole.fingerprint()
    torch.testing.assert_close(split.logits(BATCH), whole.logits(BATCH), rtol=0, atol=NOISE)
    split.close()
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_local_experts == 4
