"""The text of a cache in another tokenizer's tokens, read in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from logitstore.core.place import Place
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.models.tokens.tokenizer import cached_tokenizer
from logitstore.store.cache import Cache
from logitstore.targets.targets import AnyTargets
from logitstore.text.batches import laid_out
from logitstore.text.sample import Sample, cut
from logitstore.text.stored import texts_of
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.order import OrderedStream

_BATCH = 64


_BROKEN = "\ufffd"
"""Stands for a character whose bytes lie in two windows of which only one was chosen."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TextSamples:
    """Text samples are some text in a tokenizer's tokens, held in memory: 4 bytes a token.

    Attributes:
        path: path of the cache that the text comes from.
        tokens: int32, the tokens of all samples one after the other; tokens in overlaps stand there twice.
        ends_S: int64, where each sample ends in `tokens`.
        lengths_S: int64, number of tokens of each sample.
        first_S: int64, first position of each sample that has a row; every later one but the last has one too.
        bytes: number of bytes of the text, in UTF-8, that the rows' tokens spell.
    """

    path: Place
    tokens: Array
    ends_S: Array
    lengths_S: Array
    first_S: Array
    bytes: int

    def __len__(self) -> int:
        return len(self.lengths_S)

    def column(self, name: str) -> Array:
        """Return int64[S]: `lengths`, the number of tokens of every sample, or `row_counts`."""
        return self.lengths_S if name == "lengths" else np.asarray(self.lengths_S - 1 - self.first_S)

    def lengths_of(self, samples_M: Array) -> Array:
        """Return int64[M]: the number of tokens of some samples."""
        return np.asarray(self.lengths_S[samples_M])

    def tokens_of(self, sample: int) -> Array:
        """Return int32[T], the tokens of a sample, as a view."""
        return np.asarray(self.tokens[self.ends_S[sample] - self.lengths_S[sample] : self.ends_S[sample]])

    def positions_of(self, sample: int) -> Array:
        """Return int64[N]: the positions that have a row."""
        return np.arange(self.first_S[sample], self.lengths_S[sample] - 1)


def encoded_anew(
    cache: Cache, samples_M: Array, tokenizer: PreTrainedTokenizerBase, progress: Progress = no_progress
) -> TextSamples:
    """Return the text of some samples of a cache, encoded by another tokenizer.

    Windows of a document that touch are joined before they are decoded. The encoded text is cut into windows of the cache's
    own length and overlap, counted in the new tokens. Special tokens are left out, and the tokenizer adds its own.

    Args:
        cache: a cache of text.
        samples_M: int64, rising numbers of samples.
        tokenizer: the student's tokenizer.

    Raises:
        BadInput: only some tokens of a document have rows, as in chats.
    """
    _, data = cache.manifest.text
    if data.kind == "chat":
        raise BadInput(
            f"--text: {cache.path} has rows about chosen tokens only, such as those of an assistant, and another tokenizer "
            "cuts the text in other places. Dump the data with the student's tokenizer instead."
        )
    cache_tokenizer = cached_tokenizer(cache)
    tokens: list[Array] = []
    lengths: list[int] = []
    firsts: list[int] = []
    size, done = 0, 0
    runs = _runs(cache, samples_M)
    while some := list(islice(runs, _BATCH)):
        texts = [_text(cache_tokenizer, tokens_T) for tokens_T, _ in some]
        encoded = [np.asarray(ids, np.int32) for ids in tokenizer(texts, verbose=False)["input_ids"]]
        windows = cut(np.array([len(encoded_T) for encoded_T in encoded]), data.max_length, data.overlap)
        size += sum(len(text.encode()) for text in texts)
        for document, number, start, stop, first in windows.places():
            if stop - 1 > first:
                tokens.append(encoded[document][start:stop])
                lengths.append(stop - start)
                firsts.append(first - start)
            # no position predicts the first token; without an overlap, none predicts the first token of any window
            if number == 0 or not data.overlap:
                size -= _bytes(tokenizer, encoded[document][start : start + 1])
        done += sum(count for _, count in some)
        progress(Step(stage="encode anew", done=done, total=len(samples_M)))
    lengths_S = np.array(lengths, np.int64)
    return TextSamples(
        path=cache.path,
        tokens=np.concatenate(tokens) if tokens else np.zeros(0, np.int32),
        ends_S=np.cumsum(lengths_S),
        lengths_S=lengths_S,
        first_S=np.array(firsts, np.int64),
        bytes=max(size, 0),
    )


def _runs(cache: Cache, samples_M: Array) -> Iterator[tuple[Array, int]]:
    """Yield the joined tokens of neighbouring windows of a text, and the number of these samples.

    A document may hold several texts, one after the other. Each begins with a window that starts at its first token.
    """
    joined: list[Array] = []
    before: Sample | None = None
    for part, number in zip(*(places.tolist() for places in cache.places(samples_M)), strict=True):
        sample = texts_of(cache.samples_of(part)).sample(number)
        if before is not None and _goes_on(before, sample):
            joined.append(sample.tokens_T[before.start + before.length - sample.start :])
        else:
            if joined:
                yield np.concatenate(joined), len(joined)
            joined = [sample.tokens_T]
        before = sample
    if joined:
        yield np.concatenate(joined), len(joined)


def _goes_on(before: Sample, sample: Sample) -> bool:
    """Return True if a sample is the next window of the text that the one before it is a window of."""
    is_next = (sample.document, sample.window) == (before.document, before.window + 1)
    return is_next and before.start < sample.start <= before.start + before.length


def _text(tokenizer: PreTrainedTokenizerBase, tokens_T: Array) -> str:
    text = tokenizer.decode(tokens_T.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).strip(_BROKEN)


def _bytes(tokenizer: PreTrainedTokenizerBase, tokens_T: Array) -> int:
    """Return the number of bytes of the text that some tokens spell."""
    return len(_text(tokenizer, tokens_T).encode())


class TextLoader(OrderedStream):
    """A text loader gives batches of text for plain language modelling; `BatchStream` says how to get them."""

    has_targets = False

    def __init__(
        self,
        texts: TextSamples,
        *,
        batch_size: int = 8,
        shuffle: bool = True,
        seed: int = 0,
        packed: bool = False,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
    ) -> None:
        """Plan the batches; the arguments are those of `Loader`.

        Raises:
            BadInput: there are no samples, or an argument is out of range.
        """
        self._texts = texts
        self.text_bytes = texts.bytes
        super().__init__(
            texts,
            batch_size=batch_size,
            batch_rows=None,
            samples=None if shuffle else np.argsort(texts.lengths_S, kind="stable"),
            shuffle=shuffle,
            order=None,
            seed=seed,
            packed=packed,
            rank=rank,
            world_size=world_size,
            workers=workers,
            ahead=None,
            pin_memory=False,
        )

    def targets(self, batch: Batch) -> AnyTargets:
        """Raise ValueError: text has no targets, because no teacher has seen these tokens."""
        raise ValueError("text has no targets")

    def _make(self, epoch: int, number: int) -> Batch:
        samples_M = self.choose(epoch, number)
        chosen: list[Any] = samples_M.tolist()
        return laid_out(
            (self._texts.tokens_of(sample) for sample in chosen),
            (self._texts.positions_of(sample) for sample in chosen),
            self._texts.lengths_of(samples_M),
            samples_M,
            self._packed,
            {},
        )
