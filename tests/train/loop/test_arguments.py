"""What a `trainer:` section may say, and what comes of it."""

from __future__ import annotations

import json
import math
import os
import signal
import time
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM
from transformers.trainer_jit_checkpoint import CheckpointManager

import logitstore
from logitstore.errors import BadInput
from logitstore.train.loop.checkpoints import checkpoints
from logitstore.train.train import train
from logitstore.train.trainer import DistillTrainer
from tests.parts.marks import rarely
from tests.parts.training import curve, plan_of


@pytest.mark.parametrize(
    ("wrong", "near"), [("max_grad_nrom", "max_grad_norm"), ("optm", "optim"), ("report_two", "report_to")]
)
def test_an_unknown_name_is_refused_with_the_nearest(
    wrong: str, near: str, cache: logitstore.Cache, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=f"no training argument '{wrong}'. Did you mean '{near}'?"):
        train(plan_of(cache, tmp_path / "out", trainer={wrong: 1}))


@pytest.mark.parametrize(
    ("section", "package"),
    [
        ({"report_to": "wandb"}, "wandb"),
        ({"report_to": ["mlflow"]}, "mlflow"),
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"use_liger_kernel": True}, "liger"),
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, "[Dd]eepspeed|DeepSpeed"),
    ],
)
def test_a_missing_package_is_named_in_one_line(
    section: dict[str, Any], package: str, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=f"trainer: .*({package})") as refused:
        train(plan_of(cache, tmp_path / "out", student=str(small_student), max_steps=2, trainer=section))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("metric", [None, rarely("eval_kl"), rarely("kl"), "agreement"])
def test_the_best_student_is_saved_with_its_own_figures(
    metric: str | None, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """A rate that is too large at the end: the best of the steps is another than the last."""
    section = {"load_best_model_at_end": True, "logging_steps": 1}
    out = tmp_path / "out"
    options = {
        "max_steps": 8,
        "evaluate_every": 2,
        "keep_checkpoints": 99,
        "learning_rate": 0.05,
        "scheduler": "constant",
    }
    train(
        plan_of(
            cache,
            out,
            student=str(small_student),
            trainer=section | ({} if metric is None else {"metric_for_best_model": metric}),
            **options,
        )
    )
    summary = json.loads((out / "logitstore.json").read_text())
    name = f"eval_{(metric or 'kl').removeprefix('eval_')}"
    judged = {entry["step"]: entry for entry in summary["log"] if name in entry}
    assert sorted(judged) == [2, 4, 6, 8]
    pick = max if name == "eval_agreement" else min
    best = pick(judged, key=lambda step: judged[step][name])
    assert summary["figures"][name] == judged[best][name]
    assert summary["figures"]["eval_cross_entropy"] == judged[best]["eval_cross_entropy"]
    saved = AutoModelForCausalLM.from_pretrained(out).state_dict()
    kept = AutoModelForCausalLM.from_pretrained(out / f"checkpoint-{best}").state_dict()
    assert all((saved[weight] == kept[weight]).all() for weight in kept)


@pytest.mark.parametrize(
    ("section", "changes", "text"),
    [
        ({"load_best_model_at_end": True}, {"holdout": 0}, "needs held-out samples"),
        ({"metric_for_best_model": "eval_kll"}, {}, "no such figure. Did you mean 'kl'"),
        ({"greater_is_better": True}, {}, "has no effect without load_best_model_at_end"),
        ({"load_best_model_at_end": True}, {"save_every": 3, "evaluate_every": 2}, "do not go together"),
    ],
)
def test_a_best_student_that_cannot_be_known_is_refused(
    section: dict[str, Any], changes: dict[str, Any], text: str, cache: logitstore.Cache, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=text):
        train(plan_of(cache, tmp_path / "out", trainer=section, **changes))


Log = list[dict[str, Any]]


@pytest.fixture(scope="module")
def plain(cache: logitstore.Cache, small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Log:
    """The log of a run with nothing in its section but a line at each step."""
    return log_of(cache, small_student, tmp_path_factory.mktemp("plain"), {})


def log_of(cache: logitstore.Cache, student: Path, out: Path, section: dict[str, Any], **changes: Any) -> Log:
    usual = {"student": str(student), "max_steps": 4, "precision": "float32", "evaluate_every": 2, "warmup": 0.0}
    train(plan_of(cache, out, trainer={"logging_steps": 1} | section, **usual | changes))
    log: Log = json.loads((out / "logitstore.json").read_text())["log"]
    return log


def told(log: Log, name: str) -> dict[int, float]:
    return {entry["step"]: entry[name] for entry in log if name in entry}


@pytest.mark.parametrize(
    "section",
    [
        {"optim": "adagrad"},
        rarely({"optim": "sgd", "optim_args": "momentum=0.5"}),
        {"adam_beta1": 0.5},
        rarely({"adam_beta2": 0.5}),
        {"adam_epsilon": 0.1},
        {"max_grad_norm": "1e-4", "optim": "sgd"},
        {"neftune_noise_alpha": 5},
        rarely({"lr_scheduler_kwargs": {"num_cycles": 2.5}}),
    ],
)
def test_what_is_about_learning_changes_the_losses(
    section: dict[str, Any], plain: Log, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """Against the same run without the last entry of the section."""
    without = dict(list(section.items())[1:]) if "optim_args" not in section else {"optim": "sgd"}
    before = plain if not without or len(section) == 1 else log_of(cache, small_student, tmp_path / "before", without)
    after = log_of(cache, small_student, tmp_path / "after", section)
    assert told(before, "loss")[1] == told(after, "loss")[1] or "neftune_noise_alpha" in section
    assert told(before, "loss")[4] != told(after, "loss")[4]


def test_the_schedule_is_the_formula_with_its_options(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    log = log_of(cache, small_student, tmp_path, {"lr_scheduler_kwargs": {"num_cycles": 1.0}})
    expected = {step: 3e-3 * (0.5 + 0.5 * math.cos(math.pi * 2 * (step - 1) / 4)) for step in range(1, 5)}
    assert told(log, "learning_rate") == pytest.approx(expected)


@pytest.mark.parametrize(
    "section",
    [
        {"activation_checkpointing": True},
        rarely({"torch_compile": True, "torch_compile_backend": "eager"}),
        rarely({"full_determinism": True}),
        {"use_cache": True},
        rarely({"dataloader_pin_memory": False}),
    ],
)
def test_what_is_about_computing_changes_no_loss(
    section: dict[str, Any],
    plain: Log,
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpointed: list[bool] = []
    whole = DistillTrainer.training_step

    def look(trainer: DistillTrainer, *arguments: Any) -> Any:
        checkpointed.append(trainer.model.is_activation_checkpointing)
        return whole(trainer, *arguments)

    if "torch_compile" in section:
        torch.compiler.reset()
        warnings.simplefilter("ignore")
    counters.clear()
    monkeypatch.setattr(DistillTrainer, "training_step", look)
    try:
        log = log_of(cache, small_student, tmp_path, section)
        assert torch.are_deterministic_algorithms_enabled() is ("full_determinism" in section)
    finally:
        torch.use_deterministic_algorithms(False)
    assert told(log, "loss") == pytest.approx(told(plain, "loss"), rel=1e-4)
    assert all(checkpointed) is ("activation_checkpointing" in section)
    assert bool(counters["frames"]["ok"]) is ("torch_compile" in section)
    assert json.loads((tmp_path / "config.json").read_text())["use_cache"] is ("use_cache" in section)


@pytest.mark.parametrize(
    ("section", "changes", "lines", "judged"),
    [
        ({"logging_steps": 3}, {}, [3, 4], [2, 4]),
        ({"logging_steps": 3, "logging_first_step": True}, {}, [1, 3, 4], [2, 4]),
        ({"logging_steps": 0.5}, {}, [2, 4], [2, 4]),
        ({"eval_delay": 3}, {}, [1, 2, 3, 4], [4]),
        ({"eval_on_start": True}, {}, [1, 2, 3, 4], [0, 2, 4]),
    ],
)
def test_lines_and_evaluations_come_when_they_are_asked_for(
    section: dict[str, Any],
    changes: dict[str, Any],
    lines: list[int],
    judged: list[int],
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
) -> None:
    log = log_of(cache, small_student, tmp_path, section, **changes)
    assert list(told(log, "loss")) == lines
    assert list(told(log, "eval_kl")) == judged


@pytest.mark.parametrize(
    ("section", "kept"),
    [({"save_strategy": "no"}, []), ({"save_strategy": "best"}, [2, 4]), ({"save_only_model": True}, [4])],
)
def test_checkpoints_are_saved_when_they_are_asked_for(
    section: dict[str, Any], kept: list[int], cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options = {} if section.get("save_strategy") == "no" else {"keep_checkpoints": 9}
    log_of(cache, small_student, tmp_path, section, **options)
    assert [int(folder.name[11:]) for folder in checkpoints(tmp_path)] == kept
    if "save_only_model" in section:
        with pytest.raises(BadInput, match=r"holds the student alone.*Train it anew: --student .*checkpoint-4"):
            log_of(cache, small_student, tmp_path, section, resume=True, max_steps=8)


def test_tokens_and_memory_are_counted(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    section = {
        "include_num_input_tokens_seen": "non_padding",
        "skip_memory_metrics": False,
        "logging_strategy": "epoch",
    }
    del section["logging_strategy"]
    log = log_of(cache, small_student, tmp_path, section, holdout=0, evaluate_every=None)
    batches = islice(cache.loader(batch_size=8, seed=0), 4)
    assert told(log, "num_input_tokens_seen")[4] == sum(int(batch.attention_mask.sum()) for batch in batches)
    assert any("train_mem_cpu_alloc_delta" in entry for entry in log)
    assert told(log, "total_flos")[4] > 0


def test_a_run_that_is_asked_to_end_saves_a_checkpoint_and_goes_on_from_it(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a queue asks, by SIGTERM, some seconds before it kills; here at once."""
    monkeypatch.setattr(CheckpointManager.__init__, "__defaults__", (0,))
    options: dict[str, Any] = {"student": str(small_student), "max_steps": 60, "holdout": 0, "precision": "float32"}
    section = {"enable_jit_checkpoint": True, "logging_steps": 1}

    def end(step: Any) -> None:
        if step.done == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(plan_of(cache, tmp_path / "out", trainer=section, **options), end)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "checkpoint-60" not in [folder.name for folder in checkpoints(tmp_path / "out")] != []
    assert not (tmp_path / "out" / "model.safetensors").exists()
    train(plan_of(cache, tmp_path / "out", trainer=section, resume=True, **options))
    train(plan_of(cache, tmp_path / "whole", **options))
    assert curve(tmp_path / "out")[60] == curve(tmp_path / "whole")[60]
