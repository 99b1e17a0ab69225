"""The samples of a dump: windows of the user's documents, which are prepared once and mapped."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.format.data import ScoresInfo, SourceInfo
from logitstore.format.positions import Share, share_of
from logitstore.text.documents import DataSpec
from logitstore.text.forms.check import check_form, recognised
from logitstore.text.forms.form import Form
from logitstore.text.positions.choose import chosen
from logitstore.text.prepare.again import Again
from logitstore.text.prepare.cutting import check_of, content_of
from logitstore.text.prepare.data import Data, Encoding, Preparing, known, made, notices
from logitstore.text.prepare.folder import Folder, WindowsInfo, default_root
from logitstore.text.prepare.identity import KnownFiles
from logitstore.text.prepare.tokens import KeptTokens, RemadeTokens, Tokens
from logitstore.text.sample import Sample, key_of
from logitstore.text.scored.said import NO_COLUMNS, Said

__all__ = ["Encoding", "Preparing", "Samples", "open_samples"]

_BLOCK = 1 << 20


class Samples(Sequence[Sample]):
    """All samples of a data set. They lie in mapped files, so opening them costs the same however many there are."""

    def __init__(
        self,
        folder: Folder,
        tokens: Tokens,
        known: WindowsInfo,
        *,
        chat: bool,
        share: Share | None = None,
        said: Said = NO_COLUMNS,
    ) -> None:
        """Take what was prepared.

        Args:
            folder: has an entry of `logitstore.text.prepare.cutting.WINDOW` for each sample.
            tokens: the tokens of the documents.
            known: what is known of all samples.
            chat: whether only some tokens may have rows.
            share: the share of the positions that have a row, of those that the data ask about; None for all.
            said: the columns with scores and groups.
        """
        self._table_S, self._said = folder.table(known.samples), said
        self.folder, self._tokens, self.known, self.chat, self._share = folder, tokens, known, chat, share
        self.fingerprint, self.highest_token = known.fingerprint, known.highest
        self.tokens, self.skipped = known.tokens, known.skipped
        self.sources: tuple[SourceInfo, ...] = ()
        self.forms: tuple[Form, ...] = ()

    def __len__(self) -> int:
        return len(self._table_S)

    @property
    def column(self) -> str:
        """The columns that were read, for people."""
        return ", ".join(sorted({form.column for form in self.forms}))

    @property
    def documents(self) -> int:
        """Count of documents, those without samples too."""
        return sum(each.documents for each in self.sources)

    @property
    def rows_S(self) -> Array:
        """Count of rows of every sample, int; mapped where all positions that the data ask about have one."""
        return self._counts(slice(None))

    @cached_property
    def rows(self) -> int:
        """Count of rows of all samples."""
        if self._share is None:
            return self.known.rows
        return sum(self.rows_in(slice(first, first + _BLOCK)) for first in range(0, len(self), _BLOCK))

    def _counts(self, span: slice) -> Array:
        rows_S = np.asarray(self._table_S["rows"][span])
        return rows_S if self._share is None else self._share.counts(rows_S)

    @property
    def scores(self) -> ScoresInfo | None:
        """What a manifest says of the scores and groups; None without any."""
        if not self._said:
            return None
        return ScoresInfo(columns=self._said.scores, group=self._said.group, fingerprint=str(self.known.scores))

    @property
    def lengths_S(self) -> Array:
        """int32, count of tokens of every sample."""
        return np.asarray(self._table_S["stop"] - self._table_S["start"])

    def row_of(self, document: int) -> str:
        """Return which row of which source a document is, for people."""
        for source, form in zip(self.sources, self.forms, strict=True):
            if document < source.documents:
                return f"row {form.row(document)} of {source.source if len(self.sources) > 1 else 'the data'}"
            document -= source.documents
        return f"row {document + 1} of the data"

    def cut_context(self, max_length: int) -> list[str]:
        """Return a note if samples begin within a text whose beginning tells the teacher what is asked, such as a chat."""
        if not self.known.within:
            return []
        are = "document is" if self.known.within == 1 else "documents are"
        return [
            f"{self.known.within:,} {are} longer than --max-length {max_length}. The teacher sees the windows after the first "
            f"without the beginning, such as instructions, tools and the prompt. --max-length {self.known.longest} keeps "
            "all whole"
        ]

    def rows_in(self, span: slice) -> int:
        """Return how many rows the samples of a slice have."""
        return int(self._counts(span).sum(dtype=np.int64))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        entry = self._table_S[index]
        _, document, _, number, start, stop, first, rows, check = entry.item()
        try:
            pairs, pair = self._tokens.find(entry)
            window_T, domain = pairs.window(pair, start, stop)
            mask_T = np.zeros(stop - start, np.bool_)
            mask_T[first - start : -1] = pairs.flags(pair, first + 1, stop)
            told = pairs.told(pair, self._said)
        except (ValueError, IndexError, pa.ArrowException) as error:
            raise self._tokens.wrong(entry) from error
        content = content_of(document, start, domain, window_T, mask_T)
        if check_of(content, range(len(self))[index], number) != check or mask_T.sum() != rows:
            raise self._tokens.wrong(entry)
        sample = Sample(
            key=key_of(window_T),
            tokens_T=window_T,
            mask_T=mask_T,
            document=document,
            window=number,
            start=start,
            domain=domain,
            told=told,
        )
        return chosen(sample, self._share)


def open_samples(
    spec: DataSpec | Sequence[DataSpec],
    encoding: Encoding,
    tokenizer: PreTrainedTokenizerBase,
    who: str,
    progress: Progress = no_progress,
    preparing: Preparing | None = None,
) -> Samples:
    """Open the samples of the user's data, which are prepared if no process has done it before.

    Args:
        spec: the documents to read; those of several sources one source after the other.
        encoding: length and overlap of the windows, and how chats are rendered.
        tokenizer: the tokenizer of the teacher.
        who: name of the tokenizer's owner, for messages.
        progress: receives the steps.
        preparing: where and how the data are prepared.

    Raises:
        BadInput: the data cannot be read, two sources share a file, no position in them or in one of the sources has a row, or
            options about chats would have no effect.
        ModelError: the data are chats, and the tokenizer has no chat template.
        StorageError: the system refuses to write what is prepared.
    """
    specs = [spec] if isinstance(spec, DataSpec) else list(spec)
    data = Data.of(specs, encoding, tokenizer)
    for form, own, each in zip(data.forms, data.encoders, specs, strict=True):
        check_form(form, own, each.source, who)
        progress(Step(stage="data", done=1, total=1, note=f"{data.where(each)}{recognised(form)}"))
    preparing = preparing or Preparing()
    root = preparing.folder or default_root()
    files = KnownFiles(root)
    folder = Folder(root, data.identity(files), encoding.max_length, encoding.overlap)
    # held before it is looked at, so that nobody sweeps it meanwhile
    held = folder.hold()
    tokens, windows = known(folder, preparing) or made(data, folder, encoding, preparing, files, progress)
    held = folder.hold() if held is None else held
    sources = data.counted(tokens)
    kept = (
        KeptTokens(folder, tokens.shards)
        if tokens.kept
        else RemadeTokens(folder, Again(data.readers(sources, files.lines), tokens, files.check_unchanged))
    )
    samples = Samples(
        folder, kept, windows, chat=data.is_partial, share=share_of(encoding.positions), said=specs[0].said
    )
    samples.forms = tuple(each.form for each in sources)
    if held is not None:
        weakref.finalize(samples, os.close, held)
    samples.sources = tuple(
        each.spec.told(each.form.column, sum(shard.documents for shard in tokens.of_source(place)), origin.domain)
        for place, (each, origin) in enumerate(zip(sources, data.origins, strict=True))
    )
    for note in [*notices(data, sources, tokens), *samples.cut_context(encoding.max_length)]:
        progress(Step(stage="note", done=1, total=1, note=note))
    for told, form, has_samples in zip(samples.sources, samples.forms, windows.have_samples, strict=True):
        if not has_samples:
            said = ", one of them from the assistant" if form.is_chat and data.is_partial else ""
            raise BadInput(
                f"--data {told.source}: none of its {told.documents} documents has a token to predict "
                f"(two tokens or more{said}). Check --column"
                f"{' and --chat-template' if encoding.chats.template is not None else ''}."
            )
    return samples
