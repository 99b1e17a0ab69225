"""The settings of `evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from logitstore.settings.data.contexts import ContextChoice
from logitstore.settings.fields import POSITIONAL, FilePath, Model, Place
from logitstore.settings.image import StudentsImages
from logitstore.settings.stores.local_cache import LocalCacheChoices
from logitstore.settings.trust import TrustChoice


class EvaluateSettings(ContextChoice, StudentsImages, TrustChoice, LocalCacheChoices):
    """The settings of `evaluate`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to compare with.")
    student: Model = Field(
        description="The student: a local folder or hub name, of a model or of an adapter (LoRA), or folder::file.gguf."
    )
    samples: Literal["heldout", "all"] = Field(
        "heldout", description="Evaluate on the samples that `train` held out with the same --holdout, or on all."
    )
    holdout: float = Field(0.05, gt=0, lt=1, description="Share of the documents, or images, that `train` held out.")
    text: bool = Field(
        False,
        description="Evaluate on the text alone, tokenised again with the student's own tokenizer, so that students with "
        "different tokenizers can be compared per byte.",
    )
    figures: FilePath | None = Field(
        None,
        description="Also write what the student does on each sample to this file of JSON lines, which `select --figures` "
        "reads. Not with --text.",
    )
    batch_size: int = Field(8, ge=1, description="Samples in a batch.")
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = Field(
        "auto",
        description="Number format of the student's weights. auto is bfloat16 where the device computes in it, else float32.",
    )
    device: str = Field("auto", description="Where the student runs: auto, cpu, cuda, cuda:1, mps.")
