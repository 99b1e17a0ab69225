"""How a hook of a student is asked for: --hook quantise:bits=4,targets=q_proj,v_proj, or a section of a recipe."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from logitstore.core.record import Record

_FORM = "write NAME:option=value,option=value, such as quantise:bits=4, or in a recipe a section of name and options"


class Hook(Record):
    """A hook of a student, as it is asked for.

    Attributes:
        name: of the hook.
        options: what is set of it, by name. Numbers and truth values are read as JSON; a list is texts.
    """

    name: str
    options: dict[str, Any] = Field({})

    @classmethod
    def of(cls, given: Any) -> Hook:
        """Return what a text or a section of a recipe asks for.

        Raises:
            ValueError: it has another form, or an option is given twice.
        """
        if isinstance(given, str):
            name, _, rest = given.partition(":")
            return cls(name=_named(name.strip()), options=_options(rest))
        if not isinstance(given, dict) or not {"name"} <= set(given) <= {"name", "options"}:
            raise ValueError(_FORM)
        options = given.get("options") or {}
        if not isinstance(options, dict) or not all(_is_plain(value) for value in options.values()):
            raise ValueError(_FORM)
        return cls(name=_named(str(given["name"])), options=options)

    def __str__(self) -> str:
        """Return the text that asks for it, in one spelling."""
        said = ",".join(f"{name}={_spelled(value)}" for name, value in self.options.items())
        return f"{self.name}:{said}" if said else self.name


def _named(name: str) -> str:
    if not name or not name.isidentifier():
        raise ValueError(_FORM)
    return name


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(each, str) and _is_plain(each) for each in value)
    return isinstance(value, bool | int | float) or (
        isinstance(value, str) and bool(value) and not set(value) & set(",=")
    )


def _options(text: str) -> dict[str, Any]:
    """Return the options of a text; a piece without a sign is one more value of the option before it."""
    options: dict[str, Any] = {}
    last = ""
    for piece in text.split(",") if text.strip() else []:
        name, sign, value = (each.strip() for each in piece.partition("="))
        if sign and (name in options or not name.isidentifier() or not value):
            raise ValueError(f"'{name}' is given twice. Give it once" if name in options else _FORM)
        if sign:
            last = name
            options[name] = _value(value)
        elif last and name:
            before = options[last]
            options[last] = [*(before if isinstance(before, list) else [_spelled(before)]), name]
        else:
            raise ValueError(_FORM)
    return options


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _spelled(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def _text(given: Any) -> str:
    return str(Hook.of(given))


HookText = Annotated[str, BeforeValidator(_text)]
"""A hook of a student, as text in one spelling."""
