"""The hooks of a run: made and called for each student."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from logitstore.errors import BadInput, ModelError
from logitstore.settings.train import TrainSettings
from logitstore.train.students.hooks.hook import StudentHook
from logitstore.train.students.hooks.known import made
from logitstore.train.students.zeros import zeros_kept

_STEPS_BACKWARD = ("lomo", "layerwise")
"""Parts of the names of optimizers that change weights during the backward pass."""


def check_hooks(settings: TrainSettings) -> None:
    """Refuse hooks that cannot work, before any weights are loaded.

    Raises:
        BadInput: a name, an option or a value is impossible, one hook is asked for twice, or the optimizer has no steps.
    """
    for text in settings.hooks:
        made(text)
    names = [text.partition(":")[0] for text in settings.hooks]
    if (twice := next((name for name in names if names.count(name) > 1), None)) is not None:
        raise BadInput(f"--hook {twice}: it is given twice. Give it once; a list of targets names several layers.")
    optimizer = str(settings.trainer.get("optim", ""))
    if settings.hooks and any(part in optimizer.lower() for part in _STEPS_BACKWARD):
        raise BadInput(
            f"--hook {settings.hooks[0]}: the optimizer {optimizer} changes weights during the backward pass, and a hook "
            "needs a step. Choose another one."
        )


def prepared_hooks(settings: TrainSettings, student: PreTrainedModel, who: str) -> tuple[list[StudentHook], list[str]]:
    """Return the hooks of a student, which follows them now, in the order of their turns; and lines about them.

    Args:
        settings: the plan of the training.
        student: as it is made or loaded, on the processor.
        who: name of the student, for messages.

    Raises:
        BadInput: a hook finds nothing to do, or two of them do not go together.
    """
    zeros, said = zeros_kept(student, who, keep=settings.keep_zeros, kept_from=settings.keep_zeros_from)
    hooks: list[StudentHook] = [] if zeros is None else [zeros]
    notes = [said] if said else []
    names = [] if zeros is None else ["--keep-zeros"]
    for text in settings.hooks:
        hook = made(text)
        try:
            notes.append(f"note: {who}: {hook.prepare(student)}.")
        except BadInput as error:
            raise BadInput(f"--hook {text}: {who}: {error}") from error
        hooks.append(hook)
        names.append(f"--hook {text}")
    if len(hooks) > 1:
        try:
            for hook in hooks:
                hook.check(student)
        except ModelError as error:
            raise BadInput(
                f"{' and '.join(names)} do not go together: what one keeps, another one changes. Leave one out."
            ) from error
    return hooks, notes


class HookCallback(TrainerCallback):  # type: ignore[misc]
    """Call the hooks of students around every optimizer step, in their order after it and in the opposite one before it."""

    def __init__(self, turns: Sequence[tuple[nn.Module, Sequence[StudentHook]]]) -> None:
        self._turns = [(student, hook) for student, hooks in turns for hook in hooks]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Give all processes what the first one has: a decomposition may differ from machine to machine by rounding."""
        if args.world_size == 1:
            return
        for _student, hook in self._turns:
            for value in _state_of(hook):
                torch.distributed.broadcast(value, 0)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        for student, hook in reversed(self._turns):
            hook.before_step(student)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        for student, hook in self._turns:
            hook.after_step(student)


def _state_of(hook: StudentHook) -> list[torch.Tensor]:
    modules = hook.modules()
    return [] if modules is None else list(modules.state_dict().values())
