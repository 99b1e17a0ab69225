"""The data of a dump before they are read: their sources, what encodes them, and the name under which they are prepared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from logitstore.core.processes.crew import usable_cores
from logitstore.core.progress import Progress, Step
from logitstore.errors import BadInput, storage_errors
from logitstore.text.chats.options import ChatOptions
from logitstore.text.documents import DataSpec, Documents, open_documents, refuse_shared
from logitstore.text.forms.form import Encoder, Form, Origin
from logitstore.text.forms.ids import plain_ids
from logitstore.text.positions.asked import asked_of
from logitstore.text.prepare.encoded import MADE, Job
from logitstore.text.prepare.folder import Folder, TokensInfo, WindowsInfo, sweep
from logitstore.text.prepare.identity import KnownFiles, identity_of, tokenizer_identity
from logitstore.text.prepare.preparation import Preparation, Source


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


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """How and where data are prepared; the samples do not depend on it.

    Attributes:
        folder: where prepared data lie; None for a folder beside the datasets cache.
        workers: how many processes tokenise; None for as many as there are cores.
        keep_tokens: whether the tokens are stored, or made again when they are needed.
    """

    folder: Path | None = None
    workers: int | None = None
    keep_tokens: bool = True


@dataclass(frozen=True, kw_only=True)
class Data:
    """The sources of some data, not yet read, and what they are encoded with; `is_partial` where only some tokens may have
    rows."""

    sources: list[Documents]
    encoders: list[Encoder]
    origins: list[Origin]
    tokenizer: PreTrainedTokenizerBase
    is_partial: bool

    @classmethod
    def of(cls, specs: list[DataSpec], encoding: Encoding, tokenizer: PreTrainedTokenizerBase) -> Data:
        opened = [open_documents(each) for each in specs]
        sources = [replace(each, form=asked_of(each.form, encoding.positions, each.spec.source)) for each in opened]
        forms = [each.form for each in sources]
        refuse_shared(specs, forms)
        column = specs[0].domain_column
        if len(specs) > 1 and column is not None and not any(column in each.names for each in sources):
            raise BadInput(
                f"--domain-column {column}: no source of the data has such a column, or needs it. Leave it out."
            )
        encoder = Encoder(
            tokenizer=tokenizer,
            chats=encoding.chats,
            vocabulary=encoding.vocabulary or 1 + max(tokenizer.get_vocab().values()),
            end_token=encoding.end_token,
        )
        return cls(
            sources=sources,
            encoders=[encoder.about(form, forms) for form in forms],
            origins=[each.spec.origin(each.names) for each in sources],
            tokenizer=tokenizer,
            is_partial=encoding.positions != "all" and any(form.is_partial for form in forms),
        )

    @property
    def forms(self) -> list[Form]:
        return [each.form for each in self.sources]

    def where(self, spec: DataSpec) -> str:
        """Return the beginning of a note about one of several sources."""
        return f"{spec.source}: " if len(self.sources) > 1 else ""

    def identity(self, files: KnownFiles) -> str:
        """Return the name of what is prepared: the same for the same contents and settings, wherever the data lie."""
        parts: list[Any] = [MADE, self.is_partial, tokenizer_identity(self.tokenizer)]
        for each, own, origin in zip(self.sources, self.encoders, self.origins, strict=True):
            arguments = json.dumps(dict(own.chats.arguments), sort_keys=True)
            parts += [each.columns.identity(files.checksum), each.form.column, each.form.label, each.names]
            parts += [origin.domain_column, origin.domain, each.spec.limit, each.spec.share]
            parts += [own.vocabulary, own.end_token, arguments]
            # so that data without scores keep their name
            parts += [each.spec.said.scores, each.spec.said.group] if each.spec.said else []
        files.keep()
        return identity_of(parts)

    def counted(self, tokens: TokensInfo) -> list[Documents]:
        """Return the sources with the share of their rows that are documents, as it was when they were prepared."""
        return [each.counted(tokens.of_source(place)[0].rows) for place, each in enumerate(self.sources)]

    def readers(self, sources: list[Documents], lines: Callable[[Path], int]) -> list[Source]:
        """Return the sources with what makes tokens of them; `lines` counts the lines of a file."""
        plain = plain_ids(self.tokenizer) if any(form.needs_ids_only for form in self.forms) else None
        return [
            Source(
                documents=each,
                job=Job(
                    encode=each.form.encode,
                    encoder=replace(own, tokenizer=plain) if plain and each.form.needs_ids_only else own,
                    source=each.spec.source,
                    is_partial=self.is_partial,
                    domain_column=origin.domain_column,
                    domain=origin.domain,
                    said=each.spec.said,
                ),
                expected=each.expected(lines),
            )
            for each, own, origin in zip(sources, self.encoders, self.origins, strict=True)
        ]


def known(folder: Folder, preparing: Preparing) -> tuple[TokensInfo, WindowsInfo] | None:
    """Return what is known of prepared data; None if something is missing."""
    windows = folder.windows_info()
    tokens = folder.tokens_info() if windows is not None else None
    if windows is None or tokens is None or (preparing.keep_tokens and not tokens.kept):
        return None
    return tokens, windows


def made(
    data: Data, folder: Folder, encoding: Encoding, preparing: Preparing, files: KnownFiles, progress: Progress
) -> tuple[TokensInfo, WindowsInfo]:
    """Prepare data, unless another process does so meanwhile. Raises BadInput, StorageError: see `Preparation.run`."""

    def told() -> None:
        progress(
            Step(
                stage="note",
                done=0,
                total=1,
                note=f"waiting for another process that prepares the same data in {folder.path}",
            )
        )

    with storage_errors(folder.path), folder.alone(told):
        if (there := known(folder, preparing)) is not None:
            return there
        found = Preparation(
            folder,
            data.readers(data.sources, files.lines),
            encoding.max_length,
            encoding.overlap,
            preparing.workers or usable_cores(),
            preparing.keep_tokens,
            files.check_unchanged,
        ).run(progress)
    if preparing.folder is None:
        sweep()
    return found


def notices(data: Data, sources: list[Documents], tokens: TokensInfo) -> Iterator[str]:
    """Yield what the user should know about the documents of each source: each notice once, with the first of its rows."""
    for place, each in enumerate(sources):
        shards = tokens.of_source(place)
        found: dict[str, tuple[int, int]] = {}
        for notice in (notice for shard in shards for notice in shard.notices):
            first, count = found.get(notice.text, (notice.first, 0))
            found[notice.text] = (first, count + notice.count)
        where = data.where(each.spec)
        for text, (first, count) in found.items():
            yield f"{where}{text} (row {each.form.row(first)}{f' and {count - 1:,} more' if count > 1 else ''})"
        apart = sum(shard.pairs - shard.documents for shard in shards)
        if apart:
            yield f"{where}{each.form.apart.format(apart)}"
