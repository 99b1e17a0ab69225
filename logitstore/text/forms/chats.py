"""Chats: messages, prompts with completions in messages, and instructions with their outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from logitstore.dump.files.spelling import Spell, as_json
from logitstore.errors import BadInput
from logitstore.text.chat import Chat, encode_chat, unread_by
from logitstore.text.forms.form import Document, Encoder, Form, Row
from logitstore.text.forms.spells import chat_spell, text_spell
from logitstore.text.forms.turns import ASKED_WITH, OF_ROWS, arguments_of, list_of, turns_of, unweighted

_Turns = Callable[[Row, str], tuple[list[dict[str, Any]], int]]
"""Gives the messages of a row, and how many leading ones are context only."""

_WITH_SYSTEM = "conversations"
"""The column beside which `system` says what stands before the turns."""

_REWRITTEN = "the chat template rewrites earlier turns: {:,} turns more are samples of their own"


def chats(column: str) -> Form:
    """Return the form of lists of messages. Beside `conversations` a column `system` may hold what the system says."""
    more = {"system": text_spell("as in the column 'system'.")} if column == _WITH_SYSTEM else {}
    return _form(
        partial(_chat, column), column, "chats", {column: chat_spell("as in the first rows. Check --column.")}, more
    )


def _chat(column: str, row: Row, where: str) -> tuple[list[dict[str, Any]], int]:
    messages = turns_of(row[column], where)
    return with_system(messages, row.get("system") if column == _WITH_SYSTEM else None, where), 0


def chat_pairs() -> Form:
    """Return the form of prompts with completions, both lists of messages."""
    needed = {
        "completion": chat_spell("as in the first rows. Check --column."),
        "prompt": chat_spell("as in the column 'completion'. Give both as texts, or as chats."),
    }
    return _form(_completed, "completion", "completions of prompts, as chats", needed, {})


def _completed(row: Row, where: str) -> tuple[list[dict[str, Any]], int]:
    before = turns_of(row["prompt"], where)
    return [*before, *turns_of(row["completion"], where)], len(before)


def instructions() -> Form:
    """Return the form of instructions with outputs, as of Alpaca; `input`, `system` and `history` may be there."""
    words = text_spell("as instructions and outputs have. Check --column.")
    needed = {"output": words, "instruction": words}
    more = {"input": words, "system": words, "history": as_json}
    return _form(_instructed, "output", "outputs of instructions, as chats", needed, more)


def _instructed(row: Row, where: str) -> tuple[list[dict[str, Any]], int]:
    """Return the turns of an instruction: its system, its history, what is asked, and the output."""
    *_, output = (_text(row, name, where) for name in ("system", "instruction", "input", "output"))
    if not output:
        return [], 0
    asked = asked_turns(row, where)
    if not asked:
        raise BadInput(f"{where}: it has an output and no instruction. Mend the row, or leave it out.")
    return [*asked, {"role": "assistant", "content": output}], 0


def asked_turns(row: Row, where: str) -> list[dict[str, Any]]:
    """Return the turns of an instruction without its output; none where nothing is asked.

    Raises:
        BadInput: something else than texts, or a history that is none.
    """
    texts = {name: _text(row, name, where) for name in ("system", "instruction", "input")}
    asked = "\n\n".join(text for text in (texts["instruction"], texts["input"]) if text)
    if not asked:
        return []
    said = [*_history(row.get("history"), where), (asked, "")]
    turns = [
        {"role": role, "content": text} for pair in said for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return with_system(turns[:-1], texts["system"], where)


def _text(row: Row, name: str, where: str) -> str:
    text = row.get(name) or ""
    if not isinstance(text, str):
        raise BadInput(f"{where}: {name} is {text!r:.80} where a string is expected. Mend the row, or leave it out.")
    return text


def _history(value: Any, where: str) -> list[tuple[str, str]]:
    pairs = list_of(value, where) or []
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise BadInput(f"{where}: history holds {pair!r:.80}. Give pairs of an instruction and an output.")
    return [(asked, output) for asked, output in pairs]


def with_system(messages: list[dict[str, Any]], system: Any, where: str) -> list[dict[str, Any]]:
    """Return turns with what the system says before them. Raises BadInput: the first turn says something else."""
    if not system or not messages:
        return messages
    if not isinstance(system, str):
        raise BadInput(f"{where}: system is {system!r:.80} where a string is expected. Mend the row, or leave it out.")
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    if messages[0].get("content") != system:
        raise BadInput(f"{where}: its column 'system' and its first turn differ. Mend the row, or leave it out.")
    return messages


def _form(turns: _Turns, column: str, label: str, needed: Mapping[str, Spell], more: Mapping[str, Spell]) -> Form:
    return Form(
        column=column,
        label=label,
        rows="what the assistant says" if column != "completion" else "what the assistant says in the completion",
        columns={**needed, **more, **dict.fromkeys(ASKED_WITH, as_json)},
        needed=tuple(needed),
        encode=partial(_encode, turns),
        is_chat=True,
        is_partial=True,
        apart=_REWRITTEN,
    )


def _encode(turns: _Turns, encoder: Encoder, rows: list[Row], places: list[str]) -> list[Document]:
    return [_document(encoder, turns, row, where) for row, where in zip(rows, places, strict=True)]


def _document(encoder: Encoder, turns: _Turns, row: Row, where: str) -> Document:
    """Return a chat as tokens. What the row gives to the template comes before what the options give."""
    try:
        messages, context = turns(row, where)
        own = arguments_of(row, where)
        silent = {*range(context), *unweighted(messages, where)}
    except RecursionError as error:
        raise BadInput(f"{where}: it is nested too deep. Mend the row, or leave it out.") from error
    chat = Chat(messages=messages, context=silent, arguments={**encoder.chats.arguments, **own})
    pairs = encode_chat(encoder.tokenizer, chat, where)
    unread = unread_by(encoder.tokenizer, chat) if messages else []
    notices = [
        f"'{name}' in chat_template_kwargs is not read by the chat template"
        for name in unread
        if name in own and name not in OF_ROWS
    ]
    if messages and not any(turn["role"] == "assistant" for turn in messages):
        roles = ", ".join(sorted({turn["role"] for turn in messages}))
        notices.append(f"a chat without a turn of the assistant has no rows; its roles are {roles}")
    return Document(pairs=pairs, notices=tuple(notices))
