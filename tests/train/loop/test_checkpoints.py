"""Which checkpoints of a run stay, while it trains and when it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import logitstore
from logitstore.errors import BadInput
from logitstore.train.loop.checkpoints import checkpoints
from logitstore.train.train import train
from tests.parts.commands import Command, Refused
from tests.parts.training import plan_of

RUN: dict[str, Any] = {"max_steps": 8, "save_every": 2, "holdout": 0}


def steps(out: Path) -> list[int]:
    return [int(folder.name.rpartition("-")[2]) for folder in checkpoints(out)]


@pytest.mark.parametrize(
    ("kept", "while_training", "done"),
    [(None, 2, [8]), (0, 2, []), (1, 1, [8]), (3, 3, [4, 6, 8]), (9, 4, [2, 4, 6, 8])],
)
def test_as_many_checkpoints_stay_as_is_asked(
    kept: int | None,
    while_training: int,
    done: list[int],
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
) -> None:
    most, said = 0, list[str]()

    def watch(step: Any) -> None:
        nonlocal most
        most = max(most, len(checkpoints(tmp_path)))

    train(plan_of(cache, tmp_path, student=str(small_student), keep_checkpoints=kept, **RUN), watch, said.append)
    assert steps(tmp_path) == done
    # the oldest goes when a new one is written; no step is reported after the last
    assert most == min(while_training, 3)
    assert (tmp_path / "model.safetensors").is_file()
    told = [each for each in said if "checkpoint-8 stays" in each]
    assert len(told) == (kept is None)
    if told:
        size = sum(path.stat().st_size for path in (tmp_path / "checkpoint-8").rglob("*") if path.is_file())
        assert f"({size / 1e6:,.1f} MB)" in told[0]


def test_a_finished_run_without_checkpoints_says_what_can_be_done(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options = RUN | {"student": str(small_student), "keep_checkpoints": 0}
    train(plan_of(cache, tmp_path, **options))
    with pytest.raises(
        BadInput, match=rf"has kept no checkpoint to go on from\. Train what it saved: --student {tmp_path}"
    ):
        train(plan_of(cache, tmp_path, **options | {"max_steps": 12}, resume=True))


def test_how_many_stay_may_change_when_a_run_goes_on(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options = RUN | {"student": str(small_student)}
    train(plan_of(cache, tmp_path, **options))
    train(plan_of(cache, tmp_path, **options | {"max_steps": 12, "keep_checkpoints": 3}, resume=True))
    assert steps(tmp_path) == [8, 10, 12]


def test_a_run_that_is_written_to_a_file_tells_each_line_of_its_log(
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As `train ... 2> log.txt` does: no terminal, and less than the ten seconds after which a step is told anyway."""
    options = ["--max-steps", 12, "--evaluate-every", 4, "--holdout", 0.2, "--batch-size", 4, "--device", "cpu"]
    recipe = tmp_path / "train.yaml"
    recipe.write_text("train: {trainer: {logging_steps: 3}}\n")
    assert (
        command(
            "train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--config", recipe, *options
        )
        == 0
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train: ")]
    for step in (3, 6, 9, 12):
        assert any(line.startswith(f"train: {step} of 12 steps") and " loss " in line for line in lines), (step, lines)
    for step in (4, 8, 12):
        told = [line for line in lines if line.startswith(f"train: {step} of 12 steps") and "eval_kl" in line]
        assert len(told) >= 1, (step, lines)
        assert "eval_cross_entropy" in told[0]


def test_the_limit_of_the_trainer_is_refused_by_the_name_of_ours(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, refused: Refused
) -> None:
    recipe = tmp_path / "train.yaml"
    recipe.write_text("train: {trainer: {save_total_limit: 5}}\n")
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--config", recipe)
    assert "'save_total_limit' is set by --keep-checkpoints" in line


def test_the_best_checkpoint_stays_for_a_longer_run(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """What is best is turned round here, so that it is the first."""
    section = {"load_best_model_at_end": True, "greater_is_better": True}
    options: dict[str, Any] = {"student": str(small_student), "max_steps": 6, "evaluate_every": 2, "trainer": section}
    first = train(plan_of(cache, tmp_path, **options))
    assert steps(tmp_path) == [2, 6]
    longer = train(plan_of(cache, tmp_path, **options | {"max_steps": 8}, resume=True))
    assert longer["eval_kl"] == first["eval_kl"]
    assert steps(tmp_path) == [2, 8]
