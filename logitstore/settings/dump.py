"""The settings of `dump`, `plan` and `add`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from logitstore.core.record import Record
from logitstore.core.tasks import TASKS
from logitstore.settings.fields import DUMP_ONLY, POSITIONAL, RECIPE_ONLY, Model, Place, TaskName
from logitstore.settings.image import ImagesPlace, ViewChoices
from logitstore.settings.row import RowChoices, TapChoices


class TeacherSettings(Record):
    """What `plan` and `dump` are both told: whom to ask, and about what."""

    task: Annotated[TaskName, DUMP_ONLY] = Field(
        "causal-lm",
        description="What the teacher answers: the next token of texts, or the class of images. Installed packages may add "
        "tasks.",
        examples=list(TASKS),
    )
    teacher: Model = Field(description="The model to ask: a local folder, a hub name, or folder::file.gguf.")
    data: str = Field(
        description="The documents: a file (json, jsonl, parquet, csv, txt), a glob, a folder or a hub data set. Or the "
        "images: a folder, tars in the form of WebDataset, or a data set with a column of images."
    )
    out: Place = Field(description="The cache to write. One that this command began is gone on with.")
    split: str = Field("train", description="Split of the data set.")
    column: str | None = Field(
        None, description="Column to read: text, or chats. Without it: 'messages', else 'text'; of images the only one."
    )
    domain_column: str | None = Field(None, description="Column that says where a document comes from.")
    limit: int | None = Field(None, ge=1, description="Use only the first N documents.")
    max_length: int = Field(1024, ge=2, description="Most tokens in a sample; longer documents are cut into windows.")
    overlap: int | None = Field(
        None,
        ge=0,
        description="Tokens that neighbouring windows share, as context. "
        "Without it: 128, or an eighth of --max-length if less.",
    )
    dtype: Literal["bfloat16", "float32", "float16"] = Field(
        "bfloat16", description="Number format of the teacher's weights and logits."
    )
    device: str = Field("auto", description="Where the teacher runs: auto, cpu, cuda, cuda:1, mps.")
    samples_per_part: Annotated[int | None, DUMP_ONLY] = Field(
        None,
        ge=1,
        description="Samples in a part, the unit of writing and resuming. Without it 1,024 texts, or 8,192 views of images.",
    )
    batch_tokens: int = Field(2048, ge=1, description="Most tokens the teacher sees at once, padding included.")


class DumpSettings(TeacherSettings, ViewChoices, RowChoices, TapChoices):
    """Everything `dump` is told."""

    pilot_rows: Annotated[int, RECIPE_ONLY] = Field(
        12288,
        ge=1,
        description="Rows, spread over the data, from which prior and sketch are fitted before the first part.",
    )
    fidelity_rows: int = Field(
        2000, ge=0, description="Rows, spread over the data, on which what is stored is compared with the teacher."
    )
    parts: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Write only these parts, such as 0-99,120. Other processes may write the others at the same time.",
    )
    resume: bool = Field(
        True, description="Go on with a cache that this command began; --no-resume refuses one that exists."
    )


class PilotSettings(TeacherSettings):
    """Everything `plan` is told: what the dump would be told, and how much to try."""

    pilot_samples: int = Field(
        300, ge=2, description="Most samples, spread over the data, that the teacher is asked about."
    )
    minutes: float = Field(2.0, gt=0, description="Stop asking after this many minutes.")
    epochs: float = Field(
        1.0, gt=0, description="Passes that each student makes, for the comparison with a live teacher."
    )


class AddSettings(TapChoices, ImagesPlace):
    """Everything `add` is told."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to add to.")
    views: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        pattern=r"^\s*\d{1,6}(\s*-\s*\d{1,6})?\s*$",
        description="Also ask about these views of the images, from 0, such as 10-19.",
    )
    workers: int = Field(2, ge=1, description="Threads that read images and make their views.")
    teacher: Model | None = Field(
        None, description="The cache's teacher, where it is not to be found under the name that the cache knows."
    )
    device: str = Field("auto", description="Where the teacher runs: auto, cpu, cuda, cuda:1, mps.")
    pilot_rows: int = Field(
        12288, ge=1, description="Rows, spread over the cache, from which int8 and pca-N are fitted."
    )
    parts: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Write only these parts, such as 0-99,120. Other processes may write the others at the same time.",
    )
