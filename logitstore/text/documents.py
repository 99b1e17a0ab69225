"""Open the user's documents, and find their form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from logitstore.core.registry import suggest
from logitstore.dump.data import open_columns
from logitstore.dump.files.spelling import Spell, as_text
from logitstore.errors import BadInput
from logitstore.text.forms.form import Form
from logitstore.text.forms.known import form_of, passed_over, text_or_chat

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
        limit: the largest count of documents.
    """

    source: str
    split: str = "train"
    column: str | None = None
    domain_column: str | None = None
    limit: int | None = None


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
    domain = spec.domain_column
    if domain is not None and domain not in names:
        raise BadInput(f"--domain-column: no column named '{domain}'. {suggest(domain, names)}")
    form = form_of(names, spec.column, spec.source, lambda column: columns.values(column, text_or_chat))
    read: dict[str, Spell] = dict(form.columns)
    if domain is not None:
        read.setdefault(domain, as_text)
    documents = columns.load(read, form.needed)
    if spec.limit is not None:
        documents = documents.select(range(min(spec.limit, len(documents))))
    if len(documents) == 0:
        raise _empty(spec)
    return documents, replace(form, passed_over=tuple(passed_over(form, names)))


def _empty(spec: DataSpec) -> BadInput:
    return BadInput(f"--data {spec.source}: the data set is empty. Give one with at least one document.")
