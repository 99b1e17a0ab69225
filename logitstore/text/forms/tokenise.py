"""Tokenise the rows of some data once; `datasets` keeps the tokens, and the next process finds them there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from transformers import PreTrainedTokenizerBase

from logitstore.core.progress import Progress, Step
from logitstore.dump.data import library
from logitstore.errors import BadInput, ModelError
from logitstore.text.chat import check_options, check_template, refuse_options
from logitstore.text.forms.form import Document, Encoder, Form, Origin

if TYPE_CHECKING:
    import datasets

_BATCH = 256

_MADE = "3"
"""Raise this when the same documents give other tokens or flags, so that no stored ones of an earlier version are taken."""


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


def tokenised(
    documents: datasets.Dataset, form: Form, encoder: Encoder, origin: Origin, progress: Progress
) -> datasets.Dataset:
    """Return the documents as tokens, a row for each pair.

    Args:
        documents: the rows of the data.
        form: their form.
        encoder: what they are encoded with.
        origin: where they come from.
        progress: receives the steps.

    Returns:
        Columns `tokens`; `document`, the number of the row; `said` where only some tokens may have rows; `domain` if there is
        any; `notice`, what the user should know about the row.

    Raises:
        BadInput: a row that cannot be used.
    """
    done = 0
    column = origin.domain_column
    has_domain, is_partial = column is not None or origin.domain is not None, form.is_partial or origin.is_partial
    read = [name for name in (*form.columns, column) if name in documents.column_names]
    documents = documents.select_columns(list(dict.fromkeys(read)))

    def encode(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        nonlocal done
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        places = [f"--data {origin.source}, row {form.row(index)}" for index in indices]
        encoded = _columns(is_partial, form.encode(encoder, list(rows), places), indices)
        if has_domain:
            given = [origin.domain] * len(indices) if column is None else batch[column]
            domains = dict(zip(indices, given, strict=True))
            encoded["domain"] = [
                None if domains[place] is None else str(domains[place]) for place in encoded["document"]
            ]
        encoded["document"] = [origin.first + place for place in encoded["document"]]
        done += len(rows)
        progress(Step(stage="tokenise", done=done, total=len(documents)))
        return encoded

    types = library()
    features = {
        "tokens": types.List(types.Value("int32")),
        "document": types.Value("int64"),
        "notice": types.Value("string"),
    }
    if is_partial:
        features["said"] = types.List(types.Value("bool"))
    if has_domain:
        features["domain"] = types.Value("string")
    identity = (
        *(_MADE, documents._fingerprint, form.column, form.label, read, column, encoder.end_token),
        *(encoder.vocabulary, _tokenizer_identity(encoder.tokenizer)),
        json.dumps(dict(encoder.chats.arguments), sort_keys=True),
        *(origin.domain, origin.first, is_partial),
    )
    return documents.map(
        encode,
        batched=True,
        with_indices=True,
        batch_size=_BATCH,
        remove_columns=documents.column_names,
        features=types.Features(features),
        new_fingerprint=xxhash.xxh3_64_hexdigest(repr(identity).encode()),
    )


def _columns(is_partial: bool, found: list[Document], indices: list[int]) -> dict[str, list[Any]]:
    """Return documents as columns, a row for each pair; the first row of a document has its notices."""
    pairs = [
        (index, place, pair)
        for index, each in zip(indices, found, strict=True)
        for place, pair in enumerate(each.pairs)
    ]
    notices = {index: "\n".join(each.notices) for index, each in zip(indices, found, strict=True)}
    columns: dict[str, list[Any]] = {
        "tokens": [tokens for _, _, (tokens, _) in pairs],
        "document": [index for index, _, _ in pairs],
        "notice": [notices[index] or None if place == 0 else None for index, place, _ in pairs],
    }
    if is_partial:
        # a form that flags no token has rows about every one
        columns["said"] = [said or [True] * len(tokens) for _, _, (tokens, said) in pairs]
    return columns


def notices(tokenised: datasets.Dataset, form: Form, first: int = 0) -> list[str]:
    """Return each notice once, with the count of its rows and the first of them. `first` numbers the first document."""
    column = tokenised.data.column("notice")
    if column.null_count == len(column):
        return []
    table = pa.table({"notice": column, "document": tokenised.data.column("document")}).filter(pc.is_valid(column))
    # rows by the hundred thousand may have the same notices
    alike = table.group_by("notice").aggregate([("document", "min"), ("document", "count")])
    found: dict[str, list[tuple[int, int]]] = {}
    for row in alike.to_pylist():
        for notice in row["notice"].split("\n"):
            found.setdefault(notice, []).append((row["document_min"] - first, row["document_count"]))
    return [_told(notice, form.row(min(some)[0]), sum(count for _, count in some)) for notice, some in found.items()]


def _told(notice: str, row: int, count: int) -> str:
    return f"{notice} (row {row}{f' and {count - 1:,} more' if count > 1 else ''})"


def _tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a fingerprint of everything in a tokenizer that changes the tokens: vocabulary, merges, template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = sorted(f"{name}={value!r}" for name, value in tokenizer.init_kwargs.items() if name != "name_or_path")
    model = backend.to_str() if backend is not None else repr((sorted(tokenizer.get_vocab().items()), own))
    text = model + repr(tokenizer.chat_template) + repr(tokenizer.special_tokens_map)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
