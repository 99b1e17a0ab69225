"""Writes the codecs' golden bytes anew: `python tests/golden/make_codecs.py`. Only for a change of format that is meant.

The inputs stand in the file beside their bytes, so that a reader in another language can be held to it. Minus infinity is
written as null. No input lies near the border between two levels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.codecs.bits import Bits
from logitstore.format.codecs.channels import Channels
from logitstore.format.codecs.codebook import Codebook
from logitstore.format.codecs.levels import Levels
from logitstore.format.codecs.log2 import Log2
from logitstore.format.presets import PRESETS, row_of

CODECS = Path(__file__).parent / "codecs.json"
VOCABULARY = 300
CHANNELS = 6

SHARED: dict[str, list[Any]] = {
    "widths": [3, 2, 1],
    "levels": [
        [-2.0, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 2.0],
        [-1.5, -0.5, 0.5, 1.5, 1.5, 1.5, 1.5, 1.5],
        [-0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75],
    ],
    "mean": [0.0, 1.0, -2.0, 0.5, 100.0, 0.0],
    "std": [1.0, 0.5, 2.0, 0.25, 50.0, 1e-6],
}
LOGPROBS = [0.0, -0.25, -1.0, -2.5, -6.0, -11.5, -30.0, None]
COEFFICIENTS = [[-3.0, 0.125, 0.25], [0.375, -1.125, -0.25], [1.75, 2.5, -1.0]]
HIDDEN = [[0.5, 1.25, -3.0, 0.5, 160.0, 0.0], [0.0, 1.0, -2.0, 0.5, 100.0, 0.0], [-4.0, 0.75, 6.0, 1.0, 0.0, 0.0]]


def numbers(values: Any) -> Array:
    """float32, null as minus infinity."""
    found = np.array(values, np.float64)  # None becomes NaN
    return np.where(np.isnan(found), -np.inf, found).astype(np.float32)


def shared() -> dict[str, Array]:
    """What the rows of the presets share."""
    return {
        name: np.array(value, np.uint8 if name == "widths" else np.float32) for name, value in sorted(SHARED.items())
    }


def encode(case: dict[str, Any]) -> list[str]:
    """The bytes of a case, in hex: of each array its codec gives."""
    name, _, bits = case["codec"].partition("-")
    given = case["input"]
    made: tuple[Array, ...]
    if name == "bits":
        made = (Bits(tuple(case["widths"])).encode(np.array(given)),)
    elif name == "levels":
        made = (Levels(int(bits), len(given[0])).encode(numbers(given)),)
    elif name == "log2":
        made = (Log2(int(bits)).encode(numbers(given)),)
    elif name == "codebook":
        made = (Codebook(tuple(SHARED["widths"]), shared()["levels"]).encode(numbers(given)),)
    else:
        made = Channels(shared()["mean"], shared()["std"]).encode(numbers(given))
    return [spell(array) for array in made]


def encode_preset(preset: str, answer: dict[str, Any]) -> dict[str, str]:
    """The bytes of every field of a preset's row, in hex."""
    codec = RowCodec(row=row_of(preset, {}, VOCABULARY, CHANNELS), shared=shared())
    whole = {"ids", "counts"}
    given = {name: np.array(value) if name in whole else numbers(value) for name, value in answer.items()}
    return {name: spell(array) for name, array in codec.encode(given).items()}


def spell(array: Array) -> str:
    """The bytes as they lie in a file: little-endian, in C order."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes().hex()


def cases() -> list[dict[str, Any]]:
    """Inputs for every value codec."""
    mixed = [[5, 0, 1023, 0, 16_777_215, 1], [2, 1, 512, 0, 1_234_567, 0]]
    found: list[dict[str, Any]] = [{"codec": "bits", "widths": [3, 1, 10, 0, 24, 1], "input": mixed}]
    found.append({"codec": "bits", "widths": [9] * 4, "input": [[299, 0, 256, 17], [1, 2, 3, 4]]})
    found += [{"codec": f"levels-{bits}", "input": [LOGPROBS, LOGPROBS[::-1]]} for bits in (8, 6, 5)]
    found += [{"codec": f"log2-{bits}", "input": [*LOGPROBS, -15.0, -22.0]} for bits in (16, 8)]
    found.append({"codec": "codebook", "input": COEFFICIENTS})
    found.append({"codec": "channels", "input": HIDDEN})
    return found


def answer_of(preset: str) -> dict[str, Any]:
    """One row for a preset, by hand: it need not be a distribution."""
    row = row_of(preset, {}, VOCABULARY, CHANNELS)
    slots, draws = row.sparsifier.slots, row.sparsifier.draws
    answer: dict[str, Any] = {"gold_logprob": [-2.125], "entropy": [1.5]}
    if slots:
        answer["ids"] = [[(299 + 37 * place) % VOCABULARY for place in range(slots - 1)] + [0]]
        answer["logprobs"] = [[-0.625 - 0.7 * place for place in range(slots - 1)] + [None]]
    if draws:
        answer["counts"] = [[7, 3] + [1] * (draws - 3) + [0]]
    elif slots:
        answer["tail_logmass"] = [-1.75]
    if row.tail.needs_hidden:
        answer["latent"] = HIDDEN[:1] if row.tail.shape == "head" else COEFFICIENTS[:1]
    return answer


def made() -> dict[str, Any]:
    """The whole file."""
    presets = {preset: {"input": answer_of(preset)} for preset in PRESETS}
    return {
        "vocabulary": VOCABULARY,
        "shared": SHARED,
        "codecs": [case | {"bytes": encode(case)} for case in cases()],
        "presets": {name: case | {"bytes": encode_preset(name, case["input"])} for name, case in presets.items()},
    }


if __name__ == "__main__":
    CODECS.write_text(json.dumps(made(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{CODECS} is written anew; read the difference before you commit it.\n")
