"""The user's texts, and how similar the two texts of each pair are.

Axes: N texts, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from logitstore.classification.data import Labelled, table_of, text_columns, texts_in, values_in
from logitstore.classification.encode import EncodedTexts, Encoder
from logitstore.core.progress import Progress
from logitstore.core.registry import suggest
from logitstore.core.types import Array
from logitstore.embedding.sample import EmbeddedText
from logitstore.errors import BadInput
from logitstore.settings.dump import DumpSettings


@dataclass(frozen=True, kw_only=True)
class VectorTexts(EncodedTexts):
    """All texts of a dump; see `EncodedTexts`. The two texts of a pair lie one behind the other.

    Attributes:
        scores: float64[N], NaN without one; the same for both texts of a pair.
        in_pairs: whether there are pairs.
    """

    scores: Array
    in_pairs: bool

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[int(index)]
        own = vars(super().__getitem__(number)) | {"document": number // 2 if self.in_pairs else number}
        return EmbeddedText(**own, score=float(self.scores[number]))

    def fingerprint(self) -> str:
        """Return xxh3-128 over the score and the key of every text, in order."""
        digest = xxhash.xxh3_128()
        for number, score in enumerate(self.scores.tolist()):
            digest.update(f"{score!r} {super().__getitem__(number).key}\0".encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Told:
    """Which columns were read: those of the texts, of the second texts of pairs, and of their scores."""

    column: str
    pair_column: str | None
    score_column: str | None

    def __str__(self) -> str:
        if self.pair_column is None:
            return f"texts of column '{self.column}'"
        scores = f"scores of '{self.score_column}'" if self.score_column else "no scores"
        return f"texts of columns '{self.column}' and '{self.pair_column}', each with a row of its own, {scores}"


def embedded_texts(settings: DumpSettings, encode: Encoder, progress: Progress) -> tuple[VectorTexts, Told]:
    """Read the user's data, and encode them.

    Raises:
        BadInput: the data cannot be read, are empty, or a column does not exist, is not known or holds something else.
    """
    table = table_of(settings)
    column, pair_column = text_columns(settings, table.column_names)
    columns = [column] if pair_column is None else [column, pair_column]
    score_column = _score_column(settings, table.column_names, pair_column)
    texts = [text for row in zip(*(texts_in(table, each) for each in columns), strict=True) for text in row]
    scores_R = (
        np.full(len(table), np.nan) if score_column is None else _numbers(values_in(table, score_column), score_column)
    )
    none_N = np.full(len(texts), -1, np.int64)
    labelled = Labelled(
        column=column, pair_column=None, label_column=None, texts=texts, pairs=None, labels=none_N, names=None
    )
    plain = EncodedTexts.of(labelled, none_N, encode, settings.source, settings.texts, progress)
    found = VectorTexts(**vars(plain), scores=scores_R.repeat(len(columns)), in_pairs=pair_column is not None)
    return found, Told(column=column, pair_column=pair_column, score_column=score_column)


def _score_column(settings: DumpSettings, names: list[str], pair_column: str | None) -> str | None:
    """Return the column of the scores. Raises BadInput: there are several, or it does not fit the data."""
    wanted = [] if settings.score_columns is None else [each.strip() for each in settings.score_columns.split(",")]
    if not wanted:
        return None
    if len(wanted) > 1:
        raise BadInput(f"--score-columns {','.join(wanted)}: a pair has one score. Name one column.")
    if wanted[0] not in names:
        raise BadInput(f"--score-columns: no column named '{wanted[0]}'. {suggest(wanted[0], names)}")
    if pair_column is None:
        raise BadInput(
            f"--score-columns {wanted[0]}: it says how similar the two texts of a pair are, and there are no pairs. Name the "
            "column of the second texts with --pair-column."
        )
    return wanted[0]


def _numbers(values: list[Any], column: str) -> Array:
    """Return float64 numbers, NaN for null. Raises BadInput: a value is no finite number."""
    for row, value in enumerate(values):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and (not is_number or value in (float("inf"), float("-inf"))):
            raise BadInput(
                f"row {row + 1} of the data: column '{column}' holds {value!r:.80} where a number is expected. Leave the row "
                "out, or name another --score-columns."
            )
    return np.array([np.nan if value is None else float(value) for value in values])
