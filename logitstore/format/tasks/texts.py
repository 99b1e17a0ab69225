"""What `cache.json` says about texts that were classified, or turned into vectors; and about the tokenizer of texts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from logitstore.core.record import Count, Positive, Record


class TokenizerInfo(Record):
    """The meaning of the token ids. `spelling` names the way to turn a piece of the vocabulary into text."""

    fingerprint: str
    size: Positive
    spelling: Literal["byte-level", "metaspace", "plain"]


def check_padding(pad: int, tokenizer: TokenizerInfo) -> None:
    """Raise ValueError if the id of padding is none of the tokenizer: a model would look up a row that it does not have."""
    if pad >= tokenizer.size:
        raise ValueError(f"the padding {pad} is none of the {tokenizer.size} token ids")


class ClassifiedInfo(Record):
    """Texts, or pairs of texts, that a classifier was asked about.

    Attributes:
        column, pair_column, label_column: the columns that were read.
        fingerprint: checksum of the label and the key of every text, in order; not of its tokens, so that teachers with
            different tokenizers can be compared.
        classes: checksum of the names of the teacher's classes, in order.
        unlabelled: count of texts without a label.
        tokenizer: what the token ids mean.
        encoded: checksum of the tokens and token types of every text, in order.
        max_length: the most tokens of a text that the teacher was shown.
        cut: count of texts that had more.
        token_types: whether the token types are stored; they are where one is not 0.
        pad: the id of padding.
        padding_side: where it stands.
        texts: whether the texts themselves are stored.
    """

    source: str
    split: str
    kind: Literal["classified"]
    column: str
    pair_column: str | None = None
    label_column: str | None = None
    limit: int | None = None
    fingerprint: str
    classes: str
    unlabelled: Count
    tokenizer: TokenizerInfo
    encoded: str
    max_length: Positive
    cut: Count
    token_types: bool
    pad: Count
    padding_side: Literal["left", "right"]
    texts: bool

    @model_validator(mode="after")
    def _padding_is_a_token(self) -> Self:
        check_padding(self.pad, self.tokenizer)
        return self


class EmbeddedInfo(Record):
    """Texts that an encoder turned into vectors; see `ClassifiedInfo` for what is not said here.

    Attributes:
        pair_column: the column of the second texts of pairs; each text of a pair has a row of its own, one behind the other.
        score_column: the column that says how similar the two texts of a pair are.
        fingerprint: checksum of the score and the key of every text, in order.
        pooling: how hidden states become a vector: that of the first or the last token, or the mean.
        normalised: whether the vectors have length 1.
    """

    source: str
    split: str
    kind: Literal["embedded"]
    column: str
    pair_column: str | None = None
    score_column: str | None = None
    limit: int | None = None
    fingerprint: str
    pooling: Literal["first", "mean", "last"]
    normalised: bool
    tokenizer: TokenizerInfo
    encoded: str
    max_length: Positive
    cut: Count
    token_types: bool
    pad: Count
    padding_side: Literal["left", "right"]
    texts: bool

    @model_validator(mode="after")
    def _padding_is_a_token(self) -> Self:
        check_padding(self.pad, self.tokenizer)
        return self

    @model_validator(mode="after")
    def _only_pairs_have_scores(self) -> Self:
        if self.score_column is not None and self.pair_column is None:
            raise ValueError("scores and texts that are no pairs do not go together")
        return self
