"""Options that have a meaning for some tasks only, refused for the others."""

from __future__ import annotations

from collections.abc import Iterable

from logitstore.core.record import Record
from logitstore.core.tasks import TASKS, task_of
from logitstore.errors import BadInput


def refuse_other_tasks(settings: Record, command: str, task: str, where: str) -> None:
    """Refuse options that mean nothing to a task.

    Args:
        settings: what the command is told.
        command: its name.
        task: the task's name.
        where: what the options mean nothing to, for the message.

    Raises:
        BadInput: naming the first that was given.
    """
    of_tasks = {name for each in TASKS.values() for name in each.options.get(command, ())}
    others = of_tasks - set(task_of(task).options.get(command, ()))
    for name, field in type(settings).model_fields.items():
        if name in others and getattr(settings, name) != field.default:
            raise BadInput(f"--{name.replace('_', '-')}: it means nothing to {where}. Leave it out.")


def refuse_set(settings: Record, names: Iterable[str], why: str) -> None:
    """Refuse options that would change nothing.

    Args:
        settings: of a command.
        names: of the options.
        why: the reason, for the message.

    Raises:
        BadInput: naming the first that was given.
    """
    for name in names:
        if getattr(settings, name) != type(settings).model_fields[name].default:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(settings, name)}: {why}. Leave it out.")
