"""Prompts: chats, instructions and texts of the user's data, up to where the assistant is to answer.

Axes: T tokens of a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import xxhash
from transformers import PreTrainedTokenizerBase

from logitstore.core.registry import suggest
from logitstore.dump.data import open_columns
from logitstore.dump.engines.answers.chat import Question
from logitstore.dump.files.dataset import Columns
from logitstore.dump.files.spelling import Spell, as_json, as_text
from logitstore.errors import BadInput
from logitstore.text.chat import Chat, encode_prompt
from logitstore.text.documents import DataSpec
from logitstore.text.forms.chats import asked_turns, with_system
from logitstore.text.forms.form import Row
from logitstore.text.forms.known import holds_chats, text_or_chat
from logitstore.text.forms.turns import ASKED_WITH, arguments_of, turns_of

COLUMNS = ("messages", "conversations", "prompt", "instruction", "question", "text")
"""The columns by which prompts are known; the first one that is there is read."""

_BESIDE = ("system", "input", "history")
"""Columns that say more about a chat or an instruction."""

_KEPT = ("role", "content", "name")
"""What a server is told of a turn."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt.

    Attributes:
        question: as the server takes it, with its number among all rows of the data.
        check: what tells it from another prompt, in hex.
        tokens_T: its tokens, up to where the answer begins.
        domain: where it comes from, if the data say so.
    """

    question: Question
    check: str
    tokens_T: list[int]
    domain: str | None


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of some data, which are read and rendered each time one goes through them.

    Attributes:
        specs: the data.
        tokenizer: renders them.
        arguments: for the chat template.
    """

    specs: list[DataSpec]
    tokenizer: PreTrainedTokenizerBase
    arguments: Mapping[str, Any]

    def __iter__(self) -> Iterator[Prompt]:
        """Yield the prompts; rows that ask nothing have none, and their numbers are left out.

        Raises:
            BadInput: the data cannot be read, or a row is no prompt of texts; the message names it.
        """
        before = 0
        for spec in self.specs:
            count = 0
            for count, row in enumerate(asked_rows(spec), 1):
                where = f"--data {spec.source}, row {count}"
                prompt = self._prompt(row, before + count - 1, spec, where)
                if prompt is not None:
                    yield prompt
            before += count

    def of_text(self, text: str) -> Prompt:
        """Return a prompt of what a user says, which is none of the data."""
        messages = [{"role": "user", "content": text}]
        chat = Chat(messages=messages, arguments=self.arguments)
        return Prompt(
            question=Question(number=0, messages=messages, arguments=self.arguments),
            check="",
            tokens_T=encode_prompt(self.tokenizer, chat, "a probe"),
            domain=None,
        )

    def _prompt(self, row: Asked, number: int, spec: DataSpec, where: str) -> Prompt | None:
        try:
            messages = row.turns(row.row, where)
            arguments = {**self.arguments, **arguments_of(row.row, where)}
        except RecursionError as error:
            raise BadInput(f"{where}: it is nested too deep. Mend the row, or leave it out.") from error
        while messages and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        if not messages:
            return None
        _refuse_more(messages, arguments, where)
        messages = [{key: each[key] for key in _KEPT if key in each} for each in messages]
        plain = json.dumps([messages, arguments], sort_keys=True, ensure_ascii=True)
        domain = row.row.get(spec.domain_column) if spec.domain is None and spec.domain_column else None
        return Prompt(
            question=Question(number=number, messages=messages, arguments=arguments),
            check=xxhash.xxh3_64_hexdigest(plain.encode()),
            tokens_T=encode_prompt(self.tokenizer, Chat(messages=messages, arguments=arguments), where),
            domain=spec.domain or (None if domain is None else str(domain)) or spec.name,
        )


def _refuse_more(messages: list[dict[str, Any]], arguments: Mapping[str, Any], where: str) -> None:
    """Refuse what is not asked by texts alone. Raises BadInput."""
    given = next((name for name in ("tools", "documents") if arguments.get(name)), None)
    if given is not None:
        raise BadInput(f"{where}: it comes with {given}, and answers are generated to texts alone. Leave the row out.")
    for turn, message in enumerate(messages):
        if not isinstance(message.get("content"), str) or message.get("tool_calls") or message["role"] == "tool":
            raise BadInput(
                f"{where}: turn {turn}, of the {message['role']}, is more than a text. Answers are generated to texts alone. "
                "Leave the row out."
            )


Turns = Callable[[Row, str], list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A row of the data, and what makes turns of it; a plain text becomes a turn of the user."""

    row: Row
    turns: Turns
    is_text: bool


def asked_rows(spec: DataSpec) -> Iterator[Asked]:
    """Yield the rows of one source. Raises BadInput: see `Prompts`."""
    if spec.share is not None:
        raise BadInput(f"--data {spec.source}: share says nothing about prompts. Give limit=N in its place.")
    columns = open_columns(spec.source, spec.split)
    names = columns.names
    column = column_of(names, spec.column, spec.source)
    domain = spec.domain_column if spec.domain is None else None
    if domain is not None and domain not in names:
        raise BadInput(f"--domain-column: no column named '{domain}'. {suggest(domain, names)}")
    turns = _turns(column, columns, spec.source)
    read: dict[str, Spell] = {column: text_or_chat}
    read |= {name: as_json for name in (*_BESIDE, *ASKED_WITH) if name in names}
    if domain is not None:
        read.setdefault(domain, as_text)
    seen = 0
    for batch in columns.rows(read, (column,)):
        values = batch.values if isinstance(batch.values, dict) else batch.values.to_pydict()
        for place in range(len(batch)):
            if seen == spec.limit:
                return
            seen += 1
            row = {name: each[place] for name, each in values.items()}
            yield Asked(row=row, turns=turns, is_text=isinstance(turns, partial) and turns.func is _text)


def column_of(names: list[str], wanted: str | None, source: str) -> str:
    """Return the column with the prompts.

    Args:
        names: the columns of the data.
        wanted: the one that the user names.
        source: the data, for messages.

    Raises:
        BadInput: there is no such column, or none by which prompts are known.
    """
    if wanted is not None and wanted not in names:
        raise BadInput(f"--column: no column named '{wanted}'. {suggest(wanted, names)}")
    found = wanted or next((name for name in COLUMNS if name in names), None)
    if found is None:
        usual = ", ".join(f"'{name}'" for name in COLUMNS)
        raise BadInput(
            f"--data {source}: no column of prompts that is known ({usual}). Name the one to read with --column. Known: "
            f"{', '.join(names)}."
        )
    return found


def _turns(column: str, columns: Columns, source: str) -> Turns:
    """Return what makes turns of a row."""
    if column == "instruction":
        return asked_turns
    if holds_chats(columns.values(column, text_or_chat), column, source):
        return partial(_chat, column)
    return partial(_text, column)


def _chat(column: str, row: Row, where: str) -> list[dict[str, Any]]:
    messages = turns_of(row[column], where)
    return with_system(messages, row.get("system") if column == "conversations" else None, where)


def _text(column: str, row: Row, where: str) -> list[dict[str, Any]]:
    value = row[column]
    if value is not None and not isinstance(value, str):
        raise BadInput(f"{where}: column '{column}' holds {value!r:.80} where a string is expected. Check --column.")
    return [{"role": "user", "content": value}] if value and value.strip() else []
