"""The hooks of a student by name: ours, and those of installed packages."""

from __future__ import annotations

import math
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, signature
from typing import Any

from logitstore.core.registry import Table, suggest
from logitstore.errors import BadInput
from logitstore.settings.models.hook import Hook
from logitstore.train.students.hooks.hook import StudentHook

PLUGINS = "logitstore.student_hooks"
"""The entry-point group in which other packages name hooks of theirs."""


HOOKS = Table(
    "hook",
    {
        "quantise": "logitstore.train.students.hooks.quantise:Quantise",
        "learned_levels": "logitstore.train.students.hooks.levels:LearnedLevels",
        "low_rank": "logitstore.train.students.hooks.low_rank:LowRank",
    },
)
"""The hooks of this package: each a class of `StudentHook`."""


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the hooks of installed packages, not yet imported. Raises BadInput when two hooks have one name."""
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=PLUGINS):
        if entry.name in HOOKS or entry.name in entries:
            raise BadInput(f"the hook '{entry.name}' of {entry.value}: the name is taken. Rename the plugin's.")
        entries[entry.name] = entry
    return entries


def hook_class(name: str) -> type[StudentHook]:
    """Return a hook by name; a package that provides one is imported when it is asked for.

    Raises:
        BadInput: there is none, with the nearest name; or what a package provides is no `StudentHook`.
    """
    if name in HOOKS:
        found: type[StudentHook] = HOOKS[name]
        return found
    if name not in _plugins():
        raise BadInput(f"--hook {name}: no hook has this name. {suggest(name, [*HOOKS, *_plugins()])}")
    entry = _plugins()[name]
    loaded = entry.load()
    if not isinstance(loaded, type) or not issubclass(loaded, StudentHook):
        raise BadInput(
            f"the hook '{name}' of {entry.value} is no class of {StudentHook.__module__}. Repair the plugin."
        )
    return loaded


def options_of(kind: type[StudentHook]) -> dict[str, Any]:
    """Return the options of a hook with their defaults; `Parameter.empty` where one must be given."""
    named = signature(kind).parameters.values()
    return {each.name: each.default for each in named if each.kind is Parameter.KEYWORD_ONLY}


def made(text: str) -> StudentHook:
    """Return a new hook from the text that asks for it, such as `quantise:bits=4`.

    Raises:
        BadInput: its name or an option is unknown, an option is missing, or a value is impossible.
    """
    asked = Hook.of(text)
    kind = hook_class(asked.name)
    known = options_of(kind)
    options = {name: _checked(text, name, value, known) for name, value in asked.options.items()}
    missing = next(
        (name for name, default in known.items() if default is Parameter.empty and name not in options), None
    )
    if missing is not None:
        raise BadInput(f"--hook {text}: {missing} must be given. Write {asked.name}:{missing}=...")
    try:
        return kind(**options)
    except BadInput as error:
        raise BadInput(f"--hook {text}: {error}") from error


def _checked(text: str, name: str, value: Any, known: dict[str, Any]) -> Any:
    """Return a value as the option takes it: a list for one whose default is a tuple, else of the kind of the default."""
    if name not in known:
        said = suggest(name, list(known)) if known else "It takes none."
        raise BadInput(f"--hook {text}: no option named '{name}'. {said}")
    default = known[name]
    if isinstance(default, tuple):
        return tuple(value) if isinstance(value, list | tuple) else (str(value),)
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"--hook {text}: {name} is {value}, but must be finite.")
    if default is Parameter.empty or default is None:
        return value
    fits = isinstance(value, int | float) if isinstance(default, float) else isinstance(value, type(default))
    if not fits or isinstance(value, bool) != isinstance(default, bool):
        raise BadInput(f"--hook {text}: {name} is {value!r}, but must be like {default!r}.")
    return value
