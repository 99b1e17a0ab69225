"""The settings of `recode` and `merge`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from logitstore.format.row_kinds import sparsifiers
from logitstore.settings.fields import POSITIONAL, RECIPE_ONLY, Place, Sparsifier
from logitstore.settings.row import RowChoices


class RecodeSettings(RowChoices):
    """Everything `recode` is told."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to make another one from.")
    out: Place = Field(description="The cache to write. One that this command began is gone on with.")
    preset: Literal["small", "faithful", "exact", "topk", "sampled", "archive"] | None = Field(
        None,
        description="How to keep a row; without it as in the source, but for the options given. Hidden states can become "
        "anything; rows of listed tokens only something smaller.",
    )
    pilot_rows: Annotated[int, RECIPE_ONLY] = Field(
        12288, ge=1, description="Rows of the source from which a prior or sketch is fitted."
    )


class MergeSettings(RowChoices):
    """Everything `merge` is told."""

    caches: Annotated[list[Place], POSITIONAL] = Field(
        description="Two or more caches of the same samples, by teachers with the same vocabulary."
    )
    mean_probabilities: bool = Field(
        description="Take the mean of the teachers' probabilities, token by token, which is the only way there is so far."
    )
    out: Place = Field(description="The cache to write. One that this command began is gone on with.")
    weights: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="What each cache counts in the mean, such as 1,2; of any sum. Without it all count alike.",
    )
    preset: Literal["topk", "sampled"] = Field(
        "topk",
        description="How to keep a row. The others need the hidden states of one teacher, and a mean of several has none.",
    )
    sparsifier: Sparsifier | None = Field(
        None,
        description="What is kept of a row, if not what the preset says; dense for small label sets.",
        examples=sparsifiers(of_logits=True),
    )
    tail: Literal["prior", "uniform", "none"] | None = Field(
        None,
        description="How the mass outside the listed tokens is spread: like one vector for all rows, fitted on the mean "
        "(prior), evenly (uniform), or not at all, the listed tokens renormalised (none).",
    )
    pilot_rows: Annotated[int, RECIPE_ONLY] = Field(
        12288, ge=1, description="Rows of the mean from which a prior is fitted."
    )

    @field_validator("mean_probabilities")
    @classmethod
    def _the_only_way(cls, value: bool) -> bool:
        if not value:
            raise ValueError("it must be true, for there is no other way to merge")
        return value

    @field_validator("preset", "sparsifier", "tail", mode="before")
    @classmethod
    def _without_hidden_states(cls, value: Any) -> Any:
        if value in ("small", "faithful", "archive", "exact", "hidden", "sketch"):
            raise ValueError(
                "it is made of one teacher's hidden states, and a mean of several teachers has none. "
                "Use --preset topk, with more tokens (-k 50) for a smaller error"
            )
        return value
