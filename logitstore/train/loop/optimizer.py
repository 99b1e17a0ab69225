"""Try the optimizer and the schedule of a run before any weights are loaded, and find arguments that do not reach them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Trainer, TrainingArguments
from transformers.optimization import get_scheduler

from logitstore.errors import BadInput, one_line
from logitstore.train.loop.packages import is_missing_package

_OF_THE_OPTIMIZER = ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_target_modules")
_OF_WHOLE_MODELS = ("params", "model", "optimizer_dict")
"""What an optimizer asks for that cannot be made without a model; it is then tried when training begins."""

_UNKNOWN = "no_such_argument"

ERRORS = (AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)
"""What optimizers and schedules refuse their values with."""


def check_optimizer(arguments: TrainingArguments, given: dict[str, Any]) -> None:
    """Refuse an optimizer or a schedule that cannot be made, and arguments that it does not read.

    Args:
        arguments: of the Trainer.
        given: the section `trainer`.

    Raises:
        BadInput: names the argument.
    """
    pairs = [pair.partition("=") for pair in (arguments.optim_args or "").replace(" ", "").split(",") if pair]
    for name, sign, _ in pairs:
        if not sign:
            raise BadInput(f"trainer: optim_args '{name}': write NAME=VALUE, several of them with commas between.")
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    except ERRORS as error:
        if is_missing_package(error) or not _needs_model(error):
            raise _refused(f"optim {_name(arguments.optim)}", error) from error
        return
    for name in _OF_THE_OPTIMIZER:
        if name in given and not _is_read(arguments, name, _other(given[name])):
            raise BadInput(
                f"trainer: '{name}' has no effect: the optimizer {_name(arguments.optim)} does not read it. Leave it out."
            )
    _check_optim_args(arguments, pairs)
    if any(name in options for name in _OF_WHOLE_MODELS):
        return
    try:
        optimizer = kind([torch.nn.Parameter(torch.zeros(1))], **options)
    except ERRORS as error:
        raise _refused(f"optim {_name(arguments.optim)}", error) from error
    _check_schedule(arguments, optimizer)


def _check_optim_args(arguments: TrainingArguments, pairs: Sequence[tuple[str, str, str]]) -> None:
    for place, (name, _, value) in enumerate(pairs):
        others = [f"{each}={_other(old) if i == place else old}" for i, (each, _, old) in enumerate(pairs)]
        if not _is_read(arguments, "optim_args", ",".join(others)):
            raise BadInput(
                f"trainer: optim_args '{name}={value}' has no effect: the optimizer {_name(arguments.optim)} does not read "
                f"'{name}'. Leave it out."
            )


def _is_read(arguments: TrainingArguments, name: str, other: Any) -> bool:
    """Say whether another value of an argument makes another optimizer, or none."""
    changed = copy.copy(arguments)
    setattr(changed, name, other)
    before = Trainer.get_optimizer_cls_and_kwargs(arguments)
    try:
        return bool(Trainer.get_optimizer_cls_and_kwargs(changed) != before)
    except ERRORS:
        return True  # only what is read can be refused


def _other(value: Any) -> Any:
    """Return another value of the same kind."""
    if isinstance(value, str):
        try:
            return "0.5" if float(value) != 0.5 else "0.25"
        except ValueError:
            return f"{value}_"
    return (0.5 if value != 0.5 else 0.25) if isinstance(value, (int, float)) else None


def _check_schedule(arguments: TrainingArguments, optimizer: torch.optim.Optimizer) -> None:
    options = dict(arguments.lr_scheduler_kwargs or {}) if not isinstance(arguments.lr_scheduler_kwargs, str) else None
    if options is None:
        raise BadInput(f"trainer: lr_scheduler_kwargs '{arguments.lr_scheduler_kwargs}': give values by name.")
    name = _name(arguments.lr_scheduler_type)

    def make(options: dict[str, Any]) -> None:
        get_scheduler(
            name, optimizer, num_warmup_steps=2, num_training_steps=10, scheduler_specific_kwargs=dict(options)
        )

    try:
        make(options)
    except ERRORS as error:
        raise _refused(f"--scheduler {name} with the lr_scheduler_kwargs {options}", error) from error
    if options:
        try:
            make(options | {_UNKNOWN: 1})
        except TypeError:
            return
        raise BadInput(f"trainer: 'lr_scheduler_kwargs' has no effect: the schedule {name} takes none. Leave it out.")


def _needs_model(error: Exception) -> bool:
    """Say whether an optimizer only lacks the model, which is not there yet."""
    return isinstance(error, ValueError) and "pass a" in str(error) and "model" in str(error)


def _name(choice: Any) -> str:
    return str(getattr(choice, "value", choice))


def _refused(what: str, error: Exception) -> BadInput:
    if is_missing_package(error):
        return BadInput(f"trainer: a package is missing: {one_line(error)} Install it, or choose another optimizer.")
    return BadInput(f"trainer: {what} cannot be made: {one_line(error)}")
