"""A run goes on at the sample where it stopped, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import logitstore
from logitstore.errors import BadInput
from logitstore.train.run_folder import checkpoint_of
from logitstore.train.train import train
from tests.parts.marks import rarely
from tests.parts.training import curve, plan_of


@pytest.fixture(scope="module")
def whole(cache: logitstore.Cache, small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs with a checkpoint in the middle of its second one."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train(plan(cache, small_student, out, keep_checkpoints=99))
    return out


def plan(cache: logitstore.Cache, student: Path, out: Path, **changes: Any) -> Any:
    usual = {"student": str(student), "epochs": 3.0, "batch_size": 4, "accumulate": 2, "save_every": 5, "holdout": 0}
    return plan_of(cache, out, **usual | changes)


def stopped(whole: Path, folder: Path, *, knows: str) -> Path:
    """Return a folder with the checkpoint alone, which knows what is asked: its plan, or nothing but its own state."""
    shutil.copytree(whole / "checkpoint-5", folder / "checkpoint-5")
    if knows == "folder":
        summary = json.loads((whole / "logitstore.json").read_text())
        del summary["figures"], summary["log"]
        (folder / "logitstore.json").write_text(json.dumps(summary))
    if knows != "checkpoint":
        (folder / "checkpoint-5" / "logitstore.json").unlink()
    return folder


@pytest.mark.parametrize("knows", ["folder", "checkpoint", "state"])
@pytest.mark.parametrize("changes", [{"batch_size": 8}, {"accumulate": 1}, {"accumulate": 4}, {"batch_size": 3}])
def test_another_schedule_is_refused_whatever_is_left_of_the_run(
    knows: str, changes: dict[str, Any], whole: Path, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = stopped(whole, tmp_path / "out", knows=knows)
    (name,) = changes
    spelled = name.replace("_", "-")
    with pytest.raises(
        BadInput,
        match=f"--resume: .*({name} = |--{spelled} {changes[name]}.* Give the|, not {changes[name]}. On 1 process give)",
    ):
        train(plan(cache, small_student, out, **changes, resume=True))


@pytest.mark.parametrize("knows", ["folder", "checkpoint"])
@pytest.mark.parametrize(
    "section", [{"max_grad_norm": 0.1}, {"optim": "sgd"}, {"lr_scheduler_kwargs": {"num_cycles": 2}}]
)
def test_another_optimizer_is_refused(
    knows: str, section: dict[str, Any], whole: Path, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = stopped(whole, tmp_path / "out", knows=knows)
    with pytest.raises(BadInput, match=r"--resume: the run in .* began with trainer = \{\}, not \{'"):
        train(plan(cache, small_student, out, trainer=section, resume=True))


def test_a_run_may_be_watched_otherwise_and_one_of_before_goes_on(
    whole: Path, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """Runs of before kept nothing of their `trainer:` section."""
    out = stopped(whole, tmp_path / "out", knows="folder")
    summary = json.loads((out / "logitstore.json").read_text())
    del summary["plan"]["trainer"]
    (out / "logitstore.json").write_text(json.dumps(summary))
    train(plan(cache, small_student, out, trainer={"max_grad_norm": 1.0, "log_level": "error"}, resume=True))
    assert curve(out) == curve(whole)


@pytest.mark.parametrize("knows", ["folder", rarely("checkpoint"), rarely("state")])
def test_the_same_schedule_goes_on(
    knows: str, whole: Path, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = stopped(whole, tmp_path / "out", knows=knows)
    train(plan(cache, small_student, out, resume=True))
    assert curve(out) == curve(whole)


@pytest.mark.parametrize("longer", [{"max_steps": 8}, rarely({"max_steps": -1, "epochs": 2.0})])
def test_a_finished_run_goes_on_for_longer(
    longer: dict[str, Any], cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """With a constant rate it is as if the run had been longer from the start."""
    usual = {"scheduler": "constant", "warmup": 0.0, "save_every": 2, "epochs": 1.0}
    first = {"max_steps": 4} if longer["max_steps"] > 0 else {}
    train(plan(cache, small_student, tmp_path / "short", **usual | first))
    with pytest.raises(BadInput, match=r"is finished\. Give a higher --max-steps or --epochs"):
        train(plan(cache, small_student, tmp_path / "short", **usual | first, resume=True))
    train(plan(cache, small_student, tmp_path / "short", **usual | longer, resume=True))
    train(plan(cache, small_student, tmp_path / "whole", **usual | longer))
    assert curve(tmp_path / "short") == curve(tmp_path / "whole")


def test_the_learning_rate_is_scaled_to_the_samples_of_a_step(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """microsoft/Cream, TinyViT/main.py: the rate times batch size, processes and accumulation over 512."""
    options = {"learning_rate": 2.5e-4, "learning_rate_batch": 512, "warmup": 0.0, "scheduler": "constant"}
    said: list[str] = []
    train(plan(cache, small_student, tmp_path / "out", **options, max_steps=1, save_every=None), notice=said.append)
    log = json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"]
    assert log[0]["learning_rate"] == pytest.approx(2.5e-4 * 4 * 2 / 512)
    assert any("the learning rate is 3.91e-06" in each for each in said)


@pytest.mark.parametrize(
    ("objective", "options", "is_refused"),
    [
        rarely("standardised_kl", {}, True),
        rarely("one_for_all", {}, True),
        ("dkd", {}, True),
        rarely("dkd", {"non_target_weight": 8.0}, False),
        ("forward_kl", {}, False),
    ],
)
def test_a_run_that_began_with_other_arithmetic_is_refused(
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
    objective: str,
    options: dict[str, Any],
    is_refused: bool,
) -> None:
    usual = {"objective": objective, "options": options, "max_steps": 2, "save_every": 1}
    train(plan(cache, small_student, tmp_path, **usual))
    path = tmp_path / "logitstore.json"
    summary = json.loads(path.read_text())
    del summary["figures"], summary["arithmetic"]  # as a version before left it
    path.write_text(json.dumps(summary))
    resumed = plan(cache, small_student, tmp_path, **usual, resume=True)
    if not is_refused:
        train(resumed)
        return
    with pytest.raises(BadInput, match=f"a version of logitstore that computes {objective} otherwise"):
        train(resumed)


@pytest.mark.parametrize("added", [{"recover_head": "trained"}, {"freeze": ["lm_head.*"]}])
def test_a_run_of_before_an_option_existed_does_not_go_on_with_it(
    added: dict[str, Any], whole: Path, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = stopped(whole, tmp_path / "out", knows="folder")
    summary = json.loads((out / "logitstore.json").read_text())
    known = {name: summary["plan"][name] for name in ("objective", "precision")}
    for name in added:
        del summary["plan"][name]
    (out / "logitstore.json").write_text(json.dumps(summary))
    with pytest.raises(BadInput, match=rf"began with {next(iter(added))} = (None|\[\]), not"):
        checkpoint_of(plan(cache, small_student, out, resume=True, **known | added), 1, cache)
    assert checkpoint_of(plan(cache, small_student, out, resume=True, **known), 1, cache)
