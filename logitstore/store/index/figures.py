"""Write and read figures of samples: a file of JSON lines, one line a sample (docs/rounds.md describes it).

`evaluate --figures` writes what a student does on each sample, and `select --figures` chooses by it. A file that somebody
else wrote serves as well.

Axes: S samples of a cache, M those of a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from logitstore.core.registry import suggest
from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheMismatch, storage_errors
from logitstore.store.cache import Cache
from logitstore.store.local_disk import write_whole

FIGURES = ("cross_entropy", "accuracy", "kl", "agreement", "entropy", "confidence", "margin")
"""The figures of a student that `evaluate` writes: means over the rows of a sample; docs/rounds.md says what each means."""

_PLACE = ("sample", "document", "key")
"""Names of a line that are no figures."""


def write_figures(path: Path, cache: Cache, samples_M: Array, figures: Mapping[str, Array]) -> None:
    """Write a file of figures, whole or not at all.

    Args:
        path: of the file.
        cache: whose samples these are.
        samples_M: int64, their numbers.
        figures: float64[M] by name; NaN is written as null.

    Raises:
        StorageError: the file cannot be written.
    """
    keys, documents_S = cache.keys(), cache.documents()
    lines = []
    for place, sample in enumerate(samples_M.tolist()):
        said: dict[str, Any] = {"sample": sample, "document": int(documents_S[sample]), "key": keys[sample]}
        values = {name: float(value_M[place]) for name, value_M in figures.items()}
        lines.append(
            json.dumps(said | {name: value if math.isfinite(value) else None for name, value in values.items()})
        )
    with storage_errors(path):
        write_whole(path, "".join(f"{line}\n" for line in lines).encode())


def read_figure(path: Path, cache: Cache, name: str) -> Array:
    """Return float64[S]: one figure of every sample of a cache, NaN where the file says nothing of it.

    Args:
        path: of the file: JSON lines with `sample`, numbers by name, and perhaps `key`.
        cache: whose samples they are.
        name: of the figure.

    Raises:
        BadInput: the file cannot be read, a line is none of such a file, or no line has the figure.
        CacheMismatch: the file is about other samples.
    """
    found_S = np.full(len(cache), math.nan)
    keys: list[str] = []
    seen: set[int] = set()
    known: dict[str, None] = {}
    for number, line in _lines(path):
        where = f"--figures {path}: line {number}"
        sample = line.get("sample")
        if type(sample) is not int or sample in seen:
            raise BadInput(f"{where}: `sample` is {sample!r}, not the number of a sample that no other line has.")
        keys = keys or cache.keys()
        if not 0 <= sample < len(keys) or line.get("key", keys[sample]) != keys[sample]:
            raise CacheMismatch(
                f"{where}: it is about another sample than number {sample} of {cache.path}. "
                "Evaluate the student on this cache, or on one of the same data, tokenizer and windows."
            )
        seen.add(sample)
        known |= dict.fromkeys(each for each in line if each not in _PLACE)
        value = line.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadInput(f"{where}: `{name}` is {value!r}, not a number or null.")
        found_S[sample] = math.nan if value is None else value
    if name not in known:
        raise BadInput(f"--score figure:{name}: {path} has no such figure. {suggest(name, list(known))}")
    return found_S


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the lines of a file with their numbers from 1; empty ones are left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise BadInput(f"--figures {path}: it cannot be read: {why}.") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise BadInput(
                f"--figures {path}: line {number} is no JSON object. Make it with `logitstore evaluate --figures`."
            )
        yield number, said
