"""Token ids that were made before, with labels or masks, padding, and several samples in a row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.dump.files.spelling import as_json
from logitstore.errors import BadInput
from logitstore.text.forms.form import Document, Encoder, Form, Row
from logitstore.text.forms.turns import list_of

LABELS = "labels"

IGNORED = -100
"""The label of a token that no row is about."""

MASKS = ("assistant_masks", "completion_mask", "loss_mask")
"""Columns with a 1 for each token that a row may be about."""

_PLACES = ("attention_mask", "position_ids", "seq_lengths")
"""Columns that tell samples and padding apart."""

_WAY_OUT = "Mend the row, or leave it out."


def token_ids(names: Sequence[str]) -> Form:
    """Return the form of token ids, with the columns beside `input_ids` that are there.

    Args:
        names: the columns of the data.
    """
    masks = [name for name in (LABELS, *MASKS) if name in names]
    others = [*masks, *(name for name in _PLACES if name in names)]

    about = " and ".join(f"'{name}'" for name in masks)
    return Form(
        column="input_ids",
        label="token ids",
        rows=f"the tokens that {about} take{'s' if len(masks) == 1 else ''}" if masks else "every token",
        columns=dict.fromkeys(("input_ids", LABELS, *MASKS, *_PLACES), _numbers),
        needed=("input_ids",),
        encode=partial(_encode, masks, others),
        is_partial=bool(masks),
        is_spelled=False,
        apart="rows hold several samples: {:,} more than rows",
    )


def _encode(
    masks: list[str], others: list[str], encoder: Encoder, rows: list[Row], places: list[str]
) -> list[Document]:
    return [_document(encoder.vocabulary, row, masks, others, where) for row, where in zip(rows, places, strict=True)]


def _numbers(value: Any) -> str:
    """Return a list of whole numbers as JSON; see `Spell`."""
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, int) for each in value)):
        return as_json(value)
    raise ValueError("where a list of whole numbers is expected. Check --column.")


def _document(vocabulary: int, row: Row, masks: list[str], others: list[str], where: str) -> Document:
    ids_T = _column(row, "input_ids", where)
    if ids_T is None or not len(ids_T):
        return Document(pairs=[([], [])])
    _check_ids(ids_T, vocabulary, where)
    late = next((name for name in (LABELS, *MASKS, *_PLACES) if name not in others and row.get(name) is not None), None)
    if late is not None:
        raise BadInput(f"{where}: it has {late}, which the first rows do not have. {_WAY_OUT}")
    given: dict[str, Array] = {}
    for name in others:
        values_T = _column(row, name, where)
        if values_T is None:
            raise BadInput(f"{where}: it has no {name}, as other rows have. {_WAY_OUT}")
        if name != "seq_lengths" and len(values_T) != len(ids_T):
            raise BadInput(
                f"{where}: {name} has {len(values_T):,} entries for {len(ids_T):,} input_ids. Give one for each. {_WAY_OUT}"
            )
        given[name] = values_T
    said_T = _said(ids_T, {name: given[name] for name in masks}, given.get("attention_mask"), where)
    pieces = _samples(len(ids_T), given, where)
    return Document(pairs=[(ids_T[piece].tolist(), said_T[piece].tolist() if masks else []) for piece in pieces])


def _column(row: Row, name: str, where: str) -> Array | None:
    """Return a list of numbers, int64; None for nothing. Raises BadInput: it is something else."""
    values = list_of(row[name], f"{where}, {name}")
    if values is None:
        return None
    wrong = next((place for place, value in enumerate(values) if not isinstance(value, int)), None)
    if wrong is not None:
        raise BadInput(
            f"{where}: {name} holds {values[wrong]!r:.40} at {wrong}, where a whole number is expected. {_WAY_OUT}"
        )
    try:
        return np.array(values, np.int64)
    except OverflowError as error:
        raise BadInput(f"{where}: {name} holds a number of more than 64 bits. {_WAY_OUT}") from error


def _check_ids(ids_T: Array, vocabulary: int, where: str) -> None:
    wrong_N = np.flatnonzero((ids_T < 0) | (ids_T >= vocabulary))
    if len(wrong_N):
        raise BadInput(
            f"{where}: input_ids holds {ids_T[wrong_N[0]]} at {wrong_N[0]}; the teacher's tokens are 0 to {vocabulary - 1}. "
            "Tokenise with the teacher's tokenizer."
        )


def _said(ids_T: Array, masks: dict[str, Array], attention_T: Array | None, where: str) -> Array:
    """Return bool[T]: True if a row may be about the token. Every mask, and the labels, must allow it."""
    said_T = np.ones(len(ids_T), np.bool_)
    for name, values_T in masks.items():
        if name != LABELS:
            _check_flags(name, values_T, where)
            said_T &= values_T == 1
            continue
        taken_T = values_T != IGNORED
        differs_T = taken_T & (values_T != ids_T)
        # what padding is labelled with does not matter
        wrong_N = np.flatnonzero(differs_T if attention_T is None else differs_T & (attention_T != 0))
        if len(wrong_N):
            place = int(wrong_N[0])
            shifted = " They look shifted by one: give them unshifted." if _is_shifted(ids_T, values_T) else ""
            raise BadInput(
                f"{where}: labels holds {values_T[place]} at {place}, where input_ids has {ids_T[place]}. A label is the token "
                f"itself, or {IGNORED} for no row about it.{shifted} {_WAY_OUT}"
            )
        said_T &= taken_T
    return said_T


def _is_shifted(ids_T: Array, labels_T: Array) -> bool:
    taken_T = labels_T[:-1] != IGNORED
    return bool(taken_T.any() and (labels_T[:-1] == ids_T[1:])[taken_T].all())


def _check_flags(name: str, values_T: Array, where: str) -> None:
    wrong_N = np.flatnonzero((values_T != 0) & (values_T != 1))
    if len(wrong_N):
        raise BadInput(
            f"{where}: {name} holds {values_T[wrong_N[0]]} at {wrong_N[0]}, where 0 or 1 is expected. {_WAY_OUT}"
        )


def _samples(length: int, given: dict[str, Array], where: str) -> list[Array]:
    """Return the places of the tokens of each sample in a row, int64, without padding.

    Samples are told apart by the numbers of `attention_mask`, by `position_ids` that begin again, or by `seq_lengths`. Where
    several of them are given, they must agree.
    """
    attention_T = given.get("attention_mask", np.ones(length, np.int64))
    kept_N = np.flatnonzero(attention_T)
    if not len(kept_N):
        return [kept_N]
    found = {
        name: begins_N
        for name, begins_N in (
            ("attention_mask", _numbered(attention_T[kept_N], where)),
            ("position_ids", _begun_again(given["position_ids"][kept_N], where) if "position_ids" in given else None),
            ("seq_lengths", _counted(given["seq_lengths"], len(kept_N), where) if "seq_lengths" in given else None),
        )
        if begins_N is not None
    }
    (name, begins_N), *more = found.items() or [("attention_mask", np.array([0]))]
    for other, others_N in more:
        if not np.array_equal(begins_N, others_N):
            raise BadInput(
                f"{where}: {name} tells {len(begins_N):,} samples apart, {other} {len(others_N):,}, or at other places. "
                + _WAY_OUT
            )
    pieces = np.split(kept_N, begins_N[1:])
    torn = next((piece for piece in pieces if piece[-1] - piece[0] >= len(piece)), None)
    if torn is not None:
        hole = int(torn[np.flatnonzero(np.diff(torn) > 1)[0]]) + 1
        raise BadInput(
            f"{where}: attention_mask is 0 at {hole}, within a sample. Only padding around samples can be left out. {_WAY_OUT}"
        )
    return pieces


def _numbered(numbers_N: Array, where: str) -> Array | None:
    """Return where the samples begin by their numbers 1, 2, 3 ...; None if all have the same number 1."""
    if (numbers_N == 1).all():
        return None
    steps_N = np.diff(numbers_N, prepend=0)
    if (steps_N < 0).any() or numbers_N[0] < 1:
        raise BadInput(
            f"{where}: attention_mask holds {numbers_N.min()} behind {numbers_N.max()}. Give 0 for padding, and 1 for tokens "
            f"or the rising number of each sample. {_WAY_OUT}"
        )
    return np.flatnonzero(steps_N)


def _begun_again(positions_N: Array, where: str) -> Array:
    begins_N = np.flatnonzero(positions_N == 0)
    starts_N = np.zeros(len(positions_N), np.int64)
    starts_N[begins_N] = begins_N
    expected_N = np.arange(len(positions_N)) - np.maximum.accumulate(starts_N)
    wrong_N = np.flatnonzero(positions_N != expected_N)
    if len(wrong_N):
        raise BadInput(
            f"{where}: position_ids holds {positions_N[wrong_N[0]]}, where 0 or {expected_N[wrong_N[0]]} is expected: the "
            f"tokens of a sample are counted from 0. {_WAY_OUT}"
        )
    return begins_N


def _counted(lengths_N: Array, count: int, where: str) -> Array:
    if not len(lengths_N) or (lengths_N < 1).any() or lengths_N.sum() != count:
        raise BadInput(
            f"{where}: seq_lengths sums to {lengths_N.sum():,}, the row has {count:,} tokens without padding. Give the "
            f"length of each sample, from 1. {_WAY_OUT}"
        )
    return np.cumsum(lengths_N) - lengths_N
