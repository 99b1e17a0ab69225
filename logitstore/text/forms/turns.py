"""Read the turns of a chat, and what comes with them, out of a row of the data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from logitstore.core.record import is_nested
from logitstore.errors import BadInput
from logitstore.text.chat import TAKEN
from logitstore.text.forms.spells import is_chat

ASKED_WITH = ("tools", "documents", "chat_template_kwargs")
"""Columns that `apply_chat_template` takes beside the messages; the last one holds more arguments by name."""

OF_ROWS = frozenset({"tools", "documents", "chat_template"})
"""Names among those that transformers takes which a row of the data may give: they are its own."""

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""The roles of turns that are written as `from` and `value`, as templates call them. The value of a `function_call` is a call
of a tool, or a list of calls, as JSON."""

_SPEAKERS = ("user", "system", "developer", "assistant")
"""Roles of turns that say something. What a tool gives may be nothing."""

_NO_WORDS = {"role", "content", "name", "weight"}
"""Keys beside which the assistant's turn needs others, such as calls of tools, if it has no content."""


def turns_of(value: Any, where: str) -> list[dict[str, Any]]:
    """Return the turns of a chat: a list of messages, or the same as JSON text.

    A message has `role` and `content`, or `from` and `value` as in ShareGPT.

    Raises:
        BadInput: it is something else; `where` names its place.
    """
    turns = _parsed(value, where)
    if turns is None:
        return []
    if not is_chat(turns):
        raise BadInput(
            f"{where}: {value!r:.80} is no chat. Give a list of messages, each with a role and a content, or with from and "
            "value."
        )
    named = [{key: each for key, each in turn.items() if each is not None or key == "content"} for turn in turns]
    plain = named if isinstance(value, str) else [without_nulls(turn, keep=("content",)) for turn in named]
    return [_turn(turn, f"{where}, turn {number}") for number, turn in enumerate(plain)]


def _turn(turn: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a turn with `role` and `content`. Raises BadInput: see `turns_of`."""
    if not isinstance(turn.get("role"), str):
        return _of_sharegpt(turn, where)
    others = turn.keys() - _NO_WORDS if turn["role"] == "assistant" else ()
    # a template would print None, or nothing
    if turn.get("content") is None and turn["role"] in _SPEAKERS and not others:
        raise BadInput(f"{where}, of the {turn['role']}, has no content. Mend the row, or leave it out.")
    return turn


def unweighted(turns: list[dict[str, Any]], where: str) -> set[int]:
    """Return the numbers of the assistant's turns with a `weight` of 0, which are context only.

    Raises:
        BadInput: another weight than 0 and 1.
    """
    found = set()
    for number, turn in enumerate(turns):
        if turn["role"] != "assistant" or "weight" not in turn:
            continue
        if turn["weight"] not in (0, 1):
            raise BadInput(
                f"{where}, turn {number}: its weight is {turn['weight']!r:.40}, where 0 (no rows) or 1 is expected. Mend the "
                "row, or leave it out."
            )
        if not turn["weight"]:
            found.add(number)
    return found


def _of_sharegpt(turn: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a turn with `from` and `value` as one with `role` and `content`. Raises BadInput: see `turns_of`."""
    speaker, value = turn["from"], turn.get("value")
    if speaker not in SHAREGPT_ROLES:
        raise BadInput(
            f"{where} is from {speaker!r:.40}, which stands for no role. Known: {', '.join(SHAREGPT_ROLES)}. Rename it, or "
            "leave the row out."
        )
    if not isinstance(value, str):
        raise BadInput(
            f"{where}: its value is {value!r:.80} where a string is expected. Mend the row, or leave it out."
        )
    others = {name: turn[name] for name in turn if name not in ("from", "value", "role", "content")}
    if speaker == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": _calls(value, where), **others}
    return {"role": SHAREGPT_ROLES[speaker], "content": value, **others}


def _calls(value: str, where: str) -> list[dict[str, Any]]:
    given = _parsed(value, where)
    calls = given if isinstance(given, list) else [given]
    for call in calls:
        if not (isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call):
            raise BadInput(
                f"{where} is a function_call with {call!r:.80}. Give a name and arguments as JSON, or a list of such objects."
            )
    return [{"type": "function", "function": call} for call in calls]


def arguments_of(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what a row gives to the template beside its messages. Raises BadInput: a value that cannot be used."""
    values = {name: _given(row.get(name), where) for name in ASKED_WITH}
    more = values.pop("chat_template_kwargs") or {}
    if not isinstance(more, dict):
        raise BadInput(f"{where}: chat_template_kwargs is {more!r:.80}. Give an object of arguments by name.")
    taken = next((name for name in more if name in TAKEN - OF_ROWS), None)
    if taken is not None:
        raise BadInput(f"{where}: chat_template_kwargs names {taken}, which transformers uses itself. Leave it out.")
    for name, value in values.items():
        if value and not isinstance(value, list):
            raise BadInput(f"{where}: {name} is {value!r:.80}. Give a list.")
    lists = {
        name: [_parsed(each, where) if name == "tools" else each for each in value]
        for name, value in values.items()
        if value
    }
    return lists | more


def list_of(value: Any, where: str) -> list[Any] | None:
    """Return a list, or the one that a text spells as JSON; None for nothing. Raises BadInput: it is something else."""
    found = _parsed(value, where)
    if found is not None and not isinstance(found, list):
        raise BadInput(f"{where}: {value!r:.80} where a list is expected. Mend the row, or leave it out.")
    return found


def _parsed(value: Any, where: str) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: {value!r:.80} is not JSON: {error}. Give JSON, or the values themselves.") from error
    if is_nested(found, _DEEPEST):
        raise BadInput(f"{where}: {value!r:.80} is nested too deep. Mend the row, or leave it out.")
    return found


_DEEPEST = 100
"""Levels of lists and objects in a value of a row; templates and their filters go down by recursion."""


def _given(value: Any, where: str) -> Any:
    """Return a value as it was written. A null in JSON text stands there for a reason, such as the default of an argument."""
    return _parsed(value, where) if isinstance(value, str) else without_nulls(value)


def without_nulls(value: Any, keep: tuple[str, ...] = ()) -> Any:
    """Leave out keys without a value: Arrow gives every row all keys that any row of the column has."""
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each is not None or key in keep}
    if isinstance(value, list):
        return [without_nulls(each) for each in value]
    return value
