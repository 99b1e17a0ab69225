"""How the texts and chats of a column are kept as text, and what a chat is; worker processes import this, so it is light."""

from __future__ import annotations

import json
from typing import Any

from logitstore.dump.files.spelling import Spell, as_json


def text_spell(ending: str) -> Spell:
    """Return what keeps texts as they are, and refuses other values."""

    def spell(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError(f"where a string is expected, {ending}")
        return value

    return spell


def chat_spell(ending: str) -> Spell:
    """Return what keeps chats as JSON, and refuses other values; a text may hold a chat."""

    def spell(value: Any) -> str:
        if not (isinstance(value, str) or is_chat(value)):
            raise ValueError(f"where a chat is expected, {ending}")
        return as_json(value)

    return spell


def is_chat(value: Any) -> bool:
    """Return True for a list of messages."""
    return isinstance(value, list) and all(isinstance(turn, dict) and _has_speaker(turn) for turn in value)


def _has_speaker(turn: dict[str, Any]) -> bool:
    return isinstance(turn.get("role"), str) or (isinstance(turn.get("from"), str) and "value" in turn)


def is_chat_text(value: Any) -> bool:
    """Return True for JSON text that spells a chat of at least one message."""
    if not (isinstance(value, str) and value.lstrip().startswith("[")):
        return False
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return bool(parsed) and is_chat(parsed)
