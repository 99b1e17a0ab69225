"""Every training argument of transformers is an option of train, has no effect, or is honoured; and each knows its needs."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from logitstore.errors import BadInput
from logitstore.train.loop.names import HAVE_OPTIONS, HONOURED, NO_EFFECT, ONE_STUDENT
from logitstore.train.loop.section import Circumstances, check_circumstances, check_section

KNOWN = {each.name: each for each in fields(TrainingArguments)}
PASSED_ON = [name for names in HONOURED.values() for name in names]
ALONE = Circumstances(on_gpu=False, processes=1, holds_out=True, saves_every=False, keeps=False)
ON_GPUS = Circumstances(on_gpu=True, processes=2, holds_out=True, saves_every=False, keeps=False)


@pytest.mark.parametrize("name", KNOWN)
def test_every_argument_of_transformers_is_of_one_kind(name: str) -> None:
    kinds = [name in HAVE_OPTIONS, name in NO_EFFECT, name in PASSED_ON]
    assert sum(kinds) == 1, f"{name} is {'of several kinds' if any(kinds) else 'of no kind: look at what it does here'}"
    if name in PASSED_ON:
        return
    with pytest.raises(
        BadInput, match=rf"^trainer: '{name}' (is set by -|has no effect here: ).*\. (Use that|Leave it out)\.$"
    ):
        check_section({name: 1})


def test_the_tables_name_nothing_else() -> None:
    assert set(HAVE_OPTIONS) | set(NO_EFFECT) | set(PASSED_ON) <= set(KNOWN)
    assert len(PASSED_ON) == len(set(PASSED_ON))
    assert set(ONE_STUDENT) <= set(PASSED_ON)


def test_an_argument_of_a_later_transformers_is_not_taken_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HONOURED, "schedule", ())
    with pytest.raises(BadInput, match="trainer: 'lr_scheduler_kwargs' is newer than this logitstore"):
        check_section({"lr_scheduler_kwargs": {}})


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"adam_epsilon": "1e-8"}, {"adam_epsilon": 1e-8}),
        ({"logging_steps": "5"}, {"logging_steps": 5.0}),
        ({"max_grad_norm": 1}, {"max_grad_norm": 1.0}),
        ({"torch_compile": "true"}, {"torch_compile": True}),
        ({"gradient_checkpointing": True}, {"activation_checkpointing": True}),
        ({"save_strategy": "no"}, {"save_strategy": "no"}),
        ({"report_to": "none"}, {"report_to": "none"}),
        ({"fsdp": True}, {"fsdp": True}),
        ({"fsdp_config": '{"version": 2}'}, {"fsdp_config": {"version": 2}}),
    ],
)
def test_values_are_read_in_the_type_of_their_argument(given: dict[str, Any], read: dict[str, Any]) -> None:
    """YAML takes 1e-8 for text, and so does a command line any value."""
    assert check_section(given) == read


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"max_grad_norm": "much"}, "max_grad_norm 'much': input should be a valid number"),
        ({"max_grad_norm": -1}, "max_grad_norm -1.0: a number from 0 on is needed"),
        ({"max_grad_norm": float("nan")}, "a number from 0 on"),
        ({"max_grad_norm": True}, "max_grad_norm True: a number is needed"),
        ({"ddp_timeout": 1.5}, "ddp_timeout 1.5: input should be a valid integer"),
        ({"optim": "adamw_trch"}, "optim 'adamw_trch': no such value. Did you mean 'adamw_torch'?"),
        ({"save_strategy": "beste"}, "Did you mean 'best'?"),
        ({"log_level": "infos"}, "Did you mean 'info'?"),
        ({"lr_scheduler_kwargs": [1]}, "lr_scheduler_kwargs [1]: input should be a valid dictionary"),
        ({"torch_compile": "perhaps"}, "torch_compile 'perhaps': input should be a valid boolean"),
        ({"fsdp_config": "none.json"}, "fsdp_config none.json: cannot be read as a JSON file: No such file"),
        ({"fsdp_config": "{no json"}, "cannot be read as a JSON file"),
        ({"fsdp_config": 3}, "fsdp_config 3: give a section, or the path of a JSON file"),
        ({"report_to": "tensorbord"}, "Did you mean 'tensorboard'?"),
        ({"hub_modl_id": "x"}, "no training argument 'hub_modl_id'. Did you mean 'hub_model_id'?"),
    ],
)
def test_values_of_other_kinds_are_refused_in_one_line(given: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput) as refused:
        check_section(given)
    assert str(refused.value).startswith("trainer: ")
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_section_may_lie_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "fsdp.json"
    path.write_text(json.dumps({"fsdp_version": 2}))
    assert check_section({"fsdp_config": str(path)}) == {"fsdp_config": {"fsdp_version": 2}}


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"activation_checkpointing_kwargs": {"a": 1}}, "activation_checkpointing"),
        ({"liger_kernel_config": {"rope": True}}, "use_liger_kernel"),
        *(({name: "x"}, "push_to_hub") for name in PASSED_ON if name.startswith("hub_")),
        ({"logging_strategy": "epoch", "logging_steps": 3}, "the logging_strategy steps"),
        ({"run_name": "mine"}, "a tracker"),
        ({"run_name": "mine", "report_to": "tensorboard"}, "a tracker"),
        ({"project": "mine", "report_to": ["wandb"]}, "report_to trackio"),
        ({"trackio_space_id": "mine"}, "report_to trackio"),
        ({"save_strategy": "no", "save_only_model": True}, "checkpoints; save_strategy is no"),
        ({"tf32": True}, "a GPU"),
        ({"dataloader_pin_memory": True}, "a GPU"),
        ({"fsdp": True}, "several processes; start them with torchrun"),
        ({"deepspeed": {"zero_optimization": {}}}, "GPUs: on a CPU"),
        ({"fsdp_config": {"version": 2}}, "fsdp"),
        *(({name: 1}, "several processes; start them with torchrun") for name in PASSED_ON if name[:4] == "ddp_"),
        ({"log_level_replica": "info"}, "several processes"),
        ({"debug": "tpu_metrics_debug"}, "a TPU"),
    ],
)
def test_what_needs_something_else_is_refused_without_it(given: dict[str, Any], needed: str) -> None:
    name = list(given)[0 if len(given) == 1 or "report_to" in given else 1]
    with pytest.raises(BadInput, match=f"^trainer: '{name}' has no effect without {needed}.*Leave it out.$"):
        check_circumstances(given, ALONE)


@pytest.mark.parametrize("name", ["eval_delay", "eval_on_start"])
def test_evaluations_need_held_out_samples(name: str) -> None:
    check_circumstances({name: 1}, ALONE)
    with pytest.raises(BadInput, match=f"'{name}' has no effect without held-out samples"):
        check_circumstances(
            {name: 1}, Circumstances(on_gpu=False, processes=1, holds_out=False, saves_every=False, keeps=False)
        )


@pytest.mark.parametrize(
    "given",
    [
        {"fsdp": True, "fsdp_config": {"version": 2}, "ddp_timeout": 60, "tf32": True},
        {"deepspeed": {"zero_optimization": {"stage": 2}}},
        {"deepspeed": {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}}},
        {"run_name": "mine", "report_to": ["tensorboard", "mlflow"], "log_level_replica": "info"},
        {"project": "mine", "report_to": "trackio"},
    ],
)
def test_what_has_all_that_it_needs_is_taken(given: dict[str, Any]) -> None:
    check_circumstances(given, ON_GPUS)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"fsdp": True, "fsdp_config": {"state_dict_type": "SHARDED_STATE_DICT"}}, "Give FULL_STATE_DICT"),
        ({"fsdp": True, "fsdp_config": {"fsdp_state_dict_type": "SHARDED_STATE_DICT"}}, "Give FULL_STATE_DICT"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "stage3_gather_16bit_weights_on_model_save to true"),
    ],
)
def test_a_student_that_could_not_be_saved_whole_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(BadInput, match=f"could not be saved whole.*{text}"):
        check_circumstances(given, ON_GPUS)


def test_a_strategy_does_not_overrule_the_option() -> None:
    has = Circumstances(on_gpu=False, processes=1, holds_out=True, saves_every=True, keeps=False)
    check_circumstances({"save_strategy": "steps"}, has)
    with pytest.raises(BadInput, match="save_strategy 'epoch' with --save-every: leave one of them out"):
        check_circumstances({"save_strategy": "epoch"}, has)
    kept = Circumstances(on_gpu=False, processes=1, holds_out=True, saves_every=False, keeps=True)
    check_circumstances({"save_strategy": "epoch"}, kept)
    with pytest.raises(BadInput, match="save_strategy 'no' with --keep-checkpoints: leave one of them out"):
        check_circumstances({"save_strategy": "no"}, kept)


def test_the_first_version_of_fsdp_needs_gpus() -> None:
    ranks = Circumstances(on_gpu=False, processes=2, holds_out=True, saves_every=False, keeps=False)
    check_circumstances({"fsdp": True, "fsdp_config": {"fsdp_version": 2}}, ranks)
    for name in ("version", "fsdp_version"):
        with pytest.raises(BadInput, match=r"fsdp_config with version 1 needs GPUs\. Give version 2"):
            check_circumstances({"fsdp": True, "fsdp_config": {name: 1}}, ranks)
