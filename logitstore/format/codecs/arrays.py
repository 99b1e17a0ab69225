"""Functions for arrays of NumPy and of torch, so that one decoder works for both."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import numpy as np

from logitstore.core.types import Array


def library(array: Any) -> Any:
    """Return the module of an array, numpy or torch. If the array is a tensor, torch is loaded already."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def wide(array: Any) -> Any:
    """Return the array as int64."""
    return array.astype(np.int64) if isinstance(array, np.ndarray) else array.long()


def real(array: Any) -> Any:
    """Return the array as float32."""
    return cast(array, "float32")


def cast(array: Any, dtype: str) -> Any:
    """Return the array with the dtype of the given name."""
    return array.astype(dtype) if isinstance(array, np.ndarray) else array.to(getattr(library(array), dtype))


def look_up(table: Array, numbers: Any) -> Any:
    """Return table[numbers], in the library and on the device of `numbers`, which are integers of any width and shape."""
    if isinstance(numbers, np.ndarray):
        return table[numbers]
    flat = numbers.flatten()
    flat = flat if flat.element_size() >= 4 else flat.int()
    return beside(table, numbers).index_select(0, flat).view(numbers.shape)


def beside(constants: Array, array: Any) -> Any:
    """Return NumPy constants in the library and on the device of `array`.

    A copy on a device is kept as long as the constants are, because making it again waits until the device has done all that
    it was given. So give the same constants each time, not new ones.
    """
    if isinstance(array, np.ndarray):
        return constants
    if array.device.type == "cpu":
        return library(array).as_tensor(constants)
    key = (id(constants), str(array.device))
    there, kept = _ON_DEVICES.get(key, (None, None))
    if there is None or there() is not constants:
        kept = library(array).as_tensor(constants, device=array.device)
        _ON_DEVICES[key] = weakref.ref(constants, lambda _: _ON_DEVICES.pop(key, None)), kept
    return kept


_ON_DEVICES: dict[tuple[int, str], tuple[weakref.ref[Array], Any]] = {}
"""Copies of constants, by what they are copies of and by device."""
