"""Settings of `dump` about which tokens of texts are masked."""

from __future__ import annotations

from pydantic import Field

from logitstore.core.record import Record


class MaskChoices(Record):
    """The settings about masks. The defaults are those of BERT."""

    mask_share: float = Field(0.15, gt=0, le=1, description="Share of the tokens of each window that are masked.")
    mask_random: float = Field(
        0.1, ge=0, le=1, description="Share of the masked tokens in whose place a random token is shown."
    )
    mask_unchanged: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the masked tokens that are shown as they are. In place of the rest stands the mask token.",
    )
