"""A run that was stopped while it wrote: by a kill, by a full disk, or by a package that is not there."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import logitstore
from logitstore.errors import BadInput
from logitstore.train.loop.checkpoints import checkpoints, drop_cut_off, is_whole
from logitstore.train.train import train
from tests.parts.commands import logitstore_command
from tests.parts.refusing import refusing
from tests.parts.training import curve, plan_of

pytestmark = pytest.mark.attack

OPTIONS: dict[str, Any] = {"max_steps": 4, "save_every": 2, "holdout": 0, "keep_checkpoints": 2}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: logitstore.Cache, small_student: Path) -> Path:
    """A finished run with checkpoints at steps 2 and 4; do not change it."""
    out = tmp_path_factory.mktemp("run") / "out"
    train(plan_of(cache, out, student=str(small_student), **OPTIONS))
    return out


@pytest.fixture
def stopped(whole: Path, tmp_path: Path) -> Path:
    """The same run as a kill after its last checkpoint would have left it."""
    out = tmp_path / "out"
    for name in ("checkpoint-2", "checkpoint-4"):
        shutil.copytree(whole / name, out / name)
    summary = json.loads((whole / "logitstore.json").read_text())
    (out / "logitstore.json").write_text(
        json.dumps({name: summary[name] for name in summary.keys() - {"figures", "log"}})
    )
    return out


WRITTEN = ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json")


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("share", [0.0, 0.5, "last byte"])
def test_a_checkpoint_is_whole_with_all_of_its_bytes_only(stopped: Path, name: str, share: float | str) -> None:
    last = stopped / "checkpoint-4"
    assert is_whole(last)
    size = (last / name).stat().st_size
    # a newline at the end of a text may be missing
    lost = 2 if name.endswith(".json") else 1
    os.truncate(last / name, size - lost if isinstance(share, str) else int(share * size))
    assert not is_whole(last)
    assert is_whole(stopped / "checkpoint-2")


@pytest.mark.parametrize("name", sorted(set(WRITTEN) - {"config.json"}))
def test_a_checkpoint_without_a_file_that_a_run_goes_on_from_is_not_whole(stopped: Path, name: str) -> None:
    (stopped / "checkpoint-4" / name).unlink()
    assert not is_whole(stopped / "checkpoint-4")


@pytest.mark.parametrize("name", sorted(set(WRITTEN) - {"model.safetensors"}))  # which safetensors opens itself
def test_a_file_that_cannot_be_read_does_not_cost_a_checkpoint(stopped: Path, name: str) -> None:
    path = stopped / "checkpoint-4" / name
    with refusing(path, 1, errno.EIO), pytest.raises(OSError, match="Input/output error"):
        drop_cut_off(stopped)
    assert is_whole(stopped / "checkpoint-4")


@pytest.mark.parametrize("name", ["trainer_state.json", "model.safetensors", "optimizer.pt"])
def test_a_run_goes_on_from_the_checkpoint_before_the_one_that_was_cut_off(
    cache: logitstore.Cache, small_student: Path, whole: Path, stopped: Path, name: str
) -> None:
    os.truncate(stopped / "checkpoint-4" / name, 0)
    train(plan_of(cache, stopped, student=str(small_student), **OPTIONS, resume=True))
    assert curve(stopped) == curve(whole)
    assert (stopped / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert is_whole(stopped / "checkpoint-4")


@pytest.mark.parametrize("length", [{"max_steps": 4}, {"max_steps": -1, "epochs": 0.75}])
def test_a_run_that_was_stopped_after_its_last_step_makes_no_further_one(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, length: dict[str, Any]
) -> None:
    """Stopped after the last checkpoint and before the student was saved; the learning rate is not 0 by then."""
    options = OPTIONS | {"scheduler": "constant", "warmup": 0.0, "save_every": 1} | length
    out, again = tmp_path / "whole", tmp_path / "again"
    steps = train(plan_of(cache, out, student=str(small_student), **options))["steps"]
    last = checkpoints(out)[-1]
    assert last.name == f"checkpoint-{steps:.0f}"
    shutil.copytree(last, again / last.name)
    figures = train(plan_of(cache, again, student=str(small_student), **options, resume=True))
    assert figures["steps"] == steps
    assert curve(again) == curve(out)
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_without_a_whole_checkpoint_a_run_can_only_begin(
    cache: logitstore.Cache, small_student: Path, whole: Path, stopped: Path
) -> None:
    for folder in checkpoints(stopped):
        os.truncate(folder / "trainer_state.json", 0)
    plan = plan_of(cache, stopped, student=str(small_student), **OPTIONS)
    with pytest.raises(BadInput, match="no whole checkpoint"):
        train(plan.model_copy(update={"resume": True}))
    train(plan)
    assert curve(stopped) == curve(whole)


SIZES = tuple(f"{size}k" for size in range(40, 900, 60))


@pytest.mark.slow
@pytest.mark.parametrize(
    "size", [size if size in ("340k", "820k") else pytest.param(size, marks=pytest.mark.exhaustive) for size in SIZES]
)
def test_a_full_disk_ends_a_run_in_one_line_and_it_goes_on_when_there_is_space(
    disk: Callable[[str], Path], cache: logitstore.Cache, small_student: Path, whole: Path, size: str
) -> None:
    out = disk(f"size={size}") / "out"
    arguments = ["train", cache.path, "--student", small_student, "--out", out, "--device", "cpu", "--batch-size", 8]
    arguments += [
        "--learning-rate",
        3e-3,
        "--holdout",
        0,
        "--max-steps",
        4,
        "--save-every",
        2,
        "--precision",
        "float32",
    ]
    done = logitstore_command(*arguments)
    assert done.returncode == 2, done.stderr
    *before, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert [each for each in before if not each.startswith(("warning: ", "note: ", "train: "))] == []
    assert str(out) in line
    assert "no space left" in line
    assert all(is_whole(folder) for folder in checkpoints(out))
    assert not (out / "model.safetensors").exists()
    disk("size=32m")
    resumes = ["--resume"] if checkpoints(out) else []
    done = logitstore_command(*arguments, *resumes)
    assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("options", "package"),
    [
        ({"report_to": "wandb"}, "wandb"),
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"optim": "galore_adamw", "optim_target_modules": ["mlp"]}, "galore"),
        ({"optim": "schedule_free_adamw"}, "schedule"),
        ({"use_liger_kernel": True}, "liger"),
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, "deepspeed"),
    ],
)
def test_an_option_of_the_trainer_whose_package_is_missing_is_refused_by_name(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, options: dict[str, Any], package: str
) -> None:
    plan = plan_of(cache, tmp_path / "out", student=str(small_student), max_steps=1, holdout=0, trainer=options)
    with pytest.raises(BadInput, match="(?i)" + package) as caught:
        train(plan)
    assert "nstall" in str(caught.value)
    assert "\n" not in str(caught.value)
