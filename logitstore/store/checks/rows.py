"""Check what must hold for every row of a cache, whatever its sparsifier (docs/format.md, "What verify checks").

Axes: N rows, K slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from logitstore.core.types import Array
from logitstore.errors import CacheDamaged, way_out_of
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.codecs.feature import from_bfloat16

_LISTED = ("ids", "logprobs", "tail_logmass", "counts", "log_normaliser")


def row_block_problems(
    block: dict[str, Array], gold_N: Array, codec: RowCodec, *, remade: bool = False, knows_gold: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield the field and what is wrong with it, for every invariant that some row breaks.

    Args:
        block: stored fields of some rows.
        gold_N: int64, the token that follows each row's position, or its class; -1 where there is none.
        codec: of the cache; it needs nothing that all rows share.
        remade: the rows were made from other caches', so listed logprobs may be rounded twice, or come from a hidden
            state or a tail, while that of the gold token comes from the teachers' own.
        knows_gold: every row with a gold token has its logprob; otherwise it may be NaN.
    """
    vocabulary = codec.row.vocabulary
    answer = codec.decode({name: block[name] for name in _LISTED if name in block})
    if "ids" in answer:
        yield from _ids(answer["ids"], np.isneginf(answer["logprobs"]), vocabulary)
    if "logprobs" in answer:
        yield from _logprobs(answer, codec)
    if "ids" in answer and not remade:
        yield from _gold(answer, block["gold_logprob"], gold_N, codec)
    if "counts" in answer:
        yield from _counts(answer["counts"], codec)
    if "hidden_scale" in block and not (np.isfinite(block["hidden_scale"]) & (block["hidden_scale"] > 0)).all():
        yield "hidden_scale", "a scale is not positive or not finite"
    if "score" in block and not np.isfinite(block["score"]).all():
        yield "score", "a score is not finite"
    if "gold_logprob" not in block:
        return
    gold_logprob_N = block["gold_logprob"]
    is_unknown_N = np.isnan(gold_logprob_N)
    if (
        (is_unknown_N < (gold_N < 0)).any()
        or (knows_gold and (is_unknown_N > (gold_N < 0)).any())
        or (gold_logprob_N > 0).any()
    ):
        yield (
            "gold_logprob",
            "a logprob is positive, or NaN where there is a gold token, or not NaN where there is none",
        )
    entropy_N = block["entropy"].astype(np.float64)
    if not ((entropy_N >= 0) & (entropy_N <= np.log(max(vocabulary, 2)) * 1.001)).all():
        yield "entropy", "it is negative, NaN or above log(vocabulary)"


def check_values(
    block: Mapping[str, Array], codec: RowCodec, where: Callable[[], str], gold: Callable[[], Array] | None = None
) -> None:
    """Refuse rows with values that no teacher gives, before a loss is made of them. It is cheap, so every reader does it.

    Nothing is looked at of bytes that all mean something, such as levels, nor of the order in a row. `row_block_problems`,
    which `verify` uses, looks at everything.

    Args:
        block: stored fields of some rows, each contiguous in memory.
        codec: of the cache.
        where: gives the place of the rows, for the message.
        gold: gives int64, the gold token or class of each row, -1 where there is none. It is asked only where gold logprobs
            are NaN; without it they may be.

    Raises:
        CacheDamaged: a value is impossible.
    """
    found = next(_impossible(block, codec), None)
    if found is None and gold is not None and "gold_logprob" in block:
        unknown_N = np.isnan(block["gold_logprob"])
        if unknown_N.any() and (gold()[unknown_N] >= 0).any():
            found = "gold_logprob: it is NaN where there is a gold token"
    _refuse(found, where)


def check_features(block: Mapping[str, Array], codec: str, where: Callable[[], str]) -> None:
    """Refuse features that are not finite, before a loss is made of them.

    Args:
        block: stored fields of some rows of a tap, each contiguous in memory.
        codec: of the tap.
        where: gives the place of the rows, for the message.

    Raises:
        CacheDamaged: a value or a scale is impossible.
    """
    values_ND, scale = block["values"], block.get("scale")
    is_bfloat16 = codec == "bfloat16"
    if (is_bfloat16 or values_ND.dtype.kind == "f") and not _is_finite(values_ND, is_bfloat16):
        _refuse("values: a value is not finite", where)
    if scale is not None and not (np.isfinite(scale) & (scale > 0)).all():
        _refuse("scale: a scale is not positive or not finite", where)


def _refuse(found: str | None, where: Callable[[], str]) -> None:
    if found is not None:
        place = where()
        raise CacheDamaged(f"{place}: {found}. {way_out_of(place)}")


def _impossible(block: Mapping[str, Array], codec: RowCodec) -> Iterator[str]:
    vocabulary = codec.row.vocabulary
    if "ids" in block and "logprobs" in block and _highest(block["ids"], codec) >= vocabulary:
        # an empty slot may hold any id
        answer = codec.decode({"ids": block["ids"], "logprobs": block["logprobs"]})
        if ((answer["ids"] >= vocabulary) & ~np.isneginf(answer["logprobs"])).any():
            yield f"ids: an id is not below the vocabulary of {vocabulary}"
    for name, (is_sure, is_possible, what) in _POSSIBLE.items():
        values = block.get(name)
        if values is None or not values.size or values.dtype.kind != "f" or (is_sure and is_sure(values)):
            continue
        if not is_possible(values).all():
            yield f"{name}: {what}"


def _highest(stored: Array, codec: RowCodec) -> int:
    """Return the highest of the stored ids; anything below the vocabulary where there is no room for another."""
    kind, vocabulary = codec.fields["ids"].codec, codec.row.vocabulary
    room = np.iinfo(stored.dtype).max + 1 if kind == "plain" else 1 << int(kind.removeprefix("bits-"))
    if not stored.size or vocabulary >= room:
        return -1
    # unpacking costs little here, while a GPU that is to look at them would be waited for
    ids_NK = stored if kind == "plain" else codec.decode({"ids": stored})["ids"]
    return int(np.maximum.reduce(ids_NK, axis=None))


_BITS = {
    2: (np.int16, np.uint16, 0x7C00, 0xFC00),
    4: (np.int32, np.uint32, 0x7F800000, 0xFF800000),
}
"""For the bytes of a float: the whole numbers of as many bytes, and the patterns of inf and -inf as unsigned ones."""


def _is_not_above_zero(values: Array) -> bool:
    """Return True only if no value is above 0 or NaN.

    The bits of floats are compared as whole numbers, many times faster than float16: a float that is not above 0 has the sign
    bit, so as a signed number it is not above 0; the lower the float, the higher that number, and a NaN is beyond -inf.
    """
    signed, unsigned, _, lowest = _BITS[values.itemsize]
    highest = np.maximum.reduce(values.view(signed), axis=None)
    # with a 0 among them, a NaN with a sign bit would be hidden behind it
    return bool(
        highest <= lowest - (1 << 8 * values.itemsize)
        or (highest == 0 and np.maximum.reduce(values.view(unsigned), axis=None) <= lowest)
    )


def _is_from_zero(values: Array) -> bool:
    """Return True only if all values are finite and not below 0: as unsigned numbers, all others are above those."""
    _, unsigned, infinite, _ = _BITS[values.itemsize]
    return bool(np.maximum.reduce(values.view(unsigned), axis=None) < infinite)


def _is_finite(values: Array, is_bfloat16: bool) -> bool:
    """Return True if all values are finite: as whole numbers, all others are above those, by the sign bit or without it."""
    if not values.size:
        return True
    signed, unsigned, infinite, lowest = _BFLOAT16 if is_bfloat16 else _BITS[values.itemsize]
    return bool(
        np.maximum.reduce(values.view(signed), axis=None) < infinite
        and np.maximum.reduce(values.view(unsigned), axis=None) < lowest
    )


_BFLOAT16 = (np.int16, np.uint16, 0x7F80, 0xFF80)

_POSSIBLE: dict[str, tuple[Callable[[Array], bool] | None, Callable[[Array], Array], str]] = {
    "logprobs": (_is_not_above_zero, lambda values_NK: values_NK <= 0, "a logprob is positive or NaN"),
    "tail_logmass": (_is_not_above_zero, lambda values_N: values_N <= 0, "a value is impossible"),
    "gold_logprob": (_is_not_above_zero, lambda values_N: ~(values_N > 0), "a value is impossible"),
    "entropy": (_is_from_zero, lambda values_N: (values_N >= 0) & (values_N < np.inf), "a value is impossible"),
    "hidden_scale": (None, lambda values_N: (values_N > 0) & (values_N < np.inf), "a value is impossible"),
    "log_normaliser": (None, np.isfinite, "a value is impossible"),
    "score": (None, np.isfinite, "a score is not finite"),
}
"""For the name of a field: what quickly finds that all of its values are possible, if it is sure; which of them are; and what
the others are."""


def feature_block_problems(block: dict[str, Array], codec: str) -> Iterator[tuple[str, str]]:
    """Yield the field and what is wrong with it, for some stored rows of a tap."""
    if "scale" in block and not (np.isfinite(block["scale"]) & (block["scale"] > 0)).all():
        yield "scale", "a scale is not positive or not finite"
    values_ND = from_bfloat16(block["values"]) if codec == "bfloat16" else block["values"]
    if not np.isfinite(values_ND).all():
        yield "values", "a value is not finite"


def _ids(ids_NK: Array, is_empty_NK: Array, vocabulary: int) -> Iterator[tuple[str, str]]:
    if ((ids_NK >= vocabulary) & ~is_empty_NK).any():
        yield "ids", f"an id is not below the vocabulary of {vocabulary}"
    # empty slots are told apart by giving each an id of its own, beyond the vocabulary
    places_K = vocabulary + np.arange(ids_NK.shape[1])
    if (np.diff(np.sort(np.where(is_empty_NK, places_K, ids_NK), 1), axis=1) == 0).any():
        yield "ids", "a row lists an id twice"


def _logprobs(answer: dict[str, Array], codec: RowCodec) -> Iterator[tuple[str, str]]:
    logprobs_NK = answer["logprobs"].astype(np.float64)
    sparsifier = codec.row.sparsifier
    if np.isnan(logprobs_NK).any() or (logprobs_NK > 0).any():
        yield "logprobs", "a logprob is positive or NaN"
    if "ids" in answer:
        for some_NK in (logprobs_NK[:, : sparsifier.k], logprobs_NK[:, sparsifier.k :]):
            if (some_NK[:, 1:] > some_NK[:, :-1]).any():
                yield "logprobs", "a row is not in falling order"
    if sparsifier.is_estimate:
        return
    mass_N = np.exp(logprobs_NK).sum(1)
    if "tail_logmass" in answer:
        tail_N = answer["tail_logmass"].astype(np.float64)
        if np.isnan(tail_N).any() or (tail_N > 0).any():
            yield "tail_logmass", "a mass is above 1 or NaN"
        mass_N += np.exp(tail_N)
    if not (np.abs(mass_N - 1) <= codec.mass_error).all():
        yield "logprobs", "listed and tail mass of a row do not sum to 1"


def _gold(answer: dict[str, Array], gold_logprob_N: Array, gold_N: Array, codec: RowCodec) -> Iterator[tuple[str, str]]:
    logprobs_NK = answer["logprobs"].astype(np.float64)
    listed_NK = (answer["ids"] == gold_N[:, None]) & np.isfinite(logprobs_NK)
    gold_NK = np.broadcast_to(gold_logprob_N.astype(np.float64)[:, None], listed_NK.shape)
    apart = np.abs(logprobs_NK[listed_NK] - gold_NK[listed_NK])
    allowed = codec.logprob_error(gold_NK[listed_NK]) + np.abs(gold_NK[listed_NK]) * 2.0**-11
    # equal logprobs are rounded alike when both are float16
    if (apart > (0 if codec.row.codec.logprobs == "float16" else allowed)).any():
        yield "gold_logprob", "it is not the listed logprob of the gold token"


def _counts(counts_ND: Array, codec: RowCodec) -> Iterator[tuple[str, str]]:
    totals_N = counts_ND.sum(1)
    draws = codec.row.sparsifier.draws
    may_be_none = codec.row.sparsifier.k > 0  # the listed tokens may leave none to draw
    if not ((totals_N == draws) | (may_be_none & (totals_N == 0))).all():
        yield "counts", f"the draws of a row are not {draws}"
