"""Read the scores and groups that the data give of samples: whole columns of a cache, read part by part.

Axes: S samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from logitstore.core.registry import suggest
from logitstore.core.tasks import task_of
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.format.data import GROUP, SCORE
from logitstore.store.cache import Cache


def score_names(cache: Cache) -> tuple[str, ...]:
    """Return the names of the scores that a cache keeps."""
    info: Any = getattr(cache.manifest.data, "scores", None)
    return () if info is None else tuple(info.columns)


def has_groups(cache: Cache) -> bool:
    """Return True if the data of a cache say which samples belong together."""
    info: Any = getattr(cache.manifest.data, "scores", None)
    return info is not None and info.group is not None


def no_scores(cache: Cache, name: str) -> str:
    """Say that a cache keeps no scores, and what to do about it where its task knows any."""
    task = task_of(cache.manifest.task)
    if "score_columns" not in task.options.get("dump", ()):
        return f"is a cache of {task.samples}, which have no scores of their data. Choose by another score."
    if task.keeps is not None:
        return (
            f"is a cache of {task.samples}, whose scores are of pairs and for judging alone. Choose by another score."
        )
    return f"keeps no scores of its data. Dump with --score-columns {name}."


def column_scores(cache: Cache, name: str, called: str) -> Array:
    """Return float64[S]: a score of every sample, NaN where the data give none.

    Args:
        cache: to read.
        name: of the score.
        called: what asks for it, for the beginning of the message.

    Raises:
        BadInput: the cache keeps no such score.
    """
    known = score_names(cache)
    if not known:
        raise BadInput(f"{called}: {cache.path} {no_scores(cache, name)}")
    if name not in known:
        raise BadInput(f"{called}: {cache.path} keeps no score named '{name}'. {suggest(name, list(known))}")
    columns = [cache.samples_of(number).told()[SCORE + name] for number in cache.part_numbers]
    return np.array(pa.chunked_array(columns, pa.float64()).to_numpy(), np.float64)


def group_codes(cache: Cache) -> Array:
    """Return int64[S]: numbers of the groups in the order in which they come; a sample without a group is one by itself."""
    if not has_groups(cache):
        return np.arange(len(cache))
    columns = [cache.samples_of(number).told()[GROUP] for number in cache.part_numbers]
    names = pa.concat_arrays([pa.array([], pa.string()), *columns])
    codes_S = np.array(names.dictionary_encode().indices.fill_null(-1).to_numpy(), np.int64)
    alone_S = codes_S < 0
    codes_S[alone_S] = codes_S.max(initial=-1) + 1 + np.arange(int(alone_S.sum()))
    return codes_S
