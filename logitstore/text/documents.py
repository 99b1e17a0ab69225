"""Open the user's documents, and find their form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from logitstore.core.registry import suggest
from logitstore.dump.data import open_columns
from logitstore.dump.files.dataset import Columns
from logitstore.dump.files.piece import At, Batch
from logitstore.dump.files.spelling import Spell, as_text
from logitstore.errors import BadInput
from logitstore.format.data import SourceInfo
from logitstore.settings.dump import DataSettings
from logitstore.settings.models.generate import GenerateSettings
from logitstore.settings.sources import sources_of
from logitstore.text.forms.form import Form, Origin, Taken
from logitstore.text.forms.known import form_of, passed_over, text_or_chat, unread
from logitstore.text.scored.said import NO_COLUMNS, Said
from logitstore.text.scored.values import spells_of

_BY_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """The specification of the documents to read.

    Attributes:
        source: a file, a glob, a folder, or the name of a hub data set (`name` or `name:config`).
        split: the split of the data set.
        column: the main column to read; None takes the first of `logitstore.text.forms.known.MAIN` that is there.
        domain_column: a column that names the domain of a document.
        domain: the domain of all documents; the column is not read.
        name: the domain of all documents if there is no such column; None refuses data without it.
        limit: the largest count of documents.
        share: the share of the documents to take.
        said: the columns with scores and groups, which every source has.
    """

    source: str
    split: str = "train"
    column: str | None = None
    domain_column: str | None = None
    domain: str | None = None
    name: str | None = None
    limit: int | None = None
    share: float | None = None
    said: Said = NO_COLUMNS

    def origin(self, columns: list[str]) -> Origin:
        """Return where the documents come from, as their columns say."""
        column = self.domain_column if self.domain is None and self.domain_column in columns else None
        domain = None if column is not None else self.domain or self.name
        return Origin(domain_column=column, domain=domain)

    def told(self, column: str, count: int, domain: str | None = None) -> SourceInfo:
        """Return what a manifest says of the source, of which so many documents were taken."""
        return SourceInfo(
            source=self.source,
            split=self.split,
            column=column,
            documents=count,
            domain=domain,
            share=self.share,
            limit=self.limit,
        )


def specs_of(settings: DataSettings | GenerateSettings) -> list[DataSpec]:
    """Return what the settings of a dump say about each source of its documents.

    Raises:
        BadInput: an option would have no effect, as every source has its own, or does not say which source it means.
    """
    sources = sources_of(settings.data)
    are_plain = len(sources) == 1 and sources[0].limit is None and sources[0].share is None
    if settings.limit is not None and not are_plain:
        raise BadInput(
            f"--limit {settings.limit}: it does not say of which source. Write limit={settings.limit} behind each, such as "
            f"--data {sources[0].place},limit={settings.limit}."
        )
    own = {"split": "split", "column": "column", "domain_column": "domain"}
    for name, of_source in own.items():
        is_given = getattr(settings, name) != type(settings).model_fields[name].default
        if is_given and all(getattr(source, of_source) is not None for source in sources):
            raise BadInput(
                f"--{name.replace('_', '-')}: each source of the data has its own {of_source}. Leave it out."
            )
    return [
        DataSpec(
            source=source.place,
            split=source.split or settings.split,
            column=source.column or settings.column,
            domain_column=settings.domain_column,
            domain=source.domain,
            name=source.name if len(sources) > 1 else None,
            limit=source.limit or settings.limit,
            share=source.share,
            said=said_of(settings),
        )
        for source in sources
    ]


def said_of(settings: DataSettings | GenerateSettings) -> Said:
    """Return the columns of scores and groups that the settings name."""
    if isinstance(settings, GenerateSettings):
        return NO_COLUMNS
    names = tuple(settings.score_columns.split(",")) if settings.score_columns else ()
    return Said(scores=names, group=settings.group_column)


@dataclass(frozen=True, kw_only=True)
class Documents:
    """The documents of one source, of which nothing but the beginning is read yet.

    Attributes:
        spec: what was asked for.
        form: their form.
        columns: the columns of the data.
        read: those that make samples, with what keeps their values as text: the form's, and the domain.
    """

    spec: DataSpec
    form: Form
    columns: Columns
    read: Mapping[str, Spell]

    @property
    def names(self) -> list[str]:
        """The columns that rows have, of those that are read."""
        return self.columns.present(self.read)

    def counted(self, rows: int) -> Documents:
        """Return the same documents, with the share of so many rows that they are; see `all_rows`."""
        if self.spec.share is None:
            return self
        return replace(self, form=replace(self.form, taken=Taken.of(rows, self.spec.share)))

    def all_rows(self) -> int:
        """Return how many rows the data have, up to the limit; files of text are read for it. Raises BadInput: see `rows`."""
        count = self.columns.count()
        if count is None:
            count = 0
            for batch in self.columns.rows(self.read, ()):
                count += len(batch)
                if count >= (self.spec.limit or count + 1):
                    break
        return count if self.spec.limit is None else min(count, self.spec.limit)

    def expected(self, lines: Callable[[Path], int]) -> int:
        """Return about how many documents there are, if that is known without reading them; 0 if not.

        Args:
            lines: gives the count of lines of a file.
        """
        count = self.columns.count() or 0
        if not count and all(file.suffix.lower() in _BY_LINES for file in self.columns.files):
            count = sum(map(lines, self.columns.files))
        most = count if self.spec.limit is None else min(count, self.spec.limit)
        return most if self.spec.share is None or not most else Taken.of(most, self.spec.share).documents

    def rows(self, start: int = 0, at: At | None = None) -> Iterator[Batch]:
        """Yield the rows of the data from one on, in batches, up to the limit.

        Raises:
            BadInput: the data cannot be read.
        """
        limit = self.spec.limit
        for batch in self.columns.rows(self.read, self.form.needed, start, at):
            if limit is not None and batch.row + len(batch) >= limit:
                yield batch[: limit - batch.row]
                return
            yield batch


def open_documents(spec: DataSpec) -> Documents:
    """Return the documents with their form.

    Raises:
        BadInput: the file, data set, split or column does not exist; there are no documents; no form is known, or the column
            holds neither texts nor chats.
    """
    columns = open_columns(spec.source, spec.split)
    names = columns.names
    if not names:
        raise empty(spec)
    domain = spec.domain_column if spec.domain is None else None
    if domain is not None and domain not in names:
        if spec.name is None:
            raise BadInput(f"--domain-column: no column named '{domain}'. {suggest(domain, names)}")
        domain = None
    for option, wanted in (("--score-columns", spec.said.scores), ("--group-column", (spec.said.group,))):
        missing = next((name for name in wanted if name is not None and name not in names), None)
        if missing is not None:
            raise BadInput(f"{option}: --data {spec.source} has no column named '{missing}'. {suggest(missing, names)}")
    form = form_of(names, spec.column, spec.source, lambda column: columns.values(column, text_or_chat))
    read: dict[str, Spell] = dict(form.columns)
    if domain is not None:
        read.setdefault(domain, as_text)
    for name, spell in spells_of(spec.said).items():
        read.setdefault(name, spell)
    form = replace(form, passed_over=tuple(passed_over(form, names)), unread=tuple(unread(form, names)))
    return Documents(spec=spec, form=replace(form, files=tuple(columns.files)), columns=columns, read=read)


def refuse_shared(specs: Sequence[DataSpec], forms: Sequence[Form]) -> None:
    """Refuse sources that share a file of which they read the same column, whose rows would be there twice.

    Raises:
        BadInput: names both and the file.
    """
    seen: dict[tuple[int, int, str], DataSpec] = {}
    for spec, form in zip(specs, forms, strict=True):
        for file in form.files:
            state = file.stat()
            other = seen.setdefault((state.st_dev, state.st_ino, form.column), spec)
            if other is not spec:
                raise BadInput(
                    f"--data {other.source} and --data {spec.source} both have {file}, whose rows would be there twice. Name "
                    "each file in one of them."
                )


def empty(spec: DataSpec) -> BadInput:
    """Return what is raised of a source without documents."""
    return BadInput(f"--data {spec.source}: the data set is empty. Give one with at least one document.")
