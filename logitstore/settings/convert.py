"""The settings of `recode` and `merge`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from logitstore.core.types import ChosenBy
from logitstore.format.row_kinds import sparsifiers
from logitstore.settings.fields import POSITIONAL, RECIPE_ONLY, Place, Sparsifier
from logitstore.settings.row import RowChoices
from logitstore.settings.stores.local_cache import LocalCacheChoices


class RecodeSettings(RowChoices, LocalCacheChoices):
    """The settings of `recode`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to read.")
    out: Place = Field(description="The cache to write. An interrupted run of the same command is resumed.")
    preset: Literal["tiny", "small", "faithful", "exact", "topk", "sampled", "archive"] | None = Field(
        None,
        description="How a row is stored. Default: as in the source, except for the options given. Hidden states can become "
        "anything; rows of listed tokens can only become smaller.",
    )
    pilot_rows: Annotated[int, RECIPE_ONLY] = Field(
        12288, ge=1, description="Rows of the source on which a prior or sketch is fitted."
    )


class MergeSettings(RowChoices, LocalCacheChoices):
    """The settings of `merge`."""

    caches: Annotated[list[Place], POSITIONAL] = Field(
        description="Two or more caches of the same samples, by teachers with the same vocabulary."
    )
    out: Place = Field(description="The cache to write. An interrupted run of the same command is resumed.")
    by: ChosenBy | None = Field(
        None,
        description="Take each row from one of the caches, in place of the mean: from the one with the largest logprob of the "
        "gold token (gold), with the largest top-1 probability (confidence), or with the lowest entropy (entropy); of equals, "
        "from the first.",
    )
    weights: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Weight of each cache in the mean, such as 1,2; they may have any sum. Default: equal weights.",
    )
    preset: Literal["topk", "sampled"] | None = Field(
        None,
        description="How a row is stored. The other presets need the hidden states of one teacher; a mean of several has none. "
        "Default: topk; with --by and no other option about rows, as in the caches, byte for byte.",
    )
    sparsifier: Sparsifier | None = Field(
        None,
        description="Which tokens of a row are kept. Default: as the preset says. dense is for small label sets.",
        examples=sparsifiers(of_logits=True),
    )
    tail: Literal["prior", "uniform", "none"] | None = Field(
        None,
        description="How the mass outside the listed tokens is spread: by one vector for all rows, fitted on the mean "
        "(prior), evenly (uniform), or not at all: the listed tokens are renormalised (none).",
    )
    pilot_rows: Annotated[int, RECIPE_ONLY] = Field(
        12288, ge=1, description="Rows of the mean on which a prior is fitted."
    )

    @field_validator("preset", "sparsifier", "tail", mode="before")
    @classmethod
    def _without_hidden_states(cls, value: Any) -> Any:
        if value in ("tiny", "small", "faithful", "archive", "exact", "hidden", "sketch"):
            raise ValueError(
                "it is made of one teacher's hidden states, and a mean of several teachers has none. "
                "Use --preset topk, with more tokens (-k 50) for a smaller error"
            )
        return value
