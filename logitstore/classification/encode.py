"""Texts in the tokens of one tokenizer, cut to a length: all texts of a dump, and some of a batch.

Axes: N texts, T tokens of one text.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from logitstore.classification.data import Labelled
from logitstore.classification.sample import ClassifiedText, Padding, key_of
from logitstore.core.progress import Progress, Step
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.models.causal import position_limit

_BLOCK = 1024


class Encoder:
    """Encodes texts with one tokenizer, cut to a length. Safe to use from several threads.

    Args:
        tokenizer: of the model.
        max_length: most tokens of a text, special ones included.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.tokenizer, self.max_length, self._lock = tokenizer, max_length, threading.Lock()

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[list[Array], list[Array]]:
        """Return the tokens and the token types of each text, int64[T] and uint8[T]. Of pairs the longer text is cut first."""
        found = self._encoded(texts, pairs, truncation=True, max_length=self.max_length)
        tokens = [np.array(each, np.int64) for each in found["input_ids"]]
        types = found.get("token_type_ids") or [[0] * len(each) for each in tokens]
        return tokens, [np.array(each, np.uint8) for each in types]

    def lengths(self, texts: Sequence[str], pairs: Sequence[str] | None) -> list[int]:
        """Return how many tokens each text has if it is not cut."""
        return [len(each) for each in self._encoded(texts, pairs, truncation=False)["input_ids"]]

    def _encoded(self, texts: Sequence[str], pairs: Sequence[str] | None, **options: Any) -> Any:
        second = None if pairs is None else list(pairs)
        # a fast tokenizer keeps in itself how it cuts
        with self._lock:
            return self.tokenizer(list(texts), second, verbose=False, return_attention_mask=False, **options)


def length_for(wanted: int, is_default: bool, config: PretrainedConfig, who: object) -> int:
    """Return the most tokens of a text: what is wanted, but no more than a model has positions for, by default.

    Raises:
        BadInput: more is asked for by name.
    """
    limit = position_limit(config)
    if limit is None or wanted <= limit:
        return wanted
    if is_default:
        return limit
    raise BadInput(f"--max-length {wanted}: {who} has positions for {limit} tokens. Give --max-length {limit} or less.")


def takes_types(config: PretrainedConfig, highest: int) -> bool:
    """Return True if a model is shown token types up to a number: it has an embedding of each, or is an XLNet."""
    types = getattr(config, "type_vocab_size", None)
    return bool(config.model_type == "xlnet") if types is None else int(types) > highest


def padding_of(tokenizer: PreTrainedTokenizerBase) -> Padding:
    """Return how a tokenizer pads: with its own token for it, else with the end of text, else with token 0."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return Padding(token=next(each for each in ids if each is not None), side=tokenizer.padding_side)


@dataclass(frozen=True, kw_only=True)
class EncodedTexts:
    """All texts of a dump, in memory; see `logitstore.dump.task.AskedSamples`.

    Attributes:
        texts: as they were read.
        labels: int64[N], the teacher's numbers of the classes; -1 without one.
        tokens, types: of all texts, one after the other: uint32 and uint8; types are None where all are 0.
        ends: int64[N + 1], where each text begins, and where the last one ends.
        cut: count of texts that were cut.
        longest: most tokens of a text before it was cut.
        keeps_texts: whether samples carry their texts.
    """

    texts: Labelled
    labels: Array
    tokens: Array
    types: Array | None
    ends: Array
    cut: int
    longest: int
    keeps_texts: bool

    @classmethod
    def of(
        cls, texts: Labelled, labels: Array, encode: Encoder, source: str, keeps_texts: bool, progress: Progress
    ) -> EncodedTexts:
        """Encode all texts. Raises BadInput: a text has no token, or the length leaves no room for one."""
        special = encode.tokenizer.num_special_tokens_to_add(texts.pairs is not None)
        if special >= encode.max_length:
            raise BadInput(
                f"--max-length {encode.max_length}: the tokenizer puts {special} tokens of its own around a text. Give more."
            )
        tokens: list[Array] = []
        types: list[Array] = []
        cut, longest = 0, 0
        for first in range(0, len(texts.texts), _BLOCK):
            span = slice(first, first + _BLOCK)
            some, pairs = texts.texts[span], None if texts.pairs is None else texts.pairs[span]
            found, kinds = encode(some, pairs)
            full = [place for place, each in enumerate(found) if len(each) >= encode.max_length]
            if full:
                beside = None if pairs is None else [pairs[place] for place in full]
                lengths = encode.lengths([some[place] for place in full], beside)
                cut += sum(length > encode.max_length for length in lengths)
                longest = max(longest, *lengths)
            if empty := [first + place for place, each in enumerate(found) if not len(each)]:
                raise BadInput(
                    f"--data {source}: the text of row {empty[0] + 1} has no tokens, and the tokenizer adds none. "
                    "Leave the row out."
                )
            tokens.extend(each.astype(np.uint32) for each in found)
            types.extend(kinds)
            done = min(first + _BLOCK, len(texts.texts))
            progress(Step(stage="tokenise", done=done, total=len(texts.texts)))
        flat = np.concatenate(types)
        return cls(
            texts=texts,
            labels=labels,
            tokens=np.concatenate(tokens),
            types=flat if flat.any() else None,
            ends=np.cumsum([0, *map(len, tokens)]),
            cut=cut,
            longest=longest,
            keeps_texts=keeps_texts,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def rows_in(self, span: slice) -> int:
        """Return how many rows the texts of a slice have: one each."""
        return len(range(*span.indices(len(self))))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[int(index)]
        span = slice(self.ends[number], self.ends[number + 1])
        text, pair = self.words(number)
        return ClassifiedText(
            key=key_of(text, pair),
            tokens_T=self.tokens[span].astype(np.int64),
            types_T=None if self.types is None else self.types[span],
            label=int(self.labels[number]),
            document=number,
            text=text if self.keeps_texts else None,
            pair=pair if self.keeps_texts else None,
        )

    def words(self, number: int) -> tuple[str, str | None]:
        """Return one text, and the second one of a pair."""
        return self.texts.texts[number], None if self.texts.pairs is None else self.texts.pairs[number]

    def fingerprint(self) -> str:
        """Return xxh3-128 over the label and the key of every text, in order."""
        digest = xxhash.xxh3_128()
        for number, label in enumerate(self.labels.tolist()):
            digest.update(f"{label} {key_of(*self.words(number))}\0".encode())
        return digest.hexdigest()

    def encoded(self) -> str:
        """Return xxh3-128 over the tokens, the ends and the types of all texts."""
        digest = xxhash.xxh3_128(self.tokens.astype("<u4").tobytes())
        digest.update(self.ends.astype("<i8").tobytes())
        if self.types is not None:
            digest.update(self.types.tobytes())
        return digest.hexdigest()
