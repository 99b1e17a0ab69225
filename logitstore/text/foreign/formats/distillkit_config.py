"""How DistillKit compressed: the two records of its `compression_config.yaml`, or of the section `teacher` of its recipes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from logitstore.errors import BadInput, one_line

FILE = "compression_config.yaml"

_LARGEST = 1 << 16

Dtype = Literal["float16", "bfloat16", "float32", "float64"]

BYTES: dict[str, int] = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Bin(_Config):
    """Quantised residuals: one scale, then whole numbers of `element_bits` bits."""

    scale_dtype: Dtype
    element_bits: int = Field(ge=1, le=57)
    num_elements: int = Field(ge=1, le=1 << 16)

    @property
    def bytes(self) -> int:
        return BYTES[self.scale_dtype] + -(-self.element_bits * self.num_elements // 8)


class QuantizedConfig(_Config):
    """Of `compressed_logprobs`; DistillKit's DistributionQuantizationConfig."""

    d: int = Field(ge=2, le=1 << 24)
    k: int = Field(ge=1, le=1 << 16)
    exact_k: int = Field(ge=0)
    exact_dtype: Dtype = "float32"
    polynomial_terms: list[int | Literal["sqrt", "exp"]] | None = Field(None, max_length=32)
    term_dtype: Dtype = "float32"
    residual_bins: list[Bin] = Field(max_length=256)
    delta_encoding: bool = True
    error_diffusion: bool = False
    normalize_t: bool = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.exact_k > self.k or self.k > self.d:
            raise ValueError("exact_k is at most k, and k at most d")
        if sum(each.num_elements for each in self.residual_bins) > self.k - self.exact_k:
            raise ValueError("residual_bins hold more than k - exact_k elements")
        if any(abs(term) > 16 for term in self.polynomial_terms or [] if isinstance(term, int)):
            raise ValueError("a polynomial term is not from -16 to 16")
        return self

    @property
    def id_bits(self) -> int:
        """Bits of a token id."""
        return (self.d - 1).bit_length()

    @property
    def bytes(self) -> int:
        """Bytes of the values of a row."""
        terms = len(self.polynomial_terms or []) * BYTES[self.term_dtype]
        return self.exact_k * BYTES[self.exact_dtype] + terms + sum(each.bytes for each in self.residual_bins)


class LegacyConfig(_Config):
    """Of `exact_values` and `coeffs`; DistillKit's LegacyLogitCompressionConfig."""

    k: int = Field(ge=1, le=1 << 16)
    exact_k: int = Field(ge=0)
    polynomial_degree: int = Field(ge=0, le=16)
    vocab_size: int = Field(ge=2, le=1 << 24)
    invert_polynomial: bool = True
    with_sqrt_term: bool = False
    term_dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.exact_k > self.k or self.k > self.vocab_size:
            raise ValueError("exact_k is at most k, and k at most vocab_size")
        return self

    @property
    def id_bits(self) -> int:
        """Bits of a token id."""
        return (self.vocab_size - 1).bit_length()


def quantized_config(source: Path, given: Path | None) -> QuantizedConfig:
    """Return the configuration of a source. Raises BadInput: see `_read`."""
    config: QuantizedConfig = _read(QuantizedConfig, "logprob_compressor", source, given)
    return config


def legacy_config(source: Path, given: Path | None) -> LegacyConfig:
    """Return the configuration of a source of the first generation. Raises BadInput: see `_read`."""
    config: LegacyConfig = _read(LegacyConfig, "legacy_logit_compression", source, given)
    return config


def _read(kind: Any, section: str, source: Path, given: Path | None) -> Any:
    """Return the configuration in the file that is given, or in that beside the data.

    Raises:
        BadInput: there is none, it is no YAML of this kind, or what it says does not fit together.
    """
    folder = source if source.is_dir() else source.parent
    path = given or folder / FILE
    if not path.is_file():
        raise BadInput(
            f"{path}: there is no such file. How the values were compressed stands in DistillKit's {FILE}, or on the "
            "card of the "
            f"data set: give it with --compression."
        )
    yaml: Any = importlib.import_module("yaml")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST or "&" in text:
            raise BadInput(f"{path}: it is longer than such a file, or has YAML's anchors. Give {FILE}.")
        content = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: it is no YAML: {one_line(error)}.") from error
    for name in ("teacher", section):
        content = content.get(name, content) if isinstance(content, dict) else content
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = first["msg"].removeprefix("Value error, ").removesuffix(".")
        raise BadInput(f"{path}: {where or 'its values'}: {reason}. Give the {section} of DistillKit.") from error
