"""Texts, and texts that complete others."""

from __future__ import annotations

from functools import partial

from logitstore.errors import BadInput
from logitstore.text.forms.form import Document, Encoder, Form, Pair, Row
from logitstore.text.forms.ids import ids_of
from logitstore.text.forms.spells import is_chat_text, text_spell

_SPELLS_A_CHAT = "a chat that is spelled as JSON is read as prose, because the first value of the column is none"
_TORN = "a completion begins within a token that begins in the prompt; the row is about the whole token"
_ENDLESS = "a completion does not end with the end-of-text token; --end-token adds it, so that students learn to stop"


def texts(column: str) -> Form:
    """Return the form of plain texts: every token has a row."""

    spell = text_spell("as in the first rows. Check --column.")
    return Form(
        column=column,
        label="texts",
        rows="every token",
        columns={column: spell},
        needed=(column,),
        encode=partial(_encode_texts, column),
        needs_ids_only=True,
    )


def _encode_texts(column: str, encoder: Encoder, rows: list[Row], places: list[str]) -> list[Document]:
    values = [row[column] for row in rows]
    for value, where in zip(values, places, strict=True):
        if value is not None and not isinstance(value, str):
            raise BadInput(
                f"{where}: column '{column}' holds {value!r:.80} where a string is expected. Check --column."
            )
    encoded = ids_of(encoder.tokenizer, [value or "" for value in values])
    return [
        Document(pairs=[_ended(encoder, tokens, [])], notices=(_SPELLS_A_CHAT,) if is_chat_text(value) else ())
        for tokens, value in zip(encoded, values, strict=True)
    ]


def text_pairs() -> Form:
    """Return the form of prompts with completions, both texts."""

    return Form(
        column="completion",
        label="completions of prompts, as texts",
        rows="the completion",
        columns={
            "completion": text_spell("as in the first rows. Check --column."),
            "prompt": text_spell("as in the column 'completion'. Give both as texts, or as chats."),
        },
        needed=("completion", "prompt"),
        encode=_encode_pairs,
        is_partial=True,
    )


def _encode_pairs(encoder: Encoder, rows: list[Row], places: list[str]) -> list[Document]:
    return [_completed(encoder, row, where) for row, where in zip(rows, places, strict=True)]


def _completed(encoder: Encoder, row: Row, where: str) -> Document:
    """Return a prompt with its completion, joined before they are tokenised. Tokens that end in the completion belong to it."""
    for name in ("prompt", "completion"):
        if row[name] is not None and not isinstance(row[name], str):
            raise BadInput(
                f"{where}: {name} is {row[name]!r:.80} where a string is expected. Give both as texts, or as chats."
            )
    prompt, completion = row["prompt"] or "", row["completion"] or ""
    if not completion:
        return Document(pairs=[([], [])])
    begins = len(prompt)
    encoded = encoder.tokenizer(prompt + completion, return_offsets_mapping=True, verbose=False)
    spans = encoded["offset_mapping"]
    said = [stop > max(start, begins) for start, stop in spans]
    last = max((place for place, is_said in enumerate(said) if is_said), default=len(said))
    # what the tokenizer itself puts behind the text stands for no characters
    said[last:] = [True] * len(said[last:])
    torn = any(start < begins < stop for start, stop in spans)
    tokens, said = _ended(encoder, list(encoded["input_ids"]), said)
    endless = encoder.tokenizer.eos_token_id not in (None, *tokens[-1:])
    return Document(pairs=[(tokens, said)], notices=(*[_TORN] * torn, *[_ENDLESS] * endless))


def _ended(encoder: Encoder, tokens: list[int], said: list[bool]) -> Pair:
    """Return tokens with the end token behind them, if it is asked for and not there; no tokens stay none."""
    end = encoder.tokenizer.eos_token_id
    if not encoder.end_token or not tokens or tokens[-1] == end:
        return tokens, said
    return [*tokens, end], [*said, True] if said else []
