"""The settings of `inspect`, `verify` and `select`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from logitstore.core.registry import suggest
from logitstore.settings.fields import POSITIONAL, FilePath, Model, Place
from logitstore.settings.models.engine import ServingChoices
from logitstore.settings.models.placing import PlacementChoices
from logitstore.settings.stores.local_cache import LocalCacheChoices
from logitstore.settings.trust import TrustChoice

COLUMN, FIGURE = "column:", "figure:"
"""Begin the name of a score that the data gave, and of one that --figures has."""

SCORES = ("nll", "entropy", "confidence", "rows", "tokens")
"""The scores that follow from the teacher's answers and the size of a sample."""


Methods = Literal[
    "difference", "top", "bottom", "random", "stratified", "per-class", "coreset", "llkd", "robust", "prune"
]


def _a_score(name: str) -> str:
    named = any(name.startswith(kind) and name != kind for kind in (COLUMN, FIGURE))
    if name not in SCORES and not named:
        raise ValueError(f"no score is called so. {suggest(name, [*SCORES, COLUMN + 'NAME', FIGURE + 'NAME'])}")
    return name


class SelectSettings(LocalCacheChoices):
    """The settings of `select`."""

    cache: Annotated[Place, POSITIONAL] = Field(
        description="The cache to choose from. The preset scores is enough for most methods."
    )
    reference: Place | None = Field(
        None, description="A cache of the same samples by a smaller model, for the method difference."
    )
    out: FilePath = Field(description="The selection file to write.")
    method: Methods = Field(
        "difference",
        description="Which samples to choose: those that the teacher finds more probable than the reference does (difference), "
        "those with the highest or lowest score (top, bottom), random ones (random), the same share of every domain "
        "(stratified), those with the highest score of every class that the teacher answers (per-class), those whose answers "
        "lie far from each other (coreset), those that the teacher is sure about (llkd), those that the student is unsure "
        "about, even if some answers are wrong (robust), or random ones with a fitting weight of the objective (prune).",
    )
    score: Annotated[str, AfterValidator(_a_score)] | None = Field(
        None,
        examples=["nll", "entropy", "confidence", "rows", "tokens", "column:NAME", "figure:NAME"],
        description="Score by which top, bottom, stratified and per-class rank, and which --at-least and --at-most bound: a "
        "mean over the rows of a sample, its size, with column:NAME what --score-columns of `dump` kept of the data, or with "
        "figure:NAME what --figures says. Default: nll for top, bottom and per-class.",
    )
    figures: FilePath | None = Field(
        None,
        description="What a student does on each sample, from `evaluate --figures`; or any file of JSON lines with `sample` "
        "and numbers. For --score figure:NAME, and for llkd, which then also asks that the student be unsure.",
    )
    ratio: float | None = Field(None, gt=0, le=1, description="Share of the samples to choose.")
    samples: int | None = Field(None, ge=1, description="Number of samples to choose, instead of --ratio.")
    at_least: float | None = Field(None, description="Choose no sample with a lower score.", allow_inf_nan=False)
    at_most: float | None = Field(None, description="Choose no sample with a higher score.", allow_inf_nan=False)
    seed: int | None = Field(
        None, ge=0, description="Seed of random, stratified, coreset, robust and prune. Default: 0."
    )
    wrong: float | None = Field(
        None, ge=0, lt=1, description="Share of the teacher's answers that may be wrong, for the method robust."
    )


class VerifySettings(TrustChoice, ServingChoices, PlacementChoices, LocalCacheChoices):
    """The settings of `verify`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to check.")
    repair: bool = Field(
        False, description="Remove what is broken. The command that wrote it then writes only that again."
    )
    against_teacher: Model | None = Field(
        None, description="Also run this teacher on a share of the samples, and compare its answers with the cache."
    )
    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Check this share of the parts only, spread over all of them. With --against-teacher: share of the samples "
        "that it is asked about. Default: all parts, and 0.01 of the samples, at least eight of them.",
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        description="How far the logprobs of --against-teacher may be from the stored ones, in nats. Default: three times as "
        "far as the teacher is from itself in other batches, at least 0.001. Another engine than that of the dump needs more.",
    )
    seed: int = Field(0, ge=0, description="Seed of the choice of these parts or samples.")
    workers: int | None = Field(
        None,
        ge=1,
        description="Processes that check parts. Others are started only where the work is long. Default: the cores that this "
        "process may use.",
    )
    resume: bool = Field(
        True,
        description="Take over what an interrupted run found whole and nothing has changed since. --no-resume checks all.",
    )
    images: str | None = Field(
        None,
        description="Folder or data set with the images that --against-teacher needs, if they have moved since the dump.",
    )


class InspectSettings(LocalCacheChoices):
    """The settings of `inspect`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to look at.")
    sample: int | None = Field(None, ge=0, description="Show the teacher's answers for this sample, token by token.")
    tokens: int = Field(40, ge=1, description="Maximum number of tokens of the sample to show.")
    top: int = Field(3, ge=0, description="Alternatives to show for each token, or first channels of a vector.")
