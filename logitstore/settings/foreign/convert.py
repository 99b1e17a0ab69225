"""The settings of `convert` and `export`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from logitstore.settings.fields import POSITIONAL, ByteSize, CommandLine, FilePath, Model, Place
from logitstore.settings.foreign.formats import FORMATS, check_format
from logitstore.settings.stores.local_cache import LocalCacheChoices
from logitstore.settings.trust import TrustChoice

FormatName = Annotated[str, AfterValidator(check_format)]
"""A format by name: one of ours, which the field's examples list, or of an installed package."""


class ConvertSettings(TrustChoice):
    """The settings of `convert`."""

    source: Annotated[FilePath, POSITIONAL] = Field(description="What to read: a file, a glob or a folder.")
    out: Place = Field(
        description="The cache to write; of hidden states the cache that gets them. An interrupted run of the same command is "
        "resumed."
    )
    format: FormatName | None = Field(
        None,
        examples=list(FORMATS),
        description="What the source is. Default: told by its columns, or by its first bytes.",
    )
    tokenizer: Model | None = Field(
        None,
        description="The tokenizer whose ids the source has: a local folder, a hub name, or folder::file.gguf. "
        "Nothing else of a model is read. Needed for all formats but those of hidden states.",
    )
    teacher_name: str | None = Field(
        None, min_length=1, description="What the teacher is called, for people. Default: the name of the source."
    )
    columns: str | None = Field(
        None,
        description="Which columns hold what, such as tokens=input_ids,ids=top_ids,logprobs=top_logprobs. Roles: "
        "tokens, ids, one of "
        "logprobs, logits and probabilities, and if there are such gold (logprob of the token), mask (tokens to be learned) "
        "and samples (running number of the sample). Without ids a row has a value for every token. Default: columns "
        "named like the roles.",
    )
    rows_about: Literal["next", "same"] = Field(
        "next",
        description="What the row of a token is about: the token behind it, as models answer, or the token itself, as "
        "servers list "
        "the logprobs of a prompt.",
    )
    source_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Temperature at which the source's values were taken. Logits of any are undone; of logprobs and "
        "probabilities "
        "only 1 can be, because the mass outside of a list changes too.",
    )
    compression: FilePath | None = Field(
        None,
        description="DistillKit's configuration of the compression, as YAML. Default: compression_config.yaml beside the data.",
    )
    values: Literal["logprobs", "logits"] | None = Field(
        None,
        description="What DistillKit's values are. Default: logprobs, but for the first generation logits, whose mass "
        "outside of a "
        "list is not known.",
    )
    layers: str | None = Field(
        None,
        description="Which layers a source of hidden states has, such as 2,18,33,-: numbers of transformers' hidden_states, "
        "final for what goes into the output layer, - for one that is left out. Default: as the source says, where it does.",
    )
    tap_codec: Literal["bfloat16", "float16", "float32"] | None = Field(
        None, description="How hidden states are stored. Default: bfloat16."
    )
    split: str = Field("train", description="Split of the data set, where its files are named by splits.")
    k: Annotated[int | None, CommandLine(flags=("-k", "--k"))] = Field(
        None,
        ge=1,
        description="Tokens listed per row. Default: all of the source; of whole distributions over more than 64 tokens 16.",
    )
    tail: Literal["prior", "uniform", "none"] | None = Field(
        None,
        description="How the mass outside the listed tokens is spread: by one vector for all rows, fitted on whole "
        "distributions (prior), evenly (uniform), or not at all: the listed tokens are renormalised (none). Default: uniform "
        "where the source tells this mass.",
    )
    logprobs: Literal["float32", "float16", "levels-8", "levels-6", "levels-5"] = Field(
        "float16", description="How the logprobs of listed tokens are stored."
    )
    layout: Literal["mapped", "archive"] = Field(
        "mapped",
        description="How rows lie on disk: as bare bytes that can be mapped into memory, or as compressed chunks (archive).",
    )
    samples_per_part: int | None = Field(
        None, ge=1, description="Samples in a part, the unit of writing and resuming, instead of --part-bytes."
    )
    part_bytes: ByteSize | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Size of a part, such as 64MB, from which the count of its samples follows. Default: 128MB, and "
        "no part larger "
        "than a 64th of all, but for those of 1,024 samples.",
    )


class ExportSettings(LocalCacheChoices):
    """The settings of `export`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to read.")
    out: FilePath = Field(description="The folder to write. Parts that are there already are left as they are.")
    to: Literal["parquet"] = Field(
        "parquet", description="What to write: one Parquet file a part, with one record a sample."
    )
    k: Annotated[int | None, CommandLine(flags=("-k", "--k"))] = Field(
        None, ge=1, description="Tokens listed per row. Default: all that the cache lists."
    )
