"""Make the samples of a dump: tokenise the documents once, cut them into windows, number and fingerprint them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from transformers import PreTrainedTokenizerBase

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import Array
from logitstore.dump.data import library
from logitstore.errors import BadInput, ModelError
from logitstore.text.chat import (
    ASKED_WITH,
    Chat,
    ChatOptions,
    arguments_of,
    check_options,
    check_template,
    encode_chat,
    refuse_options,
    turns_of,
)
from logitstore.text.documents import DataSpec, open_documents
from logitstore.text.sample import BLOCK, Piece, Plan, Sample, blocks, key_of

if TYPE_CHECKING:
    import datasets

_BATCH = 256

_ROWS = 1000

_MADE = "2"
"""Raise this when the same documents give other tokens or flags, so that no stored ones of an earlier version are taken."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The settings that turn documents into samples.

    Attributes:
        max_length: the largest count of tokens in a sample.
        overlap: count of tokens that two neighbouring windows of a document share.
        chats: how chats are rendered.
    """

    max_length: int = 1024
    overlap: int = 128
    chats: ChatOptions = field(default_factory=ChatOptions)


class Samples(Sequence[Sample]):
    """All samples of a data set, made on demand from the tokenised documents."""

    def __init__(
        self, documents: datasets.Dataset, chat: bool, column: str, encoding: Encoding, progress: Progress
    ) -> None:
        """Cut tokenised documents into samples.

        Args:
            documents: columns `tokens`, `document`, `said` for chats, `domain` if known. A chat that is rendered more than
                once has several rows, one after the other.
            chat: whether only some tokens may have rows.
            column: the column that was read.
            encoding: how to cut.
            progress: receives the steps.
        """
        self.chat, self.column = chat, column
        self._documents = documents.with_format("arrow")
        plan = Plan(encoding.max_length, encoding.overlap)
        for piece in _pieces(documents):
            plan.add(piece)
            progress(Step(stage="windows", done=plan.documents, total=len(documents)))
        self._plan, self._number_of = plan.finish()
        self.fingerprint, self.highest_token = plan.digest.hexdigest(), plan.highest
        self.documents = len(np.unique(self._number_of))
        self.skipped = self.documents - len(np.unique(self._number_of[self._plan[:, 0]]))

    def __len__(self) -> int:
        return len(self._plan)

    @property
    def rows_S(self) -> Array:
        """int64, count of rows of every sample."""
        return self._plan[:, 5]

    @property
    def lengths_S(self) -> Array:
        """int64, count of tokens of every sample."""
        return self._plan[:, 3] - self._plan[:, 2]

    def rows_in(self, span: slice) -> int:
        """Return how many rows the samples of a slice have."""
        return int(self.rows_S[span].sum())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        document, number, start, stop, first, _ = (int(value) for value in self._plan[index])
        table = self._documents[document : document + 1]
        row = {name: table.column(name)[0] for name in table.column_names}
        # only the window is copied; a view would keep all of a long document in memory
        window_T = row["tokens"].values[start:stop].to_numpy().astype(np.int64)
        domain = row["domain"].as_py() if "domain" in row else None
        mask_T = np.zeros(stop - start, np.bool_)
        mask_T[first - start : -1] = (
            row["said"].values[first + 1 : stop].to_numpy(zero_copy_only=False) if self.chat else True
        )
        return Sample(
            key=key_of(window_T),
            tokens_T=window_T,
            mask_T=mask_T,
            document=int(self._number_of[document]),
            window=number,
            start=start,
            domain=domain,
        )


def _pieces(documents: datasets.Dataset) -> Iterator[Piece]:
    """Yield the tokenised documents in pieces of about a million tokens, as arrays that lie in the mapped file."""
    arrow = documents.with_format("arrow")
    for start in range(0, len(documents), _ROWS):
        for batch in arrow[start : start + _ROWS].to_batches():
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            lengths = columns["tokens"].value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
            for block in blocks(lengths, BLOCK):
                some = {name: column[block] for name, column in columns.items()}
                tokens = some["tokens"].flatten().to_numpy(zero_copy_only=False)
                yield Piece(
                    numbers_D=some["document"].to_numpy(zero_copy_only=False),
                    lengths_D=lengths[block],
                    tokens_T=tokens.astype("<u4"),
                    said_T=some["said"].flatten().to_numpy(zero_copy_only=False) if "said" in some else None,
                    domains=some["domain"].to_pylist() if "domain" in some else [None] * len(lengths[block]),
                )


def open_samples(
    spec: DataSpec, encoding: Encoding, tokenizer: PreTrainedTokenizerBase, who: str, progress: Progress = no_progress
) -> Samples:
    """Load the user's data, tokenise them and cut them into samples.

    The tokenised documents are stored in the `datasets` cache, where the next process finds them.

    Args:
        spec: the documents to read.
        encoding: length and overlap of the windows, and how chats are rendered.
        tokenizer: the tokenizer of the teacher.
        who: name of the tokenizer's owner, for messages.
        progress: receives the steps.

    Raises:
        BadInput: the data cannot be read, no position in them has a row, or options about chats would have no effect.
        ModelError: the data are chats, and the tokenizer has no chat template.
    """
    documents, column, chat = open_documents(spec)
    options = encoding.chats
    if chat:
        check_template(tokenizer, who)
        check_options(options, tokenizer)
    else:
        refuse_options(options, f"column '{column}' of --data {spec.source}")
    names = documents.column_names
    context = "prompt" if column == "completion" and "prompt" in names else None
    partly = chat or context is not None
    if partly and not tokenizer.is_fast:
        raise ModelError(
            f"{who}: its tokenizer ({type(tokenizer).__name__}) does not say which characters a token stands for, so a "
            f"{'turn' if chat else 'completion'} cannot be told from what stands before it. Name a column of plain text."
        )
    others = [name for name in (context, *(ASKED_WITH if chat else ())) if name in names]
    domains = [] if spec.domain_column is None else [spec.domain_column]
    documents = documents.select_columns(list(dict.fromkeys([column, *others, *domains])))
    done = 0

    def encode(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        nonlocal done
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        places = [f"--data {spec.source}, row {index + 1}" for index in indices]
        if chat:
            found = [
                encode_chat(tokenizer, _chat(row, column, context, options, where), where)
                for row, where in zip(rows, places, strict=True)
            ]
        elif context:
            found = [
                [_completed(tokenizer, row[context], row[column], where)]
                for row, where in zip(rows, places, strict=True)
            ]
        else:
            found = [[(tokens, [])] for tokens in _encode_texts(tokenizer, batch[column], column)]
        encoded: dict[str, list[Any]] = {
            "tokens": [tokens for pairs in found for tokens, _ in pairs],
            "document": [index for index, pairs in zip(indices, found, strict=True) for _ in pairs],
        }
        if partly:
            encoded["said"] = [said for pairs in found for _, said in pairs]
        for domain in domains:
            values = [None if value is None else str(value) for value in batch[domain]]
            encoded["domain"] = [value for value, pairs in zip(values, found, strict=True) for _ in pairs]
        done += len(batch[column])
        progress(Step(stage="tokenise", done=done, total=len(documents)))
        return encoded

    types = library()
    features = {"tokens": types.List(types.Value("int32")), "document": types.Value("int64")}
    if partly:
        features["said"] = types.List(types.Value("bool"))
    if spec.domain_column is not None:
        features["domain"] = types.Value("string")
    arguments = json.dumps(dict(options.arguments), sort_keys=True)
    identity = (
        *(_MADE, documents._fingerprint, column, others, spec.domain_column, chat),
        *(_tokenizer_identity(tokenizer), arguments),
    )
    tokenised = documents.map(
        encode,
        batched=True,
        with_indices=True,
        batch_size=_BATCH,
        remove_columns=documents.column_names,
        features=types.Features(features),
        new_fingerprint=xxhash.xxh3_64_hexdigest(repr(identity).encode()),
    )
    samples = Samples(tokenised, partly, column, encoding, progress)
    apart = len(tokenised) - len(documents)
    if apart:
        note = f"the chat template rewrites earlier turns: {apart:,} turns more are samples of their own"
        progress(Step(stage="windows", done=len(tokenised), total=len(tokenised), note=note))
    if not len(samples):
        raise BadInput(
            f"--data {spec.source}: none of its {len(documents)} documents has a token to predict "
            f"(two tokens or more{', one of them from the assistant' if chat else ''}). Check --column"
            f"{' and --chat-template' if options.template is not None else ''}."
        )
    return samples


def _encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[Any], column: str) -> list[list[int]]:
    wrong = next((text for text in texts if text is not None and not isinstance(text, str)), None)
    if wrong is not None:
        raise BadInput(f"column '{column}' holds {wrong!r:.80} where a string is expected. Check --column.")
    encoded: list[list[int]] = tokenizer([text or "" for text in texts], verbose=False)["input_ids"]
    return encoded


def _chat(row: dict[str, Any], column: str, context: str | None, options: ChatOptions, where: str) -> Chat:
    """Return the chat of a row. What the row gives to the template comes before what the options give."""
    try:
        before = turns_of(row[context], where) if context else []
        messages, arguments = [*before, *turns_of(row[column], where)], arguments_of(row, where)
    except RecursionError as error:
        raise BadInput(f"{where}: it is nested too deep. Mend the row, or leave it out.") from error
    return Chat(messages=messages, context=len(before), arguments={**options.arguments, **arguments})


def _completed(
    tokenizer: PreTrainedTokenizerBase, prompt: Any, completion: Any, where: str
) -> tuple[list[int], list[bool]]:
    """Return the tokens of a prompt with its completion, and a flag for each: True if it belongs to the completion."""
    for name, value in (("prompt", prompt), ("completion", completion)):
        if value is not None and not isinstance(value, str):
            raise BadInput(
                f"{where}: {name} is {value!r:.80} where a string is expected. Give both as texts, or as chats."
            )
    if not completion:
        return [], []
    begins = len(prompt or "")
    encoded = tokenizer((prompt or "") + completion, return_offsets_mapping=True, verbose=False)
    said = [stop > max(start, begins) for start, stop in encoded["offset_mapping"]]
    return list(encoded["input_ids"]), said


def _tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a fingerprint of everything in a tokenizer that changes the tokens: vocabulary, merges, template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = sorted(f"{name}={value!r}" for name, value in tokenizer.init_kwargs.items() if name != "name_or_path")
    model = backend.to_str() if backend is not None else repr((sorted(tokenizer.get_vocab().items()), own))
    text = model + repr(tokenizer.chat_template) + repr(tokenizer.special_tokens_map)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
