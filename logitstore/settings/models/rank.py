"""The settings of `rank`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from logitstore.settings.fields import POSITIONAL, CommandLine, Model, Place
from logitstore.settings.image import StudentsImages
from logitstore.settings.stores.local_cache import LocalCacheChoices
from logitstore.settings.trust import TrustChoice

ScoreName = Literal["kl", "relations", "diswot_rows", "diswot_classes"]
"""A score of a student that is not trained; of each, less is better."""


class RankSettings(StudentsImages, TrustChoice, LocalCacheChoices):
    """The settings of `rank`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache that the students would learn from.")
    student: list[Model] = Field(
        [],
        description="A student to compare: a local folder or hub name. Give it several times for several students.",
    )
    fresh: list[str] = Field(
        [],
        examples=["layers=N,hidden_size=N"],
        description="A fresh student to compare, shaped like the teacher except for layers, hidden_size, intermediate_size, "
        "heads and kv_heads, such as layers=2,hidden_size=64. Give it several times for several students.",
    )
    score: list[ScoreName] | None = Field(
        None,
        description="A score to compute, of the student as it is: its KL to the teacher (kl), how its relations in the last "
        "attention layer differ from the teacher's (relations, AutoDistil), or how unlike the relations of rows and of classes "
        "are (diswot_rows, diswot_classes). Give it several times for several scores. Default: all that the cache serves.",
    )
    samples: int = Field(64, ge=1, description="Samples of the cache by which students are scored.")
    steps: int = Field(
        50, ge=0, description="Steps of a short training of each student, after which its KL is measured; 0 for none."
    )
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate of the short trainings.")
    batch_size: int = Field(8, ge=1, description="Samples in a batch, of scores and of the short trainings.")
    holdout: float = Field(
        0.05, ge=0, lt=1, description="Share of the documents, or images, on which the short trainings are judged."
    )
    device: Annotated[Literal["auto", "cpu"], CommandLine()] = Field(
        "auto", description="auto uses a GPU if there is one."
    )
    seed: int = Field(0, ge=0, description="Seed of fresh weights and of the order of the samples.")
