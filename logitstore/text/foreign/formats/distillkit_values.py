"""The values of DistillKit's lists: exact ones, a polynomial, and quantised residuals of it.

Axes: N rows, B bytes of a row, K entries, E exact ones, A approximated ones, P terms of the polynomial, W words.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from logitstore.core.types import Array
from logitstore.text.foreign.formats.distillkit_config import BYTES, Bin, LegacyConfig, QuantizedConfig
from logitstore.text.foreign.formats.packed import unpacked


def quantized_values(config: QuantizedConfig, stored_NB: Array) -> Array:
    """Return the logprobs of some rows, float32[N, K], nats. They may miss falling order where they were approximated.

    They are what the bytes say in float32; DistillKit rounds them to `exact_dtype` once more.

    Raises:
        ValueError: the rows have another count of bytes than the configuration says.
    """
    if stored_NB.shape[1] != config.bytes:
        raise ValueError(
            f"its values have {stored_NB.shape[1]} bytes a row, not the {config.bytes} of the configuration"
        )
    values_NK = np.empty((len(stored_NB), config.k), np.float32)
    place = config.exact_k * BYTES[config.exact_dtype]
    values_NK[:, : config.exact_k] = _floats(stored_NB[:, :place], config.exact_dtype)
    rest_NA = values_NK[:, config.exact_k :]
    if config.polynomial_terms:
        stop = place + len(config.polynomial_terms) * BYTES[config.term_dtype]
        coefficients_NP = _floats(stored_NB[:, place:stop], config.term_dtype)
        terms = tuple(config.polynomial_terms)
        terms_PA = _terms(terms, rest_NA.shape[1], config.term_dtype, config.normalize_t)
        rest_NA[...] = _polynomial(coefficients_NP, terms_PA, config.term_dtype)
        place = stop
    else:
        rest_NA[...] = 0
    first = 0
    for each in config.residual_bins:
        rest_NA[:, first : first + each.num_elements] += _residuals(each, stored_NB[:, place : place + each.bytes])
        first, place = first + each.num_elements, place + each.bytes
    return np.cumsum(values_NK, axis=1, dtype=np.float32) if config.delta_encoding else values_NK


def legacy_values(
    config: LegacyConfig, packed_NW: Array, exact_NE: Array, coefficients_NC: Array
) -> tuple[Array, Array]:
    """Return ids int64[N, K] and values float32[N, K] of the first generation.

    An id takes the bits of the vocabulary, as many whole ids as fit stand in a word of 64 bits, the first in the lowest bits.

    Raises:
        ValueError: the rows have other counts of words, values or coefficients than the configuration says.
    """
    a_word = 64 // config.id_bits
    approximated = config.k - config.exact_k
    terms = config.polynomial_degree + 1 + config.with_sqrt_term if approximated else 0
    wanted = (-(-config.k // a_word), config.exact_k, terms)
    if (packed_NW.shape[1], exact_NE.shape[1], coefficients_NC.shape[1]) != wanted:
        found = packed_NW.shape[1], exact_NE.shape[1], coefficients_NC.shape[1]
        raise ValueError(
            f"its rows have {found} words, exact values and coefficients, not the {wanted} of the configuration"
        )
    ids_NK = np.empty((len(packed_NW), packed_NW.shape[1] * a_word), np.int64)
    words_NW, mask = packed_NW.astype(np.uint64, copy=False), np.uint64((1 << config.id_bits) - 1)
    for place in range(a_word):
        ids_NK[:, place::a_word] = (words_NW >> np.uint64(place * config.id_bits)) & mask
    values_NK = np.empty((len(packed_NW), config.k), np.float32)
    values_NK[:, : config.exact_k] = exact_NE
    if approximated:
        values_NK[:, config.exact_k :] = coefficients_NC.astype(np.float32) @ _legacy_terms(config)
    return ids_NK[:, : config.k], values_NK


def _floats(stored_NB: Array, dtype: str) -> Array:
    """Return little-endian floats of bytes, float32[N, count]."""
    packed = np.ascontiguousarray(stored_NB)
    if dtype == "bfloat16":
        return (packed.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return packed.view({"float16": "<f2", "float32": "<f4", "float64": "<f8"}[dtype]).astype(np.float32, copy=False)


def _residuals(each: Bin, stored_NB: Array) -> Array:
    size = BYTES[each.scale_dtype]
    scale_N1 = _floats(stored_NB[:, :size], each.scale_dtype)
    numbers_NM = unpacked(stored_NB[:, size:], each.element_bits, each.num_elements).astype(np.float32)
    if each.element_bits == 1:
        numbers_NM = numbers_NM * 2 - 1
    else:
        numbers_NM -= np.float32(2 ** (each.element_bits - 1))
    return np.asarray(numbers_NM * scale_N1)


def _polynomial(coefficients_NP: Array, terms_PA: Array, dtype: str) -> Array:
    """Return the polynomials of some rows, computed in the number format in which their residuals were taken, float32[N, A]."""
    if dtype in ("float32", "float64"):
        return coefficients_NP @ terms_PA
    total = np.zeros((len(coefficients_NP), terms_PA.shape[1]), np.float32)
    for coefficient_N, term_A in zip(coefficients_NP.T, terms_PA, strict=True):
        total += rounded(coefficient_N[:, None] * term_A, dtype)
    return rounded(total, dtype)


@cache
def _terms(terms: tuple[int | str, ...], count: int, dtype: str, is_normalised: bool) -> Array:
    """Return float32[P, A], the terms of the polynomial at each of the approximated places, rounded as they were fitted."""
    points_A = np.linspace(0, 1, count) if is_normalised else np.arange(count, dtype=np.float64)
    points_A = rounded(points_A.astype(np.float32), dtype).astype(np.float64)
    with np.errstate(divide="ignore", over="ignore"):
        values = [_SPECIAL[term](points_A) if isinstance(term, str) else points_A**term for term in terms]
        return rounded(np.stack(values).astype(np.float32), dtype)


_SPECIAL = {"sqrt": np.sqrt, "exp": np.exp}


@cache
def _legacy_terms(config: LegacyConfig) -> Array:
    """Return float32[C, A]: powers of 1, 2, ... with rising or falling exponents, and their root."""
    points_A = np.arange(1, config.k - config.exact_k + 1, dtype=np.float64)
    sign = -1 if config.invert_polynomial else 1
    terms = [points_A ** (sign * power) for power in range(config.polynomial_degree + 1)]
    return np.stack([*terms, *([np.sqrt(points_A)] if config.with_sqrt_term else [])]).astype(np.float32)


def rounded(values: Array, dtype: str) -> Array:
    """Return float32 rounded to a number format, to the nearest, ties to even."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype != "bfloat16":
        return values
    bits = values.view(np.uint32)
    up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + up) & np.uint32(0xFFFF0000)).view(np.float32)
