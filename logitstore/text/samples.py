"""Make the samples of a dump: tokenise the documents once, cut them into windows, number and fingerprint them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from transformers import PreTrainedTokenizerBase

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import Array
from logitstore.dump.data import library
from logitstore.errors import BadInput
from logitstore.text.chat import check_template, encode_chat
from logitstore.text.documents import DataSpec, open_documents
from logitstore.text.sample import Sample, cut, key_of

if TYPE_CHECKING:
    import datasets

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The settings that turn documents into samples.

    Attributes:
        max_length: the largest count of tokens in a sample.
        overlap: count of tokens that two neighbouring windows of a document share.
    """

    max_length: int = 1024
    overlap: int = 128


class Samples(Sequence[Sample]):
    """All samples of a data set, made on demand from the tokenised documents."""

    def __init__(
        self, documents: datasets.Dataset, chat: bool, column: str, encoding: Encoding, progress: Progress
    ) -> None:
        """Cut tokenised documents (columns `tokens`, `said` for chats, `domain` if known) into samples."""
        self.chat, self.column = chat, column
        self.documents = len(documents)
        self._documents = documents.with_format("numpy")
        plan: list[tuple[int, int, int, int, int, int]] = []
        digest = xxhash.xxh3_128()
        highest = -1
        for document in range(len(documents)):
            tokens_T, said_T = self._document(document)
            highest = max(highest, int(tokens_T.max(initial=-1)))
            for number, window in enumerate(cut(len(tokens_T), encoding.max_length, encoding.overlap)):
                mask_T = _mask(said_T, window.start, window.stop, window.first)
                rows = int(mask_T.sum())
                if rows:
                    plan.append((document, number, window.start, window.stop, window.first, rows))
                    head = f"{document} {window.start} {window.stop} {self._domain(document) or ''}\n"
                    digest.update(head.encode())
                    digest.update(tokens_T[window.start : window.stop].astype("<u4").tobytes())
                    digest.update(np.packbits(mask_T).tobytes())
            if document % _BATCH == 0 or document == len(documents) - 1:
                progress(Step(stage="windows", done=document + 1, total=len(documents)))
        self._plan = np.array(plan, np.int64).reshape(-1, 6)
        self.fingerprint = digest.hexdigest()
        self.highest_token = highest
        self.skipped = self.documents - len(np.unique(self._plan[:, 0]))

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
        tokens_T, said_T = self._document(document)
        window_T = tokens_T[start:stop]
        return Sample(
            key=key_of(window_T),
            tokens_T=window_T,
            mask_T=_mask(said_T, start, stop, first),
            document=document,
            window=number,
            start=start,
            domain=self._domain(document),
        )

    def _document(self, index: int) -> tuple[Array, Array]:
        """Return the tokens of a document, int64, and a flag for each: True if a row may be about it."""
        row = self._documents[index]
        tokens_T = np.asarray(row["tokens"], np.int64)
        return tokens_T, np.asarray(row["said"], np.bool_) if self.chat else np.ones(len(tokens_T), np.bool_)

    def _domain(self, document: int) -> str | None:
        value = self._documents[document].get("domain")
        return None if value is None else str(value)


def _mask(said_T: Array, start: int, stop: int, first: int) -> Array:
    """Return the row mask of a window, bool: position t has a row if t >= `first` and `said_T` marks token t + 1."""
    mask = np.zeros(stop - start, np.bool_)
    mask[:-1] = said_T[start + 1 : stop]
    mask[: max(first - start, 0)] = False
    return mask


def open_samples(
    spec: DataSpec, encoding: Encoding, tokenizer: PreTrainedTokenizerBase, who: str, progress: Progress = no_progress
) -> Samples:
    """Load the user's data, tokenise them and cut them into samples.

    The tokenised documents are stored in the `datasets` cache, where the next process finds them.

    Args:
        spec: the documents to read.
        encoding: length and overlap of the windows.
        tokenizer: the tokenizer of the teacher.
        who: name of the tokenizer's owner, for messages.
        progress: receives the steps.

    Raises:
        BadInput: the data cannot be read, or no position in them has a row.
        ModelError: the data are chats, and the tokenizer has no chat template.
    """
    documents, column, chat = open_documents(spec)
    if chat:
        check_template(tokenizer, who)
    done = 0

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        nonlocal done
        encoded = _encode_chats(tokenizer, batch[column]) if chat else _encode_texts(tokenizer, batch[column], column)
        if spec.domain_column is not None:
            encoded["domain"] = [None if value is None else str(value) for value in batch[spec.domain_column]]
        done += len(batch[column])
        progress(Step(stage="tokenise", done=done, total=len(documents)))
        return encoded

    types = library()
    features = {"tokens": types.List(types.Value("int32"))}
    if chat:
        features["said"] = types.List(types.Value("bool"))
    if spec.domain_column is not None:
        features["domain"] = types.Value("string")
    identity = (documents._fingerprint, column, spec.domain_column, chat, _tokenizer_identity(tokenizer))
    tokenised = documents.map(
        encode,
        batched=True,
        batch_size=_BATCH,
        remove_columns=documents.column_names,
        features=types.Features(features),
        new_fingerprint=xxhash.xxh3_64_hexdigest(repr(identity).encode()),
    )
    samples = Samples(tokenised, chat, column, encoding, progress)
    if not len(samples):
        raise BadInput(
            f"--data {spec.source}: none of its {len(documents)} documents has a token to predict "
            f"(two tokens or more{', one of them from the assistant' if chat else ''}). Check --column."
        )
    return samples


def _encode_texts(tokenizer: PreTrainedTokenizerBase, texts: list[Any], column: str) -> dict[str, list[Any]]:
    wrong = next((text for text in texts if text is not None and not isinstance(text, str)), None)
    if wrong is not None:
        raise BadInput(f"column '{column}' holds {wrong!r:.80} where a string is expected. Check --column.")
    return {"tokens": tokenizer([text or "" for text in texts], verbose=False)["input_ids"]}


def _encode_chats(tokenizer: PreTrainedTokenizerBase, chats: list[Any]) -> dict[str, list[Any]]:
    pairs = [encode_chat(tokenizer, chat or []) for chat in chats]
    return {"tokens": [tokens for tokens, _ in pairs], "said": [said for _, said in pairs]}


def _tokenizer_identity(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a fingerprint of everything in a tokenizer that changes the tokens: vocabulary, merges, template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = backend.to_str() if backend is not None else repr(sorted(tokenizer.get_vocab().items()))
    text = model + repr(tokenizer.chat_template) + repr(tokenizer.special_tokens_map)
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))
