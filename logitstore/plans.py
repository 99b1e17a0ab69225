"""What each command is told: validated values with their defaults. The descriptions are the command line's help."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from logitstore.errors import BadInput
from logitstore.methods import METHODS
from logitstore.record import Record
from logitstore.row_kinds import check_sparsifier, sparsifiers
from logitstore.schedule import WAYS, Schedule
from logitstore.tap_info import CODEC_PATTERN


def _scheduled(said: Any) -> Any:
    """A number as a number, also where it comes as text; a schedule as its text."""
    if not isinstance(said, (str, int, float)) or isinstance(said, bool):
        return said
    try:
        schedule = Schedule.of(said)
    except BadInput as error:
        raise ValueError(str(error)) from error
    return schedule.first if schedule.shape == "constant" else said


def _scheduled_or_balanced(said: Any) -> Any:
    return said if said == "balanced" else _scheduled(said)


def _a_share(value: float | str) -> float | str:
    low, high = Schedule.of(value).span
    if low < 0 or high > 1:
        raise ValueError("must be from 0 to 1")
    return value


def _above_zero(value: float | str) -> float | str:
    if Schedule.of(value).span[0] <= 0:
        raise ValueError("must be above 0")
    return value


def _not_negative(value: float | str) -> float | str:
    if value != "balanced" and Schedule.of(value).span[0] < 0:
        raise ValueError("must not be below 0")
    return value


Share = Annotated[float | str, BeforeValidator(_scheduled), AfterValidator(_a_share)]
Temperature = Annotated[float | str, BeforeValidator(_scheduled), AfterValidator(_above_zero)]
Weight = Annotated[float | str, BeforeValidator(_scheduled_or_balanced), AfterValidator(_not_negative)]
"""Numbers, or schedules by which they change over the run; a weight may also be "balanced"."""


Place = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]
"""A path; a leading ~ is a home, also in a recipe or behind --out=, where no shell has looked at it."""

Model = Annotated[str, AfterValidator(os.path.expanduser)]
"""A model's folder, likewise, or its hub name."""

Sparsifier = Annotated[str, AfterValidator(check_sparsifier)]
"""A kind of row by name: one of ours, which the field's examples list, or of an installed package."""


class TeacherPlan(Record):
    """What `plan` and `dump` are both told: whom to ask, and about what."""

    task: Literal["causal-lm", "image-classification"] = Field(
        "causal-lm", description="What the teacher answers: the next token of texts, or the class of images."
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
    samples_per_part: int | None = Field(
        None,
        ge=1,
        description="Samples in a part, the unit of writing and resuming. Without it 1,024 texts, or 8,192 views of images.",
    )
    batch_tokens: int = Field(2048, ge=1, description="Most tokens the teacher sees at once, padding included.")


class RowChoices(Record):
    """What `dump` and `recode` may be told about a row, besides a preset; None leaves it to that."""

    sparsifier: Sparsifier | None = Field(
        None, description="What is kept of a row, if not what the preset says.", examples=sparsifiers()
    )
    k: int | None = Field(None, ge=1, description="Tokens listed per row, if not as many as the preset says.")
    top_p: float | None = Field(None, gt=0, le=1, description="Mass after which topp stops listing; without it 0.95.")
    draws: int | None = Field(None, ge=1, le=255, description="Tokens drawn per row (sampled, hybrid); without it 12.")
    exponent: float | None = Field(
        None, gt=0, le=2, description="Draw in proportion to p to this power (sampled, hybrid); without it 1."
    )
    tail: Literal["sketch", "prior", "uniform", "none"] | None = Field(
        None,
        description="How the mass outside the listed tokens is spread: each row's own way (sketch), like one vector for all "
        "rows (prior), evenly (uniform), or not at all, the listed tokens renormalised (none).",
    )
    sketch_bytes: int | None = Field(None, ge=1, le=4096, description="Bytes a row for the sketch of its tail.")
    logprobs: Literal["float32", "float16", "levels-8", "levels-6", "levels-5"] | None = Field(
        None, description="How listed logprobs are stored."
    )
    tail_mass: Literal["float32", "log2-16", "log2-8"] | None = Field(
        None, description="How the mass of the tail is stored."
    )
    layout: Literal["mapped", "archive"] | None = Field(
        None, description="Bare bytes to map into memory, or compressed chunks to keep."
    )

    def choices(self) -> dict[str, Any]:
        """The settings of a row by name, None where nothing was said."""
        return {name: getattr(self, name) for name in RowChoices.model_fields}


class TapChoices(Record):
    """What `dump` and `add` may be told about features of the teacher that are kept beside its answers."""

    hidden: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Also keep these hidden states of the teacher: layers such as 4,8-12,final, or all. 0 is the embedding, "
        "final what the output layer takes.",
    )
    qkv: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Also keep queries, keys and values of these decoder layers, from 1, such as 4,30, or all.",
    )
    tap_codec: str | None = Field(
        None,
        pattern=CODEC_PATTERN,
        description="How --hidden and --qkv are stored: bfloat16, float16, float32, int8, or pca-N, their N main directions; "
        "without it bfloat16.",
    )


class ViewChoices(Record):
    """What `dump` is told about images."""

    views: int = Field(1, ge=1, le=100_000, description="Views of each image: what a student sees in so many epochs.")
    augment: str | None = Field(
        None,
        description="What makes one view unlike another: names with their options, such as "
        "crop:scale=0.2-1,flip,jitter:hue=0,randaugment,erase,mixup,cutmix. Without it every view is the image as the "
        "teacher's processor takes it.",
    )
    image_size: int | None = Field(
        None, ge=1, le=4096, description="Edge of a view in pixels, where it is not what the teacher's processor says."
    )
    seed: int = Field(0, ge=0, lt=1 << 63, description="Seed of the views.")
    label_column: str | None = Field(
        None,
        description="Column of the classes, where it is not found by itself; a folder's classes are its subfolders.",
    )
    key_column: str | None = Field(None, description="Column that names the images; without it they are numbered.")
    labels: bool = Field(True, description="Keep the labels that the data have; --no-labels leaves them out.")
    classes: str | None = Field(
        None,
        description="Names of the classes, separated by commas, for teachers that compare images with texts (CLIP).",
    )
    prompt: str | None = Field(
        None,
        description="The text that names a class to such a teacher; {} is the name. Without it 'a photo of a {}.'.",
    )
    batch_images: int = Field(32, ge=1, description="Images the teacher sees at once.")
    workers: int = Field(2, ge=1, description="Threads that read images and make their views.")


class DumpPlan(TeacherPlan, RowChoices, TapChoices, ViewChoices):
    """Everything `dump` is told."""

    preset: Literal["small", "faithful", "exact", "topk", "sampled", "archive", "scores"] | None = Field(
        None,
        description="How to keep a row: small and faithful need the teacher's hidden states, exact keeps them, topk needs "
        "its logits only, sampled keeps random draws, archive is small in compressed chunks, scores keeps no row, only how "
        "probable the teacher found each sample. Without it small; topk for images of up to 16 classes.",
    )
    pilot_rows: int = Field(
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


class PilotPlan(TeacherPlan):
    """Everything `plan` is told: what the dump would be told, and how much to try."""

    pilot_samples: int = Field(
        300, ge=2, description="Most samples, spread over the data, that the teacher is asked about."
    )
    minutes: float = Field(2.0, gt=0, description="Stop asking after this many minutes.")
    epochs: float = Field(
        1.0, gt=0, description="Passes that each student makes, for the comparison with a live teacher."
    )


class RecodePlan(RowChoices):
    """Everything `recode` is told."""

    cache: Place = Field(description="The cache to make another one from.")
    out: Place = Field(description="The cache to write. One that this command began is gone on with.")
    preset: Literal["small", "faithful", "exact", "topk", "sampled", "archive"] | None = Field(
        None,
        description="How to keep a row; without it as in the source, but for the options given. Hidden states can become "
        "anything; rows of listed tokens only something smaller.",
    )
    pilot_rows: int = Field(12288, ge=1, description="Rows of the source from which a prior or sketch is fitted.")


class MergePlan(RowChoices):
    """Everything `merge` is told."""

    caches: list[Place] = Field(
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
    pilot_rows: int = Field(12288, ge=1, description="Rows of the mean from which a prior is fitted.")

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


class ImagesPlace(Record):
    """What every command that reads a cache's images again may be told of them."""

    images: str | None = Field(
        None,
        description="Where the images are, if not where they were when the cache was made (caches of images only).",
    )


class StudentsImages(ImagesPlace):
    """What the commands that show them to a student may be told."""

    image_size: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Edge of the views in pixels: the teacher's crops at another resolution. Without it what the student's "
        "configuration or image processor says, or the teacher's.",
    )


class AddPlan(TapChoices, ImagesPlace):
    """Everything `add` is told."""

    cache: Place = Field(description="The cache to add to.")
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


class SidecarPlan(Record):
    """Everything `sidecar` is told."""

    cache: Place = Field(description="The cache to go through.")
    of: Literal["perplexity", "means", "pca"] = Field(
        "perplexity",
        description="The teacher's perplexity on each domain; or of a tap the mean of every channel and before every token, "
        "or its main directions.",
    )
    tap: str = Field("final", description="The tap that means and pca are of.")


class SelectPlan(Record):
    """Everything `select` is told."""

    cache: Place = Field(description="The cache to choose from; one of the preset scores will do for most methods.")
    reference: Place | None = Field(
        None, description="A cache of the same samples by a smaller model, for the difference of the two."
    )
    out: Place = Field(description="The selection file to write.")
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


class TermPlan(Record):
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


class TrainPlan(StudentsImages):
    """Everything `train` is told."""

    cache: Place = Field(description="The cache to learn from.")
    student: Model | list[Model] | None = Field(
        None,
        description="The model to train: a local folder or hub name. Without it: a fresh one, shaped like the teacher "
        "but for --layers, --hidden-size, ... Given several times, all are trained on the same batches, into folders of --out.",
    )
    out: Place = Field(description="Folder for the trained student and its checkpoints.")
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
    options: dict[str, Any] = Field({}, description="Options of the objective, by name (recipe files only).")
    terms: list[TermPlan] = Field(
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
    select: Place | None = Field(
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
    trainer: dict[str, Any] = Field({}, description="Further TrainingArguments, by name (recipe files only).")

    @property
    def students(self) -> list[str]:
        """All that are named."""
        return [self.student] if isinstance(self.student, str) else self.student or []

    @field_validator("student")
    @classmethod
    def _one_or_several(cls, value: str | list[str] | None) -> str | list[str] | None:
        return (value[0] if len(value) == 1 else value or None) if isinstance(value, list) else value


class EvaluatePlan(StudentsImages):
    """Everything `evaluate` is told."""

    cache: Place = Field(description="The cache to compare with.")
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


class VerifyPlan(Record):
    """Everything `verify` is told."""

    cache: Place = Field(description="The cache to check.")
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


class InspectPlan(Record):
    """Everything `inspect` is told."""

    cache: Place = Field(description="The cache to look at.")
    sample: int | None = Field(None, ge=0, description="Show the teacher's view of this sample, token by token.")
    tokens: int = Field(40, ge=1, description="Most tokens of the sample to show.")
    top: int = Field(3, ge=0, description="Alternatives to show for each token.")


PLANS: dict[str, type[Record]] = {
    "plan": PilotPlan,
    "dump": DumpPlan,
    "add": AddPlan,
    "recode": RecodePlan,
    "merge": MergePlan,
    "inspect": InspectPlan,
    "verify": VerifyPlan,
    "select": SelectPlan,
    "sidecar": SidecarPlan,
    "train": TrainPlan,
    "evaluate": EvaluatePlan,
}
"""What each command is told, by its name."""
