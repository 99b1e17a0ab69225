"""Refuse options and tokenizers that do not fit the form of the data, and say what was recognised."""

from __future__ import annotations

from logitstore.errors import BadInput, ModelError
from logitstore.text.chat import check_options, check_template, refuse_options
from logitstore.text.forms.form import Encoder, Form


def check_form(form: Form, encoder: Encoder, source: str, who: str) -> None:
    """Refuse options that would change nothing, and tokenizers that cannot encode a form.

    Args:
        form: that of the data.
        encoder: what the data are encoded with.
        source: the data, for messages.
        who: name of the tokenizer's owner, for messages.

    Raises:
        BadInput: an option about another form.
        ModelError: the tokenizer lacks a chat template, or does not say where tokens stand.
    """
    tokenizer, data = encoder.tokenizer, f"column '{form.column}' of --data {source}"
    if form.is_chat:
        check_template(tokenizer, who)
        check_options(encoder.chats, tokenizer)
    else:
        refuse_options(encoder.chats, data)
    if form.is_partial and form.is_spelled and not tokenizer.is_fast:
        raise ModelError(
            f"{who}: its tokenizer ({type(tokenizer).__name__}) does not say which characters a token stands for, so "
            f"a {'turn' if form.is_chat else 'completion'} cannot be told from what stands before it. Name a column of plain "
            "text."
        )
    if encoder.end_token and (form.is_chat or not form.is_spelled):
        why = "the chat template ends the turns" if form.is_chat else "token ids are taken as they stand"
        raise BadInput(f"--end-token: {data} holds {form.label}, and {why}. Leave it out.")
    if encoder.end_token and tokenizer.eos_token_id is None:
        raise BadInput(f"--end-token: the tokenizer of {who} has no end-of-text token. Leave it out.")


def recognised(form: Form) -> str:
    """Return a line about what is read, and what is not."""
    others = ", ".join(f"'{name}'" for name in form.passed_over)
    rest = f"; not read: {others}, which --column would name" if others else ""
    unknown = ", ".join(f"'{name}'" for name in form.unread)
    rest += f"; not known, so without effect: {unknown}" if unknown else ""
    return f"column '{form.column}' holds {form.label}; rows about {form.rows}{rest}"
