"""Check the section `trainer:` of a recipe: what is accepted has its effect.

Arguments that have an option of `train`, or have no effect here, are refused by name; of the others those whose effect needs
something that the run has not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, fields
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError
from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from logitstore.core.registry import suggest
from logitstore.errors import BadInput, one_line
from logitstore.train.loop.names import HAVE_OPTIONS, HONOURED, NO_EFFECT


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What a run has that an argument's effect may need.

    Attributes:
        on_gpu: whether it runs on one.
        processes: their number.
        holds_out: whether samples are held out.
        saves_every: whether --save-every is given.
        keeps: whether --keep-checkpoints is given.
    """

    on_gpu: bool
    processes: int
    holds_out: bool
    saves_every: bool
    keeps: bool


def check_section(given: dict[str, Any]) -> dict[str, Any]:
    """Refuse arguments that transformers does not know or that have no effect here; return the others, typed.

    Raises:
        BadInput: names the first.
    """
    known = {each.name: each for each in fields(TrainingArguments)}
    honoured = [name for names in HONOURED.values() for name in names]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name in HAVE_OPTIONS:
            raise BadInput(f"trainer: '{name}' is set by {HAVE_OPTIONS[name]} of train. Use that.")
        if name in NO_EFFECT:
            raise BadInput(f"trainer: '{name}' has no effect here: {NO_EFFECT[name]}. Leave it out.")
        if name not in known:
            usable = [each for each in honoured if each in known]
            raise BadInput(f"trainer: transformers has no training argument '{name}'. {suggest(str(name), usable)}")
        if name not in honoured:
            raise BadInput(
                f"trainer: '{name}' is newer than this logitstore, which does not know whether it would have an effect. "
                "Leave it out."
            )
        values[name] = _read(name, value) if name in _FILES else _typed(known[name], value)
    for old, new in _RENAMED.items():
        if old in values and new in known:
            values.setdefault(new, values.pop(old))
    _check_packages(values)
    return values


_FILES = ("fsdp_config", "deepspeed")
"""Arguments whose value is a section, or a JSON file with one."""


_RENAMED = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Old names of arguments, where transformers knows the new ones."""


_TYPES: dict[str, Any] = {"fsdp": bool | str | list[str]}
"""Types of values that transformers takes although its own annotation is narrower."""


def _typed(field: Field[Any], value: Any) -> Any:
    """Return a value in the type of its argument: a number of YAML or of --set may be text, such as 1e-8."""
    kind = _TYPES.get(field.name, field.type)
    choices = next((tuple(each.value for each in part) for part in get_args(kind) if _is_enum(part)), None)
    choices = choices or tuple(field.metadata.get("choices", ()))
    if choices and isinstance(value, str) and value not in choices:
        raise BadInput(f"trainer: {field.name} '{value}': no such value. {suggest(value, list(choices))}")
    try:
        if isinstance(value, bool) and kind in (int, float, str):
            raise ValueError("a number is needed" if kind is not str else "text is needed")
        read = TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValueError as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise BadInput(f"trainer: {field.name} {value!r:.60}: {first[0].lower()}{first[1:]}.") from error
    is_number = isinstance(read, (int, float)) and not isinstance(read, bool)
    if is_number and (math.isnan(read) or read < 0):
        raise BadInput(f"trainer: {field.name} {read}: a number from 0 on is needed.")
    return value if choices else read


def _is_enum(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, Enum)


def _read(name: str, value: Any) -> Any:
    """Return a section that is given as such, or in a JSON file."""
    if isinstance(value, str):
        try:
            value = json.loads(value if value.startswith("{") else Path(value).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else one_line(error)
            raise BadInput(f"trainer: {name} {value:.80}: cannot be read as a JSON file: {why}.") from error
    if not isinstance(value, dict):
        raise BadInput(f"trainer: {name} {value!r:.60}: give a section, or the path of a JSON file with one.")
    return dict(value)


def _check_packages(given: dict[str, Any]) -> None:
    """Refuse what needs a package that is not installed, before transformers remembers it for the whole process."""
    if given.get("deepspeed") and find_spec("deepspeed") is None:
        raise BadInput("trainer: 'deepspeed' needs the package deepspeed. Install it, or leave the entry out.")
    for name in trackers(given):
        if name not in INTEGRATION_TO_CALLBACK:
            raise BadInput(
                f"trainer: report_to '{name}': no such tracker. {suggest(name, list(INTEGRATION_TO_CALLBACK))}"
            )
        if name != "flyte" and name not in get_available_reporting_integrations():
            raise BadInput(
                f"trainer: report_to '{name}' needs the package of {name}. Install it, or leave the entry out."
            )


def trackers(given: dict[str, Any]) -> list[str]:
    """Return the trackers that a section names."""
    asked = given.get("report_to") or []
    return [name for name in ([asked] if isinstance(asked, str) else asked) if name not in ("none", "all")]


def check_circumstances(given: dict[str, Any], has: Circumstances) -> None:
    """Refuse arguments whose effect needs another argument, a tracker, held-out samples, a GPU or several processes.

    Raises:
        BadInput: names the argument, and what it needs.
    """
    for name, needed in _lacking(given, has):
        raise BadInput(f"trainer: '{name}' has no effect without {needed}. Leave it out.")
    if has.saves_every and given.get("save_strategy", "steps") != "steps":
        raise BadInput(f"trainer: save_strategy '{given['save_strategy']}' with --save-every: leave one of them out.")
    if has.keeps and given.get("save_strategy") == "no":
        raise BadInput("trainer: save_strategy 'no' with --keep-checkpoints: leave one of them out.")
    sharded = str(
        given.get("fsdp_config", {}).get("state_dict_type", given.get("fsdp_config", {}).get("fsdp_state_dict_type"))
    )
    if given.get("fsdp") and "SHARDED" in sharded:
        raise BadInput(
            "trainer: fsdp_config with state_dict_type SHARDED_STATE_DICT: the student could not be saved whole. "
            "Give FULL_STATE_DICT."
        )
    version = str(given.get("fsdp_config", {}).get("version", given.get("fsdp_config", {}).get("fsdp_version", 2)))
    if given.get("fsdp") and not has.on_gpu and version != "2":
        raise BadInput(
            f"trainer: fsdp_config with version {version} needs GPUs. Give version 2, which works on a CPU too."
        )
    zero = (given.get("deepspeed") or {}).get("zero_optimization") or {}
    if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        raise BadInput(
            "trainer: deepspeed with ZeRO stage 3: the student could not be saved whole. Set "
            "zero_optimization.stage3_gather_16bit_weights_on_model_save to true."
        )


_GPU = "a GPU"
_PROCESSES = "several processes; start them with torchrun"


def _lacking(given: dict[str, Any], has: Circumstances) -> Iterator[tuple[str, str]]:
    """Yield the arguments that would have no effect, each with what it needs."""
    named: Sequence[str] = trackers(given) or (["all"] if given.get("report_to") == "all" else [])
    needs: list[tuple[bool, str, tuple[str, ...]]] = [
        (bool(given.get("activation_checkpointing")), "activation_checkpointing", ("activation_checkpointing_kwargs",)),
        (bool(given.get("gradient_checkpointing")), "gradient_checkpointing", ("gradient_checkpointing_kwargs",)),
        (bool(given.get("use_liger_kernel")), "use_liger_kernel", ("liger_kernel_config",)),
        (
            bool(given.get("push_to_hub")),
            "push_to_hub",
            tuple(name for name in HONOURED["saving"] if name[:4] == "hub_"),
        ),
        (given.get("logging_strategy", "steps") == "steps", "the logging_strategy steps", ("logging_steps",)),
        (bool(set(named) - {"tensorboard"}), "a tracker that names its runs in report_to", ("run_name",)),
        (
            bool({"trackio", "all"} & set(named)),
            "report_to trackio",
            tuple(name for name in HONOURED["logging"] if name == "project" or name[:8] == "trackio_"),
        ),
        (has.holds_out, "held-out samples; choose a --holdout above 0", HONOURED["evaluation"]),
        (given.get("save_strategy") != "no", "checkpoints; save_strategy is no", ("save_only_model",)),
        (has.on_gpu, _GPU, ("tf32", "dataloader_pin_memory", "torch_empty_cache_steps")),
        (bool(given.get("fsdp")), "fsdp", ("fsdp_config",)),
        (has.on_gpu, "GPUs: on a CPU each process keeps the whole student", ("deepspeed",)),
        (
            has.processes > 1,
            _PROCESSES,
            ("log_level_replica", "log_on_each_node", *(n for n in HONOURED["several processes"] if n != "deepspeed")),
        ),
        (has.on_gpu, _GPU, ("ddp_timeout",)),  # on a CPU transformers does not pass it on
        ("tpu_metrics_debug" not in str(given.get("debug")), "a TPU", ("debug",)),
    ]
    for is_met, needed, names in needs:
        for name in names:
            if not is_met and given.get(name) not in (None, False):
                yield name, needed
