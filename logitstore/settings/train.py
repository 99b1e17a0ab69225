"""The settings of `train` and `sidecar`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from logitstore.core.methods import METHODS
from logitstore.core.record import Record
from logitstore.core.schedule import RULES, WAYS
from logitstore.settings.data.contexts import ContextChoice
from logitstore.settings.fields import (
    POSITIONAL,
    RECIPE_ONLY,
    CommandLine,
    FilePath,
    Model,
    NamedValues,
    Place,
    Share,
    Temperature,
    Weight,
)
from logitstore.settings.image import StudentsImages
from logitstore.settings.models.hook import HookText
from logitstore.settings.models.lora import LoraText
from logitstore.settings.stores.local_cache import LocalCacheChoices
from logitstore.settings.trust import TrustChoice


class SidecarSettings(LocalCacheChoices):
    """The settings of `sidecar`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to read.")
    of: Literal["perplexity", "means", "pca"] = Field(
        "perplexity",
        description="The teacher's perplexity on each domain (perplexity), the mean of a tap for every channel and before "
        "every token (means), or the main directions of a tap (pca).",
    )
    tap: str = Field("final", description="The tap that means and pca read.")


class TermSettings(Record):
    """A further objective that is added to the loss.

    Attributes:
        name: the objective.
        weight: its weight in the sum. "balanced" gives an objective on features the same weight as all those on logits.
        temperature: the temperature of an objective on logits.
        options: the options of the objective, by name.
        teacher: of an objective on features, whose it compares: 1 is the teacher of CACHE, 2 that of the first --also.
    """

    name: str
    weight: Weight = 1.0
    temperature: Temperature = 1.0
    options: dict[str, Any] = Field({})
    teacher: int = Field(1, ge=1)

    @model_serializer(mode="wrap")
    def _plain(self, plain_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the first teacher out, so that runs of older versions have the same plan."""
        plain: dict[str, Any] = plain_of(self)
        if self.teacher == 1:
            plain.pop("teacher", None)
        return plain


class TrainSettings(ContextChoice, StudentsImages, TrustChoice, LocalCacheChoices):
    """The settings of `train`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to learn from.")
    student: Model | list[Model] | None = Field(
        None,
        description="The model to train: a local folder or hub name. An adapter (LoRA) is trained on, and its model stays "
        "as it is. Default: a fresh one, shaped like the teacher except for --layers, --hidden-size, ... Several are "
        "trained on the same batches, each into a folder of --out.",
    )
    out: FilePath = Field(description="Folder for the trained student and its checkpoints.")
    copy_layers: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Keep only these decoder layers of --student: numbers such as 0,6,12, or a count such as 5.",
    )
    prune: bool = Field(
        False,
        description="Reduce --student to --hidden-size, --intermediate-size, --heads and --kv-heads, and keep the channels and "
        "heads that are most active on the text of the cache.",
    )
    prune_samples: int | None = Field(
        None, ge=1, description="Samples of the cache on which --prune measures activity. Default: 256."
    )
    keep_zeros: bool | None = Field(
        None,
        description="Weights of --student that are 0 stay 0. Default: on with a recipe for sparse students, such as "
        "squarehead or ast, if at least a quarter of the student's weights are 0.",
    )
    keep_zeros_from: Annotated[float | None, RECIPE_ONLY] = Field(
        None,
        gt=0,
        le=1,
        description="Share of zeros in a student's weights from which they are kept without --keep-zeros.",
    )
    lora: LoraText = Field(
        None,
        description="Train an adapter (LoRA) in place of the weights of --student, and save it for peft: its rank, scale, "
        "layers by the ends of their names, and dropout, such as r=16,alpha=32,targets=q_proj,v_proj,dropout=0. What is left "
        "out is r=16, alpha twice r, targets=all-linear (all linear layers, of a language model without the output layer), and "
        "no dropout.",
    )
    lora_merge: bool = Field(
        False,
        description="Save the whole model, with the adapter added to its weights, in place of the adapter alone.",
    )
    freeze: list[str] = Field(
        [],
        description="Weights that are not trained: a pattern with * and ? of their names, such as 'model.embed_tokens.*' or "
        "'model.layers.[0-3].*'. Give it several times for several patterns.",
    )
    recover_head: Literal["frozen", "trained"] | None = Field(
        None,
        description="Start the student's output layer from the teacher's answers alone, by a singular value decomposition of "
        "their logits, and keep it so (frozen) or train it on (trained). Needs a cache with the logits of every token.",
    )
    hooks: Annotated[list[HookText], CommandLine(flags=("--hook",))] = Field(
        [],
        description="A rule that the weights follow during training and as they are saved: quantise:bits=8 (few values in each "
        "channel), learned_levels:bits=4 (few values, which are learned), low_rank:rank=R (products of two factors), or one of "
        "another package. Options with commas between; give --hook several times for several hooks.",
    )
    layers: int | None = Field(None, ge=1, description="Decoder layers of a fresh student.")
    hidden_size: int | None = Field(None, ge=1, description="Width of a fresh or pruned student.")
    intermediate_size: int | None = Field(None, ge=1, description="Width of a fresh or pruned student's MLP.")
    heads: int | None = Field(None, ge=1, description="Attention heads of a fresh or pruned student.")
    kv_heads: int | None = Field(None, ge=1, description="Key-value heads of a fresh or pruned student.")
    alpha: Share = Field(
        1.0,
        description="Weight of the objective; cross-entropy on the gold tokens has the rest. 0 means gold tokens only. "
        f"It is {WAYS}.",
    )
    objective: str = Field(
        "auto",
        description=f"What the student minimises: {', '.join(METHODS)}; or none, if `terms` of a recipe replace it. auto: "
        "forward_kl; for texts at temperature 1, renormalised_kl where all rows have the same tail (prior, uniform).",
    )
    temperature: Temperature = Field(
        1.0,
        description="Temperature of the objective: a number or a schedule; or of each row, from the teacher's entropy, its "
        f"probability of the gold token or a score of the data from 0 to 1: {RULES}.",
    )
    score: str | None = Field(
        None,
        description="Score of the data that an objective on whole samples reads, such as dpo, redi or score_likelihood: a "
        "column that --score-columns of `dump` kept. Default: the only one.",
    )
    pairs: Literal["extremes", "all"] | None = Field(
        None,
        description="Pairs of a group that dpo, ipo, simpo and redi compare: its sample with the highest score and that with "
        "the lowest (extremes), or every two whose scores differ (all). Default: extremes.",
    )
    pooling: Literal["mean", "first"] | None = Field(
        None,
        description="How an encoder that ranks makes one vector of a text: the mean of its tokens, or the first one. Default: "
        "as it did before, or the mean.",
    )
    options: Annotated[dict[str, Any], RECIPE_ONLY] = Field({}, description="Options of the objective, by name.")
    terms: Annotated[list[TermSettings], RECIPE_ONLY] = Field(
        [],
        description="Further objectives that are added to the loss: name, weight, temperature, options.",
    )
    also: list[Place] = Field(
        [],
        description="A further cache of the same samples, by another teacher with the same vocabulary: the student learns from "
        "all at once. Give it several times for several caches.",
    )
    weights: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="What CACHE and each --also count in the objective: numbers such as 2,1 or schedules such as "
        "'linear(1,0),linear(0,1)', divided by their sum; or for each row in proportion to the teacher's probability of the "
        "gold token (gold), or to exp(-entropy) (entropy); or learned with the student: gate, gate:top=1 (of the teachers), "
        "geometry (of the teachers and the gold token, also of one cache alone). Default: all count alike.",
    )
    own_answers: int | None = Field(
        None,
        ge=1,
        description="Learn from what the student itself said of each row in the epoch before, in place of the teacher: its so "
        "many most probable tokens, kept in --out. In the first epoch the gold tokens stand in their place.",
    )
    strict: bool = Field(
        False, description="Refuse a cache that gives the objective only a bound, an estimate or an approximation."
    )
    epochs: float = Field(1.0, gt=0, description="Passes over the training samples.")
    max_steps: int = Field(-1, ge=-1, description="Stop after this many optimizer steps. -1 means --epochs decides.")
    batch_size: int = Field(8, ge=1, description="Samples in a batch, on each device.")
    accumulate: int = Field(1, ge=1, description="Batches whose gradients are summed before an optimizer step.")
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate.")
    learning_rate_batch: int | None = Field(
        None,
        ge=1,
        description="How many samples in an optimizer step --learning-rate is meant for. If a step of this run has twice as "
        "many, the learning rate is doubled, and so on. Default: --learning-rate is taken as it is.",
    )
    scheduler: str = Field("cosine", description="Learning-rate schedule, by its name in transformers.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay of AdamW.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the forward and backward pass; the weights stay float32. auto: for a new run "
        "bfloat16 where the device computes in it, else float32; a run that is resumed keeps its own.",
    )
    device: Literal["auto", "cpu"] = Field("auto", description="auto uses a GPU if there is one.")
    packed: bool = Field(
        False,
        description="Put several samples into one row of a batch instead of padding each. They do not see each other.",
    )
    holdout: float = Field(0.05, ge=0, lt=1, description="Share of the documents, or images, held out for evaluation.")
    select: FilePath | None = Field(
        None, description="Train only on the samples of this selection file (see select) that are not held out."
    )
    views: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Views to learn from, such as 0-9: one per epoch in this order, again and again. Default: all.",
    )
    views_per_step: int = Field(
        1, ge=1, description="Views of an image in one step. An epoch then has this many views of each image."
    )
    mix: float | None = Field(
        None,
        gt=0,
        description="Mix each image with another one of its batch, and the teacher's answers about the two alike, by a share "
        "from Beta(MIX, MIX); no teacher is asked about mixed images. Needs --alpha 1.",
    )
    text: bool = Field(
        False,
        description="Train on the text alone, tokenised again with the student's own tokenizer. Needs --alpha 0.",
    )
    curriculum: Literal["easy-first", "hard-first", "cyclical"] | None = Field(
        None,
        description="Order of the samples by the teacher's nll. The first epoch begins with the easiest samples (easy-first) "
        "or the hardest ones (hard-first); or each epoch reads only a share of the samples, the easiest, which grows and "
        "shrinks from epoch to epoch (cyclical). Default: a random order.",
    )
    curriculum_start: float | None = Field(
        None, gt=0, le=1, description="Share of the samples that a curriculum begins with. Default: 0.25."
    )
    window_parts: int | None = Field(
        None,
        ge=1,
        description="Read the parts in a random order, and mix samples only within so many parts that are read together; for "
        "caches larger than the folder they are read through. Not with --text, --curriculum or --reweight-domains. Default: "
        "all samples are mixed.",
    )
    reweight_domains: int | None = Field(
        None,
        ge=1,
        description="Every so many steps, evaluate the student on held-out samples of each domain, and read those domains more "
        "often in which it is further from its teacher (DDK). Not with --text, --curriculum, --prune or several --student.",
    )
    reweight_kind: Literal["perplexity", "nll"] | None = Field(
        None,
        description="What --reweight-domains compares of student and teacher: their perplexities, as DDK does, or their mean "
        "nll, which differs less. The ratio counts as 10 at most. Default: perplexity.",
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="Evaluate every so many steps. Default: four times in a run."
    )
    save_every: int | None = Field(
        None, ge=1, description="Save a checkpoint every so many steps. Default: after each epoch."
    )
    early_stopping: int | None = Field(
        None,
        ge=1,
        description="Stop when the best evaluation lies so many evaluations back, and save the student of the best one: that "
        "of the lowest KL to the teacher, or by metric_for_best_model of --set.",
    )
    keep_checkpoints: int | None = Field(
        None,
        ge=0,
        description="How many of the newest checkpoints stay, during training and after it. Default: two during training, the "
        "last one after it, so that --resume can go on with more steps. With 0 none stays once the student is saved.",
    )
    resume: bool = Field(False, description="Continue from the last checkpoint in --out.")
    fsdp: bool = Field(
        False,
        description="Each of several processes holds a piece of the student and of its optimizer (FSDP2), in place of the "
        "whole. Start them with torchrun.",
    )
    workers: int = Field(1, ge=0, description="Threads that prepare batches ahead.")
    seed: int = Field(0, ge=0, description="Seed of the order of the samples and of fresh weights.")
    report_to: list[str] | None = Field(
        None,
        description="Send the log to this tracker, such as tensorboard, wandb or mlflow; may be given several times.",
    )
    trainer: Annotated[NamedValues, CommandLine(flags=("--set",), adds=True)] = Field(
        {},
        examples=["NAME=VALUE"],
        description="Further TrainingArguments of transformers, such as max_grad_norm=0.5; may be given several times. In a "
        "recipe they are the section `trainer`, whose entries --set overrides one by one.",
    )

    @property
    def students(self) -> list[str]:
        """The students that are named, none for a fresh one."""
        return [self.student] if isinstance(self.student, str) else self.student or []

    @field_validator("student")
    @classmethod
    def _one_or_several(cls, value: str | list[str] | None) -> str | list[str] | None:
        return (value[0] if len(value) == 1 else value or None) if isinstance(value, list) else value
