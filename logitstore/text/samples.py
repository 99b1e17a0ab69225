"""Make the samples of a dump: tokenise the documents once, cut them into windows, number and fingerprint them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import Array
from logitstore.dump.data import library
from logitstore.errors import BadInput
from logitstore.format.data import SourceInfo
from logitstore.format.positions import share_of
from logitstore.text.chat import ChatOptions
from logitstore.text.documents import DataSpec, open_documents, refuse_shared
from logitstore.text.forms.form import Encoder, Form
from logitstore.text.forms.tokenise import check_form, notices, recognised, tokenised
from logitstore.text.positions.asked import asked_of
from logitstore.text.positions.choose import chosen
from logitstore.text.sample import BLOCK, Piece, Plan, Sample, blocks, key_of

if TYPE_CHECKING:
    import datasets

_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The settings that turn documents into samples.

    Attributes:
        max_length: the largest count of tokens in a sample.
        overlap: count of tokens that two neighbouring windows of a document share.
        chats: how chats are rendered.
        vocabulary: count of ids that mean something to the teacher; None counts those of the tokenizer.
        end_token: end every text and completion with the tokenizer's end-of-text token.
        positions: which positions have a row, as `--positions` spells it; None for those that the form of the data decides.
    """

    max_length: int = 1024
    overlap: int = 128
    chats: ChatOptions = field(default_factory=ChatOptions)
    vocabulary: int | None = None
    end_token: bool = False
    positions: str | None = None


class Samples(Sequence[Sample]):
    """All samples of a data set, made on demand from the tokenised documents."""

    def __init__(
        self, documents: datasets.Dataset, chat: bool, column: str, encoding: Encoding, progress: Progress
    ) -> None:
        """Cut tokenised documents into samples.

        Args:
            documents: columns `tokens`, `document`, `said` where only some tokens may have rows, `domain` if known. A document
                that makes several samples has several rows, one after the other.
            chat: whether only some tokens may have rows. If not, `said` is not read.
            column: the column that was read.
            encoding: how to cut.
            progress: receives the steps.
        """
        self.chat, self.column, self._share = chat, column, share_of(encoding.positions)
        self._documents = documents.with_format("arrow")
        plan = Plan(encoding.max_length, encoding.overlap)
        for piece in _pieces(documents, chat):
            plan.add(piece)
            done, total = (int(number) + 1 for number in (piece.numbers_D[-1], documents[-1]["document"]))
            progress(Step(stage="windows", done=done, total=total))
        self._plan, self._number_of = plan.finish()
        self.fingerprint, self.highest_token = plan.digest.hexdigest(), plan.highest
        self.documents = len(np.unique(self._number_of))
        self.sources: tuple[SourceInfo, ...] = ()
        self.forms: tuple[Form, ...] = ()
        self.skipped = self.documents - len(np.unique(self._number_of[self._plan[:, 0]]))

    def __len__(self) -> int:
        return len(self._plan)

    @property
    def rows_S(self) -> Array:
        """int64, count of rows of every sample."""
        return self._plan[:, 5] if self._share is None else self._share.counts(self._plan[:, 5])

    @property
    def lengths_S(self) -> Array:
        """int64, count of tokens of every sample."""
        return self._plan[:, 3] - self._plan[:, 2]

    def row_of(self, document: int) -> str:
        """Return which row of which source a document is, for people."""
        for source, form in zip(self.sources, self.forms, strict=True):
            if document < source.documents:
                return f"row {form.row(document)} of {source.source if len(self.sources) > 1 else 'the data'}"
            document -= source.documents
        return f"row {document + 1} of the data"

    def have_samples(self, counts: list[int]) -> list[bool]:
        """Return for each source of so many documents whether any of them made a sample."""
        ends = np.cumsum(counts)
        owners_S = np.searchsorted(ends, self._number_of[self._plan[:, 0]], "right")
        return [bool(each) for each in np.bincount(owners_S, minlength=len(counts)) > 0]

    def cut_context(self, encoding: Encoding) -> list[str]:
        """Return a note if samples begin within a text whose beginning tells the teacher what is asked, such as a chat."""
        ends = np.cumsum([each.documents for each in self.sources])
        is_partial = np.array([form.is_partial for form in self.forms])
        owners_S = np.searchsorted(ends, self._number_of[self._plan[:, 0]], "right")
        within = self._plan[(self._plan[:, 2] > 0) & is_partial[owners_S]]
        if not len(within):
            return []
        documents = len(np.unique(self._number_of[within[:, 0]]))
        are = "document is" if documents == 1 else "documents are"
        return [
            f"{documents:,} {are} longer than --max-length {encoding.max_length}. The teacher sees the windows after the first "
            f"without the beginning, such as instructions, tools and the prompt. --max-length {int(within[:, 3].max())} keeps "
            "all whole"
        ]

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
        sample = Sample(
            key=key_of(window_T),
            tokens_T=window_T,
            mask_T=mask_T,
            document=int(self._number_of[document]),
            window=number,
            start=start,
            domain=domain,
        )
        return chosen(sample, self._share)


def _pieces(documents: datasets.Dataset, chat: bool) -> Iterator[Piece]:
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
                    said_T=some["said"].flatten().to_numpy(zero_copy_only=False) if chat else None,
                    domains=some["domain"].to_pylist() if "domain" in some else [None] * len(lengths[block]),
                )


def open_samples(
    spec: DataSpec | Sequence[DataSpec],
    encoding: Encoding,
    tokenizer: PreTrainedTokenizerBase,
    who: str,
    progress: Progress = no_progress,
) -> Samples:
    """Load the user's data, tokenise them and cut them into samples.

    The tokenised documents are stored in the `datasets` cache, where the next process finds them.

    Args:
        spec: the documents to read; those of several sources one source after the other.
        encoding: length and overlap of the windows, and how chats are rendered.
        tokenizer: the tokenizer of the teacher.
        who: name of the tokenizer's owner, for messages.
        progress: receives the steps.

    Raises:
        BadInput: the data cannot be read, two sources share a file, no position in them or in one of the sources has a row, or
            options about chats would have no effect.
        ModelError: the data are chats, and the tokenizer has no chat template.
    """
    specs = [spec] if isinstance(spec, DataSpec) else list(spec)
    opened = [open_documents(each) for each in specs]
    opened = [
        (documents, asked_of(form, encoding.positions, each.source))
        for each, (documents, form) in zip(specs, opened, strict=True)
    ]
    forms = [form for _, form in opened]
    refuse_shared(specs, forms)
    column = specs[0].domain_column
    if len(specs) > 1 and column is not None and not any(column in documents.column_names for documents, _ in opened):
        raise BadInput(f"--domain-column {column}: no source of the data has such a column, or needs it. Leave it out.")
    encoder = Encoder(
        tokenizer=tokenizer,
        chats=encoding.chats,
        vocabulary=encoding.vocabulary or 1 + max(tokenizer.get_vocab().values()),
        end_token=encoding.end_token,
    )
    is_partial, first = any(form.is_partial for form in forms), 0
    total = sum(len(documents) for documents, _ in opened)
    parts, sources = [], []
    for each, (documents, form) in zip(specs, opened, strict=True):
        own = encoder.about(form, forms)
        check_form(form, own, each.source, who)
        where = f"{each.source}: " if len(specs) > 1 else ""
        progress(Step(stage="data", done=1, total=1, note=f"{where}{recognised(form)}"))
        origin = each.origin(documents.column_names, first, is_partial)
        encoded = tokenised(documents, form, own, origin, partial(_within, progress, first, total))
        for notice in notices(encoded, form, first):
            progress(Step(stage="note", done=1, total=1, note=f"{where}{notice}"))
        apart = len(encoded) - len(documents)
        if apart:
            progress(Step(stage="note", done=1, total=1, note=f"{where}{form.apart.format(apart)}"))
        first += len(documents)
        parts.append(encoded)
        sources.append(each.told(form.column, len(documents), origin.domain))
    whole = parts[0] if len(parts) == 1 else library().concatenate_datasets(parts)
    chat = is_partial and encoding.positions != "all"
    samples = Samples(whole, chat, ", ".join(sorted({form.column for form in forms})), encoding, progress)
    samples.sources, samples.forms = tuple(sources), tuple(forms)
    for note in samples.cut_context(encoding):
        progress(Step(stage="note", done=1, total=1, note=note))
    have_samples = samples.have_samples([each.documents for each in sources])
    for told, form, has_samples in zip(sources, forms, have_samples, strict=True):
        if not has_samples:
            raise BadInput(
                f"--data {told.source}: none of its {told.documents} documents has a token to predict "
                f"(two tokens or more{', one of them from the assistant' if form.is_chat and chat else ''}). Check --column"
                f"{' and --chat-template' if encoding.chats.template is not None else ''}."
            )
    return samples


def _within(progress: Progress, first: int, total: int, step: Step) -> None:
    """Report a step of one source as a step of all."""
    progress(replace(step, done=first + step.done, total=total))
