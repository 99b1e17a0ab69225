"""Open the user's documents, and find their form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from logitstore.core.registry import suggest
from logitstore.dump.data import open_columns
from logitstore.dump.files.spelling import Spell, as_text
from logitstore.errors import BadInput
from logitstore.format.data import SourceInfo
from logitstore.settings.dump import TeacherSettings
from logitstore.settings.sources import sources_of
from logitstore.text.forms.form import Form, Origin
from logitstore.text.forms.known import form_of, passed_over, text_or_chat, unread

if TYPE_CHECKING:
    import datasets


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
    """

    source: str
    split: str = "train"
    column: str | None = None
    domain_column: str | None = None
    domain: str | None = None
    name: str | None = None
    limit: int | None = None
    share: float | None = None

    def origin(self, columns: list[str], first: int, is_partial: bool) -> Origin:
        """Return where the documents come from, as their columns say; see `Origin`."""
        column = self.domain_column if self.domain is None and self.domain_column in columns else None
        domain = None if column is not None else self.domain or self.name
        return Origin(source=self.source, domain_column=column, domain=domain, first=first, is_partial=is_partial)

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


def specs_of(settings: TeacherSettings) -> list[DataSpec]:
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
        )
        for source in sources
    ]


def open_documents(spec: DataSpec) -> tuple[datasets.Dataset, Form]:
    """Return the documents and their form.

    The documents have the columns that make samples: those of the form that are there, and the domain. Other columns are not
    read.

    Raises:
        BadInput: the file, data set, split or column does not exist; there are no documents; no form is known, or the column
            holds neither texts nor chats.
    """
    columns = open_columns(spec.source, spec.split)
    names = columns.names
    if not names:
        raise _empty(spec)
    domain = spec.domain_column if spec.domain is None else None
    if domain is not None and domain not in names:
        if spec.name is None:
            raise BadInput(f"--domain-column: no column named '{domain}'. {suggest(domain, names)}")
        domain = None
    form = form_of(names, spec.column, spec.source, lambda column: columns.values(column, text_or_chat))
    read: dict[str, Spell] = dict(form.columns)
    if domain is not None:
        read.setdefault(domain, as_text)
    documents = columns.load(read, form.needed)
    if spec.limit is not None:
        documents = documents.select(range(min(spec.limit, len(documents))))
    if len(documents) == 0:
        raise _empty(spec)
    taken = None if spec.share is None else spread_rows(len(documents), spec.share)
    if taken is not None:
        documents = documents.select(taken)
    form = replace(form, passed_over=tuple(passed_over(form, names)), unread=tuple(unread(form, names)))
    return documents, replace(form, files=tuple(columns.files), taken=taken)


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


def spread_rows(count: int, share: float) -> list[int]:
    """Return the numbers of a share of `count` rows, evenly spread; at least one."""
    taken = max(1, round(count * share))
    return [(2 * place + 1) * count // (2 * taken) for place in range(taken)]


def _empty(spec: DataSpec) -> BadInput:
    return BadInput(f"--data {spec.source}: the data set is empty. Give one with at least one document.")
