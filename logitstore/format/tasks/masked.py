"""What `cache.json` says about texts with masked tokens, and by which rule the tokens were masked."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, StrictInt, model_validator

from logitstore.core.record import Count, Positive, Record


class MaskInfo(Record):
    """Everything that decides which tokens are masked, and what stands in their place; docs/format.md has the rule.

    Attributes:
        share: of the tokens that may be masked, how many are.
        random: share of the masked ones in whose place a random token is shown.
        unchanged: share of the masked ones that are shown as they are.
        token: the id that is shown in place of the others.
        kept: ids that are never masked and never drawn: special tokens and ids without a meaning, in rising order.
        seed: of all random numbers.
    """

    share: float = Field(gt=0, le=1)
    random: float = Field(ge=0, le=1)
    unchanged: float = Field(ge=0, le=1)
    token: Count
    kept: tuple[Count, ...]
    seed: StrictInt = Field(ge=0, lt=1 << 63)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.random + self.unchanged > 1:
            raise ValueError(f"{self.random} of random tokens and {self.unchanged} unchanged ones are more than all")
        if list(self.kept) != sorted(set(self.kept)):
            raise ValueError("the ids that are kept do not rise")
        return self


class MaskedInfo(Record):
    """Texts some of whose tokens were masked.

    Attributes:
        fingerprint: checksum of the rule, and of document, start and tokens of every window, in order.
        documents: count of documents that were read.
        skipped: how many of them have no token that may be masked.
        max_length: most tokens of a window, special ones included.
        pad: the id of padding.
        mask: how tokens are masked.
    """

    source: str
    split: str
    kind: Literal["masked"]
    column: str
    limit: Positive | None = None
    fingerprint: str
    documents: Positive
    skipped: Count
    max_length: Positive
    pad: Count
    mask: MaskInfo

    def check_tokens(self, size: int) -> None:
        """Raise ValueError if an id is none of a tokenizer's: a model would look up a row that it does not have.

        Args:
            size: count of the ids of the tokenizer.
        """
        for name, token in (
            ("pad", self.pad),
            ("mask.token", self.mask.token),
            ("mask.kept", max(self.mask.kept, default=0)),
        ):
            if token >= size:
                raise ValueError(f"data.{name} {token} is none of the {size} token ids")
