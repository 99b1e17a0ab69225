"""The settings of `train`, `evaluate` and `sidecar`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from logitstore.core.methods import METHODS
from logitstore.core.record import Record
from logitstore.core.schedule import WAYS
from logitstore.settings.fields import POSITIONAL, RECIPE_ONLY, FilePath, Model, Place, Share, Temperature, Weight
from logitstore.settings.image import StudentsImages


class SidecarSettings(Record):
    """Everything `sidecar` is told."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to go through.")
    of: Literal["perplexity", "means", "pca"] = Field(
        "perplexity",
        description="The teacher's perplexity on each domain; or of a tap the mean of every channel and before every token, "
        "or its main directions.",
    )
    tap: str = Field("final", description="The tap that means and pca are of.")


class TermSettings(Record):
    """One more pull that is added to the loss.

    Attributes:
        name: of the objective.
        weight: of it in the sum; "balanced" makes a pull on features as heavy as those on logits together.
        temperature: of a pull on logits.
        options: of the objective.
    """

    name: str
    weight: Weight = 1.0
    temperature: Temperature = 1.0
    options: dict[str, Any] = Field({})


class TrainSettings(StudentsImages):
    """Everything `train` is told."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to learn from.")
    student: Model | list[Model] | None = Field(
        None,
        description="The model to train: a local folder or hub name. Without it: a fresh one, shaped like the teacher "
        "but for --layers, --hidden-size, ... Given several times, all are trained on the same batches, into folders of --out.",
    )
    out: FilePath = Field(description="Folder for the trained student and its checkpoints.")
    copy_layers: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Keep only these decoder layers of --student: numbers such as 0,6,12, or how many, such as 5.",
    )
    prune: bool = Field(
        False,
        description="Make --student as narrow as --hidden-size, --intermediate-size, --heads and --kv-heads say, and keep what "
        "is most active on the cache's text.",
    )
    prune_samples: int | None = Field(
        None, ge=1, description="Samples of the cache by which --prune judges; without it 256."
    )
    layers: int | None = Field(None, ge=1, description="Decoder layers of a fresh student.")
    hidden_size: int | None = Field(None, ge=1, description="Width of a fresh or pruned student.")
    intermediate_size: int | None = Field(None, ge=1, description="Width of a fresh or pruned student's MLP.")
    heads: int | None = Field(None, ge=1, description="Attention heads of a fresh or pruned student.")
    kv_heads: int | None = Field(None, ge=1, description="Key-value heads of a fresh or pruned student.")
    alpha: Share = Field(
        1.0,
        description="Weight of the objective; cross-entropy on the gold tokens has the rest. 0: gold tokens only. "
        f"It is {WAYS}.",
    )
    objective: str = Field(
        "forward_kl",
        description=f"What pulls the student towards the teacher: {', '.join(METHODS)}; or none, where `terms` of a recipe do.",
    )
    temperature: Temperature = Field(1.0, description="Temperature of the objective; a number or a schedule.")
    options: Annotated[dict[str, Any], RECIPE_ONLY] = Field(
        {}, description="Options of the objective, by name (recipe files only)."
    )
    terms: Annotated[list[TermSettings], RECIPE_ONLY] = Field(
        [],
        description="Further pulls that are added to the loss: name, weight, temperature, options (recipe files only).",
    )
    strict: bool = Field(
        False, description="Refuse a cache that gives the objective only a bound, an estimate or an approximation."
    )
    epochs: float = Field(1.0, gt=0, description="Passes over the training samples.")
    max_steps: int = Field(-1, ge=-1, description="Stop after this many optimizer steps instead; -1 goes by --epochs.")
    batch_size: int = Field(8, ge=1, description="Samples in a batch, on each device.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are summed before a step.")
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate.")
    scheduler: str = Field("cosine", description="Learning-rate schedule, by its transformers name.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Number format of the forward and backward pass; the weights stay float32."
    )
    device: Literal["auto", "cpu"] = Field("auto", description="auto takes a GPU where there is one.")
    packed: bool = Field(
        False, description="Lay several samples into one line instead of padding each; they do not see each other."
    )
    holdout: float = Field(
        0.05, ge=0, lt=1, description="Share of the documents, or images, kept out for evaluation; 0 keeps none."
    )
    select: FilePath | None = Field(
        None, description="Train on the samples of this selection only (see select), but for those held out."
    )
    views: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Views to learn from, such as 0-9, one an epoch in this order, again and again; without it all.",
    )
    views_per_step: int = Field(
        1, ge=1, description="Views of an image that come together; an epoch then takes so many of each image."
    )
    text: bool = Field(
        False,
        description="Train on the text alone, encoded anew by the student's own tokenizer, whichever it is; needs --alpha 0.",
    )
    curriculum: Literal["easy-first", "hard-first", "cyclical"] | None = Field(
        None,
        description="Order by the teacher's nll: easy or hard samples first, in the first epoch, or in cycles of epochs that "
        "read only the easier ones. Without it all are mixed.",
    )
    curriculum_start: float | None = Field(
        None, gt=0, le=1, description="Share of the samples that a curriculum begins with; without it 0.25."
    )
    reweight_domains: int | None = Field(
        None,
        ge=1,
        description="After every so many steps, look at the student on held-out samples of each domain, and read those more "
        "often on which it is further behind its teacher (DDK). Not with --text, --curriculum, --prune or several --student.",
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="Evaluate after every so many steps; without it, four times a run."
    )
    save_every: int | None = Field(
        None, ge=1, description="Keep a checkpoint after every so many steps; without it, after each epoch."
    )
    resume: bool = Field(False, description="Go on from the last checkpoint in --out.")
    workers: int = Field(1, ge=0, description="Threads that prepare batches ahead.")
    seed: int = Field(0, ge=0, description="Seed of the order of the samples and of fresh weights.")
    trainer: Annotated[dict[str, Any], RECIPE_ONLY] = Field(
        {}, description="Further TrainingArguments, by name (recipe files only)."
    )

    @property
    def students(self) -> list[str]:
        """All that are named."""
        return [self.student] if isinstance(self.student, str) else self.student or []

    @field_validator("student")
    @classmethod
    def _one_or_several(cls, value: str | list[str] | None) -> str | list[str] | None:
        return (value[0] if len(value) == 1 else value or None) if isinstance(value, list) else value


class EvaluateSettings(StudentsImages):
    """Everything `evaluate` is told."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to compare with.")
    student: Model = Field(description="The student: a local folder, a hub name, or folder::file.gguf.")
    samples: Literal["heldout", "all"] = Field(
        "heldout", description="Judge on the samples that `train` kept out with the same --holdout, or on all."
    )
    holdout: float = Field(0.05, gt=0, lt=1, description="Share of the documents, or images, that `train` kept out.")
    text: bool = Field(
        False,
        description="Judge on the text alone, encoded anew by the student's own tokenizer: the figures of students with "
        "different tokenizers can then be compared per byte.",
    )
    batch_size: int = Field(8, ge=1, description="Samples in a batch.")
    dtype: Literal["bfloat16", "float32", "float16"] = Field(
        "float32", description="Number format of the student's weights."
    )
    device: str = Field("auto", description="Where the student runs: auto, cpu, cuda, cuda:1, mps.")
