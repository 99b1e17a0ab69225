"""What may be chosen about a row, and about features that are kept beside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from logitstore.core.record import Record
from logitstore.format.row_kinds import sparsifiers
from logitstore.format.tap import CODEC_PATTERN
from logitstore.settings.fields import ASKING, RECIPE_ONLY, CommandLine, Sparsifier


class RowChoices(Record):
    """The settings of `dump`, `recode` and `merge` about a row: a preset, and what overrides it. None keeps what it says."""

    preset: Literal["tiny", "small", "faithful", "exact", "topk", "sampled", "archive", "scores"] | None = Field(
        None,
        description="How a row is stored. tiny, small and faithful need the hidden states, exact keeps them, topk needs "
        "only its logits, sampled keeps random draws, archive is small in compressed chunks. scores keeps no rows, only the "
        "nll of each sample. Default: small; topk for images of up to 16 classes.",
    )
    sparsifier: Sparsifier | None = Field(
        None, description="Which tokens of a row are kept. Default: as the preset says.", examples=sparsifiers()
    )
    k: Annotated[int | None, CommandLine(flags=("-k", "--k"))] = Field(
        None, ge=1, description="Tokens listed per row. Default: as the preset says."
    )
    top_p: Annotated[float | None, ASKING] = Field(
        None, gt=0, le=1, description="Probability mass after which topp stops listing. Default: 0.95."
    )
    draws: Annotated[int | None, ASKING] = Field(
        None, ge=1, le=255, description="Tokens drawn per row (sampled, hybrid). Default: 12."
    )
    exponent: Annotated[float | None, RECIPE_ONLY] = Field(
        None, gt=0, le=2, description="Tokens are drawn in proportion to p to this power (sampled, hybrid). Default: 1."
    )
    tail: Literal["sketch", "prior", "uniform", "none"] | None = Field(
        None,
        description="How the mass outside the listed tokens is spread: in its own way for each row (sketch), by one vector "
        "for all rows (prior), evenly (uniform), or not at all: the listed tokens are renormalised (none).",
    )
    sketch_bytes: Annotated[int | None, CommandLine(commands=("dump", "plan", "recode"))] = Field(
        None, ge=1, le=4096, description="Bytes per row for the sketch of its tail."
    )
    rounding: Annotated[Literal["row", "nearest"] | None, CommandLine(commands=("dump", "plan", "recode"))] = Field(
        None,
        description="How the levels of a sketch are chosen: for each row so that its own tail is nearest (row), or each the "
        "nearest to its coefficient (nearest), which is faster where the processor computes. Default: row.",
    )
    logprobs: Literal["float32", "float16", "levels-8", "levels-6", "levels-5"] | None = Field(
        None, description="How the logprobs of listed tokens are stored."
    )
    tail_mass: Annotated[Literal["float32", "log2-16", "log2-8"] | None, RECIPE_ONLY] = Field(
        None, description="How the mass of the tail is stored."
    )
    layout: Literal["mapped", "archive"] | None = Field(
        None,
        description="How rows lie on disk: as bare bytes that can be mapped into memory, or as compressed chunks (archive).",
    )

    def choices(self) -> dict[str, Any]:
        """Return the settings other than the preset, by name. None means that the preset decides."""
        return {name: getattr(self, name) for name in RowChoices.model_fields if name != "preset"}


class TapChoices(Record):
    """The settings of `dump` and `add` about features of the teacher that are kept beside its answers."""

    hidden: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Also keep these hidden states of the teacher: layers such as 4,8-12,final, or all. 0 is the embedding, "
        "final is the input of the output layer.",
    )
    qkv: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Also keep the queries, keys and values of these decoder layers, counted from 1: such as 4,30, or all.",
    )
    tap_codec: str | None = Field(
        None,
        pattern=CODEC_PATTERN,
        description="How --hidden and --qkv are stored: bfloat16, float16, float32, int8, or pca-N (their N main directions). "
        "Default: bfloat16.",
    )
