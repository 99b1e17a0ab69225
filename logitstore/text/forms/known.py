"""Recognise the form of data by their columns, and by the first value of the one that is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from logitstore.core.registry import suggest
from logitstore.dump.files.spelling import as_json
from logitstore.errors import BadInput
from logitstore.text.forms.chats import chat_pairs, chats, instructions
from logitstore.text.forms.form import Form
from logitstore.text.forms.spells import is_chat, is_chat_text
from logitstore.text.forms.texts import text_pairs, texts
from logitstore.text.forms.tokens import token_ids

MAIN: dict[str, str | None] = {
    "messages": None,
    "conversations": None,
    "text": None,
    "completion": "prompt",
    "output": "instruction",
    "input_ids": None,
}
"""The main columns by which forms are known, each with the column that must stand beside it. The first one there is read."""

_ASKING = ("prompt", "question", "instruction", "query", "problem")
"""Columns that often hold what the column beside them answers."""

_ALWAYS_CHATS = ("messages", "conversations")
"""Columns that are refused if they hold something else, unless they are named."""


def main_column(names: list[str], wanted: str | None, source: str) -> str:
    """Return the column to read.

    Args:
        names: the columns of the data.
        wanted: the one that the user names.
        source: the data, for messages.

    Raises:
        BadInput: there is no such column, or none by which a form is known.
    """
    if wanted is not None:
        if wanted not in names:
            raise BadInput(f"--column: no column named '{wanted}'. {suggest(wanted, names)}")
        return wanted
    found = next(iter(_known(names)), None)
    if found is not None:
        return found
    usual = ", ".join(f"'{name}'" if beside is None else f"'{beside}' with '{name}'" for name, beside in MAIN.items())
    raise BadInput(
        f"--data {source}: no column named 'text' or 'messages', and none of another form that is known ({usual}). "
        f"Name the one to read with --column. Known: {', '.join(names)}."
    )


def _known(names: list[str]) -> list[str]:
    return [name for name, beside in MAIN.items() if name in names and (beside is None or beside in names)]


def form_of(names: list[str], wanted: str | None, source: str, values: Callable[[str], Iterable[Any]]) -> Form:
    """Return the form of data.

    Args:
        names: the columns of the data.
        wanted: the column that the user names.
        source: the data, for messages.
        values: gives the values of a column, one after the other.

    Raises:
        BadInput: there is no such column, no form is known, or the column holds neither texts nor chats.
    """
    column = main_column(names, wanted, source)
    if column == "input_ids":
        return token_ids(names)
    if column == "output" and MAIN["output"] in names:
        return instructions()
    are_chats = holds_chats(values(column), column, source)
    if column in _ALWAYS_CHATS and wanted is None and not are_chats:
        raise BadInput(
            f"--data {source}: column '{column}' holds no chats (lists of messages, each with a role and a content or with "
            "from and value, or the same as JSON). Mend it, or say with --column which texts to read."
        )
    if column == "completion" and MAIN["completion"] in names:
        return chat_pairs() if are_chats else text_pairs()
    return _without_prompt(chats(column) if are_chats else texts(column), names)


def _without_prompt(form: Form, names: list[str]) -> Form:
    """Return the form of a column that the user names; say so if it may answer another column, which is not read."""
    asking = next((name for name in _ASKING if name in names and name != form.column), None)
    if form.column in MAIN or form.column in _ASKING or asking is None:
        return form
    way_out = "to read both, call them 'prompt' and 'completion', or 'instruction' and 'output'"
    return replace(form, rows=f"{form.rows}, without '{asking}' before it ({way_out})")


def passed_over(form: Form, names: list[str]) -> list[str]:
    """Return the main columns of other forms that the data have, too."""
    return [name for name in _known(names) if name != form.column]


_ABOUT_TOKENS = re.compile(
    r"(?i)(mask|weight|seqlen|label|position|segment|(sequence|document|doc|sample|seq)_?(ids?|idx)$)"
)
"""Names of columns that, beside token ids, may say which tokens count or where samples begin."""


def unread(form: Form, names: list[str]) -> list[str]:
    """Return the columns beside token ids that may say something about them in a way that is not known."""
    others = [name for name in names if name not in form.columns and name != "special_tokens_mask"]
    return [] if form.is_spelled else [name for name in others if _ABOUT_TOKENS.search(name)]


def text_or_chat(value: Any) -> str:
    """Return a text as it is, and a chat as JSON; see `Spell`."""
    if isinstance(value, str) or is_chat(value):
        return as_json(value)
    raise ValueError("where a string is expected, or a chat: a list of messages. Check --column.")


def holds_chats(values: Iterable[Any], column: str, source: str) -> bool:
    """Return True for a column of chats (lists of messages, or the same as JSON text), and False for one of strings.

    The first value that is not empty decides.

    Raises:
        BadInput: the column holds other values.
    """
    first = next((value for value in values if not _is_empty(value)), None)
    if is_chat(first) or is_chat_text(first):
        return True
    if first is None or isinstance(first, str):
        return False
    raise BadInput(
        f"--data {source}: column '{column}' holds {type(first).__name__} values. "
        "Give a column of strings, or of chats (lists of {role, content}); token ids belong into a column 'input_ids'."
    )


def _is_empty(value: Any) -> bool:
    """Return True for values that texts and chats have in common: nothing, or no words and no messages."""
    return value is None or (value.strip() in ("", "[]") if isinstance(value, str) else value == [])
