"""DistillKit's encoding of a row, written from its schema in plain loops over Python's numbers, with what a reader should
find."""

from __future__ import annotations

import math
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

CODES = {"float16": "<e", "float32": "<f", "float64": "<d"}


def float_bytes(value: float, dtype: str) -> bytes:
    if dtype != "bfloat16":
        return struct.pack(CODES[dtype], value)
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return struct.pack("<H", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF)


def float_of(content: bytes, dtype: str) -> float:
    if dtype != "bfloat16":
        return float(struct.unpack(CODES[dtype], content)[0])
    return float(struct.unpack("<f", b"\0\0" + content)[0])


def through(value: float, dtype: str) -> float:
    return float_of(float_bytes(value, dtype), dtype)


def packed(numbers: list[int], width: int) -> bytes:
    """Numbers of some bits each, the highest bit first, filled up with zeros to whole bytes."""
    bits = "".join(format(number, f"0{width}b") for number in numbers)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8))


def point(place: int, count: int, is_normalised: bool) -> float:
    return place / (count - 1) if is_normalised else float(place)


def term(name: Any, x: float) -> float:
    return {"sqrt": math.sqrt, "exp": math.exp}[name](x) if isinstance(name, str) else x**name


def quantized(config: dict[str, Any], logprobs: list[float], coefficients: list[float]) -> tuple[bytes, list[float]]:
    """The bytes of the values of one row, and the values that they stand for. Any polynomial may be given: its residuals
    follow."""
    values = list(logprobs)
    if config["delta_encoding"]:
        values = [values[0], *(b - a for a, b in pairwise(values))]
    exact, content, found = config["exact_k"], b"", []
    for value in values[:exact]:
        content += float_bytes(value, config["exact_dtype"])
        found.append(through(value, config["exact_dtype"]))
    rest = values[exact:]
    terms = config["polynomial_terms"] or []
    for coefficient in coefficients[: len(terms)]:
        content += float_bytes(coefficient, config["term_dtype"])
    approximated = []
    for place in range(len(rest)):
        x = point(place, len(rest), config["normalize_t"])
        approximated.append(
            sum(through(c, config["term_dtype"]) * term(t, x) for c, t in zip(coefficients, terms, strict=False))
        )
    first = 0
    for each in config["residual_bins"]:
        bits, count = each["element_bits"], each["num_elements"]
        wanted = [rest[place] - approximated[place] for place in range(first, first + count)]
        most = 1.0 if bits == 1 else 2.0 ** (bits - 1)
        scale = through(max(abs(value) for value in wanted) / most or 1.0, each["scale_dtype"])
        numbers = []
        for place, value in enumerate(wanted, first):
            low, high = (0, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            number = min(max(round(value / scale), low), high) - low
            numbers.append(number)
            approximated[place] += scale * (2 * number - 1 if bits == 1 else number + low)
        content += float_bytes(scale, each["scale_dtype"]) + packed(numbers, bits)
        first += count
    found += approximated
    if config["delta_encoding"]:
        for place in range(1, len(found)):
            found[place] += found[place - 1]
    return content, found


def legacy(
    config: dict[str, Any], ids: list[int], values: list[float], coefficients: list[float]
) -> tuple[list[int], list[float], list[float], list[float]]:
    """Words, exact values and coefficients of one row of the first generation, and the values that they stand for."""
    bits = math.ceil(math.log2(config["vocab_size"]))
    whole, words = 64 // bits, []
    for place in range(0, len(ids), whole):
        words.append(sum(number << (bits * step) for step, number in enumerate(ids[place : place + whole])))
    exact = [through(value, "float16") for value in values[: config["exact_k"]]]
    sign = -1 if config["invert_polynomial"] else 1
    found = list(exact)
    for place in range(1, config["k"] - config["exact_k"] + 1):
        total = sum(
            through(coefficients[power], "float32") * float(place) ** (sign * power)
            for power in range(config["polynomial_degree"] + 1)
        )
        if config["with_sqrt_term"]:
            total += through(coefficients[-1], "float32") * math.sqrt(place)
        found.append(total)
    return words, exact, coefficients, found


QUANTIZED: dict[str, Any] = {
    "d": 321,
    "k": 24,
    "exact_k": 8,
    "exact_dtype": "bfloat16",
    "polynomial_terms": [0, 1, "sqrt"],
    "term_dtype": "float32",
    "residual_bins": [
        {"scale_dtype": "float16", "element_bits": 8, "num_elements": 6},
        {"scale_dtype": "bfloat16", "element_bits": 3, "num_elements": 5},
        {"scale_dtype": "float32", "element_bits": 1, "num_elements": 2},
    ],
    "delta_encoding": False,
    "error_diffusion": False,
    "normalize_t": False,
}

LEGACY: dict[str, Any] = {
    "k": 12,
    "exact_k": 5,
    "polynomial_degree": 3,
    "vocab_size": 320,
    "invert_polynomial": True,
    "with_sqrt_term": True,
    "term_dtype": "float32",
}


def write(
    folder: Path, records: list[dict[str, Any]], schema: pa.Schema, config: dict[str, Any], name: str = "data_0.parquet"
) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records, schema=schema), folder / name)
    (folder / "compression_config.yaml").write_text(yaml.safe_dump(config))
    return folder


LISTS = pa.list_(pa.list_(pa.uint8()))
QUANTIZED_SCHEMA = pa.schema(
    [("input_ids", pa.list_(pa.uint64())), ("compressed_logprobs", LISTS), ("bytepacked_indices", LISTS)]
)
PACKED_SCHEMA = QUANTIZED_SCHEMA.append(pa.field("attention_mask", pa.list_(pa.int64())))
LEGACY_SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.uint64())),
        ("packed_indices", pa.list_(pa.list_(pa.uint64()))),
        ("exact_values", pa.list_(pa.list_(pa.float32()))),
        ("coeffs", pa.list_(pa.list_(pa.float32()))),
    ]
)
