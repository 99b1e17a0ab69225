"""The settings of `dump`, `plan`, `prepare` and `add`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from logitstore.core.record import Record
from logitstore.core.tasks import TASKS, is_task, task_of
from logitstore.settings.data.labelled import PairChoices, PoolingChoices
from logitstore.settings.data.masked import MaskChoices
from logitstore.settings.fields import (
    POSITIONAL,
    RECIPE_ONLY,
    ColumnNames,
    FilePath,
    Model,
    NamedValues,
    PartSize,
    Place,
    Positions,
    TaskName,
)
from logitstore.settings.image import ImagesPlace, ViewChoices
from logitstore.settings.models.engine import EngineChoices, PriceChoice, ServingChoices
from logitstore.settings.models.placing import PlacementChoices
from logitstore.settings.row import RowChoices, TapChoices
from logitstore.settings.sources import Sources
from logitstore.settings.stores.local_cache import LocalCacheChoices
from logitstore.settings.trust import TrustChoice


class DataSettings(TrustChoice, EngineChoices):
    """The teacher, whose tokenizer is taken, and the data of `prepare`, `plan` and `dump`."""

    teacher: Model = Field(
        description="The teacher: a local folder, a hub name, or folder::file.gguf. vllm:FOLDER has vLLM answer in this "
        "process, "
        "and http://HOST:PORT#MODEL with --engine a server."
    )
    data: Sources = Field(
        description="Documents: a file (json, jsonl, parquet, csv, txt), a glob, a folder or a hub data set; may be given "
        "several times, each with options behind it, such as math.jsonl,share=0.5,domain=math (share, limit, domain, split, "
        "column). Or images: a folder, tar files as WebDataset writes them, or a data set with a column of images."
    )
    split: str = Field("train", description="Split of the data set.")
    column: str | None = Field(
        None,
        description="Column with the texts, chats, token ids or images. Default: the first that is there of 'messages', "
        "'conversations', 'text', 'completion' beside 'prompt', 'output' beside 'instruction', and 'input_ids'; or the only "
        "column of images.",
    )
    end_token: bool = Field(
        False,
        description="End every text and every completion with the tokenizer's end-of-text token, so that students learn to "
        "stop.",
    )
    domain_column: str | None = Field(
        None,
        description="Column that names the domain (source) of each document. Of several --data, one without it is a domain by "
        "its own name.",
    )
    score_columns: ColumnNames | None = Field(
        None,
        examples=["NAME,NAME"],
        description="Columns with a number about each document, which are kept with its samples, such as reward,correct: for "
        "`select --score column:NAME`, and for objectives of `train` that compare or weight whole texts.",
    )
    group_column: str | None = Field(
        None,
        description="Column that says which documents belong together, such as the answers to one prompt: a text or a whole "
        "number.",
    )
    limit: int | None = Field(None, ge=1, description="Use only the first N documents of the data.")
    chat_template: FilePath | None = Field(
        None,
        description="Render chats with this template in place of the tokenizer's own: a Jinja file, or the chat_template.json "
        "of a model.",
    )
    template_arg: NamedValues | None = Field(
        None,
        examples=["NAME=VALUE"],
        description="Give this to the chat template, such as enable_thinking=false; may be given several times. The value is "
        "read as JSON; what is not JSON is taken as text. What a row of the data has in chat_template_kwargs overrides it.",
    )
    max_length: int = Field(
        1024,
        ge=2,
        description="Maximum number of tokens in a sample. Longer documents are cut into windows; of longer texts to classify "
        "the beginning is shown, and never more than the teacher has positions for.",
    )
    overlap: int | None = Field(
        None,
        ge=0,
        description="Tokens that neighbouring windows share, as context. "
        "Default: 128, or an eighth of --max-length if that is less.",
    )
    positions: Positions | None = Field(
        None,
        examples=["all", "assistant", "mask", "entropy:SHARE", "random:SHARE"],
        description="Positions that have a row. all: every token, also of chats and prompts. assistant, mask: what chats, "
        "masks and completions say, the default for them. entropy:0.2: of these, in each sample, the fifth where the "
        "teacher's entropy is highest; random:0.2: a random fifth. The gold tokens of the "
        "others count in `train` with --alpha below 1.",
    )
    prepared: FilePath | None = Field(
        None,
        description="Folder for prepared data: documents that are tokenised and cut into windows once. Several machines may "
        "share it. Default: below the cache of the library datasets.",
    )
    prepare_workers: int | None = Field(
        None,
        ge=1,
        description="Processes that tokenise. The data come out the same with any number. Default: the cores that this process "
        "may use.",
    )
    keep_tokens: bool = Field(
        True,
        description="Store the tokens of prepared data. --no-keep-tokens stores the places of the samples alone, and tokenises "
        "the documents of a part again when it is written.",
    )

    @property
    def source(self) -> str:
        """The one source of a task that takes no other."""
        return self.data if isinstance(self.data, str) else ", ".join(self.data)


class TaskChoice(Record):
    """The task, which is known before the data are looked at."""

    task: TaskName = Field(
        "causal-lm",
        description="What the teacher answers: the next token of texts, masked tokens of texts, the class of images or texts, "
        "or a vector of texts. Installed packages may add tasks.",
        examples=list(TASKS),
    )


class TeacherSettings(DataSettings, TaskChoice, ServingChoices, PlacementChoices):
    """The teacher, the data and the cache of `plan` and `dump`."""

    out: Place = Field(description="The cache to write. An interrupted run of the same command is resumed.")
    dtype: Literal["auto", "bfloat16", "float32", "float16"] = Field(
        "auto",
        description="Number format of the teacher's weights and logits. auto: for a new cache bfloat16 where the device "
        "computes in it, else float32; a cache that is continued keeps its own.",
    )
    quantization: Literal["as-is", "bitsandbytes-8bit", "bitsandbytes-4bit", "torchao-int8"] = Field(
        "as-is",
        description="Pack the teacher's weights while they are loaded. as-is: as they lie in its files, packed or not. What "
        "is packed answers a little differently, so a cache keeps to one way.",
    )
    samples_per_part: int | None = Field(
        None,
        ge=1,
        description="Samples in a part, the unit of writing and resuming, instead of --part-bytes.",
    )
    part_bytes: PartSize | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Size of a part with its taps, such as 64MB, from which the count of its samples follows. Default: 128MB, "
        "and no part larger than a 64th of all, but for those of 1,024 texts or 8,192 views. A cache that is continued keeps "
        "its own.",
    )
    batch_tokens: int = Field(
        2048, ge=1, description="Maximum number of tokens in one batch of the teacher, padding included."
    )
    packed: bool = Field(
        False,
        description="Show the teacher several samples in one line of a batch, in place of padding. They do not see each other. "
        "Larger batches gain most; see the quickstart.",
    )


class PrepareSettings(DataSettings):
    """The settings of `prepare`."""


class ProcessChoice(Record):
    """The settings of the commands that several processes can share, of one machine or of a cluster."""

    processes: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Processes that write parts at the same time, each with a teacher of its own: on a GPU for itself, or on "
        "its share of the cores. Default: 1; with --cluster, as many as there is room for.",
    )
    cluster: str | None = Field(
        None,
        pattern=r"^ray(://[^\s/]+)?$",
        examples=["ray", "ray://HOST:PORT"],
        description="Have the processes run on a cluster of Ray. ray: the one that RAY_ADDRESS names, or that this machine is "
        "part of, or one that is started on this machine.",
    )
    gpus_per_worker: float | None = Field(
        None,
        ge=0,
        le=1024,
        description="GPUs of each process on the cluster; 0.5 lets two share one. Default: 1 where the cluster has GPUs, else "
        "0.",
    )

    @property
    def is_shared(self) -> bool:
        """Whether other processes than this one write parts."""
        return self.cluster is not None or (self.processes or 1) > 1


class DumpSettings(
    TeacherSettings,
    PriceChoice,
    ViewChoices,
    PairChoices,
    PoolingChoices,
    MaskChoices,
    RowChoices,
    TapChoices,
    ProcessChoice,
):
    """The settings of `dump`."""

    @model_validator(mode="before")
    @classmethod
    def _with_what_the_task_keeps(cls, given: Any) -> Any:
        """Keep the feature that stands in place of a distribution, as float16, where a task has one."""
        task = given.get("task") if isinstance(given, dict) else None
        keeps = task_of(task).keeps if isinstance(task, str) and is_task(task) else None
        if keeps is None:
            return given
        wanted = {name: given.get(name) or usual for name, usual in (("hidden", keeps), ("tap_codec", "float16"))}
        return {**given, **wanted}

    pilot_rows: Annotated[int, RECIPE_ONLY] = Field(
        12288,
        ge=1,
        description="Rows, spread over the data, on which prior and sketch are fitted before the first part.",
    )
    fidelity_rows: int = Field(
        2000, ge=0, description="Rows, spread over the data, whose stored values are compared with the teacher."
    )
    parts: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Write only these parts, such as 0-99,120. Other processes may write the other parts at the same time.",
    )
    resume: bool = Field(
        True, description="Resume an interrupted run of the same command. --no-resume refuses a cache that exists."
    )


class PilotSettings(TeacherSettings, RowChoices, TapChoices):
    """The settings of `plan`: those of the dump that is planned, and how much to try. It has none about images."""

    pilot_rows: Annotated[int, RECIPE_ONLY] = Field(
        12288, ge=1, description="Maximum number of rows that priors and sketches are fitted on."
    )
    fidelity_rows: int = Field(2000, ge=1, description="Maximum number of rows that the presets are judged on.")
    parts: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Count the bytes and hours of these parts only, such as 0-99,120.",
    )
    resume: bool = Field(
        True, description="Plan also for a cache that is there and may be resumed. --no-resume refuses one."
    )

    pilot_samples: int = Field(
        300, ge=2, description="Maximum number of samples, spread over the data, that the teacher answers."
    )
    minutes: float = Field(2.0, gt=0, description="Stop after this many minutes.")
    epochs: float = Field(
        1.0, gt=0, description="Epochs that each student trains for, to compare the cost with that of a live teacher."
    )


class AddSettings(TapChoices, ImagesPlace, TrustChoice, PlacementChoices, ProcessChoice, LocalCacheChoices):
    """The settings of `add`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to add to.")
    views: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        pattern=r"^\s*\d{1,6}(\s*-\s*\d{1,6})?\s*$",
        description="Add these views of the images, counted from 0, such as 10-19.",
    )
    workers: int = Field(2, ge=1, description="Threads that read images and make their views.")
    teacher: Model | None = Field(
        None, description="The teacher of the cache, if it is no longer found under the name that the cache records."
    )
    pilot_rows: int = Field(12288, ge=1, description="Rows, spread over the cache, on which int8 and pca-N are fitted.")
    parts: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Write only these parts, such as 0-99,120. Other processes may write the other parts at the same time.",
    )
