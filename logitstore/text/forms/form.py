"""What a form of data is: the columns that are read, and what makes tokens of their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logitstore.dump.files.spelling import Spell
from logitstore.text.chats.options import ChatOptions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = Mapping[str, Any]
"""The values of a row, by the names of the columns."""

Pair = tuple[list[int], list[bool]]
"""Token ids, and a flag for each: True if a row may be about the token. No flags where one may be about every token."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One row of the data, as tokens.

    Attributes:
        pairs: what the teacher sees of it, at least one; a chat that is rendered several times and a row of packed samples
            have more.
        notices: what the user should know about the row, each as the end of a sentence about "a row".
    """

    pairs: list[Pair]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What rows are encoded with.

    Attributes:
        tokenizer: that of the teacher.
        chats: how chats are rendered.
        vocabulary: count of ids that mean something to the teacher.
        end_token: end every text and completion with the tokenizer's end-of-text token.
    """

    tokenizer: PreTrainedTokenizerBase
    chats: ChatOptions
    vocabulary: int
    end_token: bool = False

    def about(self, form: Form, forms: Sequence[Form]) -> Encoder:
        """Return what one of several forms is encoded with: without the options that mean something to others alone."""
        for_chats = form.is_chat or not any(each.is_chat for each in forms)
        has_ends = form.has_ends or not any(each.has_ends for each in forms)
        return replace(self, chats=self.chats if for_chats else ChatOptions(), end_token=self.end_token and has_ends)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A share of the rows of the data, evenly spread.

    Attributes:
        count: how many rows there are.
        documents: how many of them are taken.
    """

    count: int
    documents: int

    @classmethod
    def of(cls, count: int, share: float) -> Taken:
        """Take a share of so many rows, at least one."""
        return cls(count=count, documents=max(1, round(count * share)))

    def rows(self, places: Any) -> Any:
        """Return the numbers of the rows of some documents: of an int or of int64[D]."""
        return (2 * places + 1) * self.count // (2 * self.documents)


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of data.

    Attributes:
        column: the main column, which names the form.
        label: what the data are, for people.
        rows: the tokens that rows are about, for people.
        columns: the columns that are read where they are there, with what keeps their values as text.
        needed: those of them that every file must have.
        encode: makes a document of each of some rows, whose places are given for messages.
        is_chat: a chat template renders the rows.
        is_partial: only some tokens may have rows.
        is_spelled: the tokenizer makes the tokens from text.
        needs_ids_only: of the tokenizer, `encode` needs no more than `logitstore.text.forms.ids.Ids` has.
        apart: what the further pairs of a row are, for people.
    """

    column: str
    label: str
    rows: str
    columns: Mapping[str, Spell]
    needed: Sequence[str]
    encode: Callable[[Encoder, list[Row], list[str]], list[Document]]
    is_chat: bool = False
    is_partial: bool = False
    is_spelled: bool = True
    needs_ids_only: bool = False
    apart: str = ""
    passed_over: Sequence[str] = field(default_factory=tuple)
    """Main columns of other forms that the data have too."""
    unread: Sequence[str] = field(default_factory=tuple)
    """Columns that may say something about tokens, in a way that is not known."""
    files: Sequence[Path] = field(default_factory=tuple)
    """The files in which the data lie."""
    taken: Taken | None = None
    """Which rows of the data are documents, where not all of them are."""

    @property
    def has_ends(self) -> bool:
        """Whether the texts can be ended with a token, which neither a template nor the data give."""
        return self.is_spelled and not self.is_chat

    def row(self, place: int) -> int:
        """Return the number of a document among the rows of the data, from 1, as messages give it."""
        return 1 + (place if self.taken is None else int(self.taken.rows(place)))


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the documents of one source come from.

    Attributes:
        domain_column: the column that names the domain of a document.
        domain: the domain of all documents, where no column does.
    """

    domain_column: str | None = None
    domain: str | None = None
