"""The settings of `inspect`, `verify` and `select`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from logitstore.core.record import Record
from logitstore.settings.fields import POSITIONAL, FilePath, Model, Place


class SelectSettings(Record):
    """Everything `select` is told."""

    cache: Annotated[Place, POSITIONAL] = Field(
        description="The cache to choose from; one of the preset scores will do for most methods."
    )
    reference: Place | None = Field(
        None, description="A cache of the same samples by a smaller model, for the difference of the two."
    )
    out: FilePath = Field(description="The selection file to write.")
    method: Literal["difference", "top", "bottom", "random", "stratified", "llkd", "prune"] = Field(
        "difference",
        description="Those that the teacher finds more probable than the reference does (difference), with the highest or "
        "lowest score (top, bottom), random ones (random), the same share of every domain (stratified), those that the "
        "teacher is sure about (llkd), or random ones with a fitting weight of the distillation (prune).",
    )
    score: Literal["nll", "entropy", "confidence", "rows", "tokens"] | None = Field(
        None,
        description="What top, bottom and stratified rank by, and what is bounded: means over the rows of a sample, or its "
        "size. Without it nll for top and bottom.",
    )
    ratio: float | None = Field(None, gt=0, le=1, description="Share of the samples to choose.")
    samples: int | None = Field(None, ge=1, description="Samples to choose, in place of --ratio.")
    at_least: float | None = Field(None, description="Choose none with a lower score.", allow_inf_nan=False)
    at_most: float | None = Field(None, description="Choose none with a higher score.", allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, description="Seed of random, stratified and prune; without it 0.")


class VerifySettings(Record):
    """Everything `verify` is told."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to check.")
    repair: bool = Field(False, description="Drop what is broken, so that the dump command makes only that again.")
    against_teacher: Model | None = Field(
        None, description="Also ask this teacher again about a share of the samples, and compare."
    )
    share: float = Field(0.01, gt=0, le=1, description="Share of the samples to ask the teacher about again.")
    seed: int = Field(0, ge=0, description="Seed of the choice of those samples.")
    device: str = Field("auto", description="Where the teacher runs: auto, cpu, cuda, cuda:1, mps.")
    images: str | None = Field(
        None,
        description="Where the images that it is asked about are, if not where they were when the cache was made.",
    )


class InspectSettings(Record):
    """Everything `inspect` is told."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to look at.")
    sample: int | None = Field(None, ge=0, description="Show the teacher's view of this sample, token by token.")
    tokens: int = Field(40, ge=1, description="Most tokens of the sample to show.")
    top: int = Field(3, ge=0, description="Alternatives to show for each token.")
