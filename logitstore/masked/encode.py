"""Documents in the tokens of one tokenizer, cut into windows with the special tokens around each.

Axes: D documents, S windows, T tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from logitstore.core.progress import Progress, Step
from logitstore.core.registry import suggest
from logitstore.core.types import Array
from logitstore.dump.data import is_saved, load, load_saved
from logitstore.errors import BadInput, ModelError
from logitstore.format.tasks.masked import MaskInfo
from logitstore.masked.mask import Masker
from logitstore.masked.sample import Window
from logitstore.models.causal import position_limit
from logitstore.settings.dump import DumpSettings

COLUMNS = ("text", "sentence", "content")
"""Columns of texts, in the order in which they are looked for."""

_BLOCK = 1024

_TRIED = "a"
"""A text by which it is seen which special tokens stand around one."""


def documents_of(settings: DumpSettings) -> tuple[str, list[str]]:
    """Return the column that is read, and the texts in it.

    Raises:
        BadInput: the data cannot be read, are empty, or the column does not exist, is not known or holds something else.
    """
    source = settings.source
    if not isinstance(settings.data, str) and len(settings.data) > 1:
        raise BadInput(f"--data {source}: texts are masked from one source. Name several files with a glob.")
    table = load_saved(source, settings.split) if is_saved(Path(source)) else load(source, settings.split)
    if settings.limit is not None:
        table = table.select(range(min(settings.limit, len(table))))
    if not len(table):
        raise BadInput(f"--data {source}: the data set is empty. Give one with at least one text.")
    names = list(table.column_names)
    if settings.column is not None and settings.column not in names:
        raise BadInput(f"--column: no column named '{settings.column}'. {suggest(settings.column, names)}")
    column = settings.column or next((name for name in COLUMNS if name in names), None)
    if column is None:
        usual = ", ".join(f"'{name}'" for name in COLUMNS)
        raise BadInput(
            f"--data {source}: no column by which texts are known ({usual}). Name the one to read with --column. "
            f"Known: {', '.join(names)}."
        )
    texts = list(table.select_columns([column])[:][column])
    wrong = next((row for row, value in enumerate(texts) if not isinstance(value, str)), None)
    if wrong is not None:
        raise BadInput(
            f"row {wrong + 1} of the data: column '{column}' holds {texts[wrong]!r:.80} where a text is expected. "
            "Leave the row out, or name another --column."
        )
    return column, texts


def length_for(wanted: int, is_default: bool, config: PretrainedConfig, who: object) -> int:
    """Return the most tokens of a window: what is wanted, but no more than a model has positions for, by default.

    Raises:
        BadInput: more is asked for by name.
    """
    limit = position_limit(config)
    if limit is None or wanted <= limit:
        return wanted
    if is_default:
        return limit
    raise BadInput(f"--max-length {wanted}: {who} has positions for {limit} tokens. Give --max-length {limit} or less.")


def around(tokenizer: PreTrainedTokenizerBase, who: object) -> tuple[Array, Array]:
    """Return the special tokens that a tokenizer puts before a text, and those behind it, int64 each.

    Raises:
        ModelError: it puts some within the text.
    """
    bare, whole = (_ids(tokenizer, [_TRIED], special)[0] for special in (False, True))
    for first in range(len(whole) - len(bare) + 1):
        if whole[first : first + len(bare)] == bare:
            return np.array(whole[:first], np.int64), np.array(whole[first + len(bare) :], np.int64)
    raise ModelError(f"{who}: its tokenizer changes a text between its special tokens. Give another teacher.")


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> list[list[int]]:
    found: Any = tokenizer(
        texts, add_special_tokens=special, truncation=False, verbose=False, return_attention_mask=False
    )
    return [list(each) for each in found["input_ids"]]


@dataclass(frozen=True, kw_only=True)
class Windows:
    """All windows of the data that have a token to mask, in memory.

    Attributes:
        tokens: of all documents, one after the other, without special ones; uint32.
        ends_S: int64[S, 2], where each window begins among them, and where it ends.
        document_S, window_S, start_S: int64, see `Window`.
        free_S: int64, how many tokens of each may be masked.
        before, behind: special tokens around each.
        documents: count of documents that were read.
        skipped: how many of them have no window.
    """

    tokens: Array
    ends_S: Array
    document_S: Array
    window_S: Array
    start_S: Array
    free_S: Array
    before: Array
    behind: Array
    documents: int
    skipped: int

    @classmethod
    def of(
        cls,
        texts: list[str],
        tokenizer: PreTrainedTokenizerBase,
        masker: Masker,
        max_length: int,
        who: object,
        vocabulary: int,
        progress: Progress,
    ) -> Windows:
        """Encode documents and cut them.

        Raises:
            BadInput: the length leaves no room for a token, or no document has a token to mask.
            ModelError: the tokenizer is another model's.
        """
        before, behind = around(tokenizer, who)
        room = max_length - len(before) - len(behind)
        if room < 1:
            special = len(before) + len(behind)
            raise BadInput(
                f"--max-length {max_length}: the tokenizer puts {special} tokens of its own around a text. Give more."
            )
        pieces: list[Array] = []
        windows: list[tuple[int, int, int, int, int, int]] = []
        begin = 0
        for first in range(0, len(texts), _BLOCK):
            for document, ids in enumerate(_ids(tokenizer, texts[first : first + _BLOCK], False), first):
                tokens_T = np.array(ids, np.uint32)
                _check_tokens(tokens_T, vocabulary, who)
                is_free_T = masker.may_be_masked(tokens_T)
                for window, start in enumerate(range(0, len(tokens_T), room)):
                    stop = min(start + room, len(tokens_T))
                    if free := int(is_free_T[start:stop].sum()):
                        windows.append((begin + start, begin + stop, document, window, start, free))
                pieces.append(tokens_T)
                begin += len(tokens_T)
            progress(Step(stage="tokenise", done=min(first + _BLOCK, len(texts)), total=len(texts)))
        if not windows:
            raise BadInput(f"none of the {len(texts):,} documents has a token that may be masked. Check --column.")
        table = np.array(windows, np.int64)
        return cls(
            tokens=np.concatenate(pieces),
            ends_S=table[:, :2],
            document_S=table[:, 2],
            window_S=table[:, 3],
            start_S=table[:, 4],
            free_S=table[:, 5],
            before=before,
            behind=behind,
            documents=len(texts),
            skipped=len(texts) - len(np.unique(table[:, 2])),
        )

    def __len__(self) -> int:
        return len(self.ends_S)

    def __getitem__(self, number: int) -> Window:
        first, last = self.ends_S[number]
        return Window(
            tokens_T=np.concatenate([self.before, self.tokens[first:last].astype(np.int64), self.behind]),
            document=int(self.document_S[number]),
            window=int(self.window_S[number]),
            start=int(self.start_S[number]),
        )

    @property
    def count(self) -> int:
        """Count of tokens of all windows, special ones included."""
        return int((self.ends_S[:, 1] - self.ends_S[:, 0]).sum()) + len(self) * (len(self.before) + len(self.behind))

    def fingerprint(self, rule: MaskInfo) -> str:
        """Return xxh3-128 over the canonical JSON of a rule, and document, window, start and tokens of every window."""
        plain = json.dumps(rule.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = xxhash.xxh3_128(plain.encode())
        for number in range(len(self)):
            window = self[number]
            digest.update(np.array([window.document, window.window, window.start], "<i8").tobytes())
            digest.update(np.array([len(window.tokens_T), *window.tokens_T], "<u4").tobytes())
        return digest.hexdigest()


def _check_tokens(tokens_T: Array, vocabulary: int, who: object) -> None:
    highest = int(tokens_T.max(initial=0))
    if highest >= vocabulary:
        raise ModelError(
            f"{who}: its tokenizer gives token id {highest}, and it answers about ids below {vocabulary}. The model and the "
            "tokenizer do not belong together."
        )
