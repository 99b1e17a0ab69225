"""What NumPy and torch spell differently, so that one decoder serves both."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from logitstore.core.types import Array


def library(array: Any) -> Any:
    """The module, numpy or torch, that an array belongs to. A tensor can only come from where torch is loaded."""
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def wide(array: Any) -> Any:
    """The array as int64."""
    return array.astype(np.int64) if isinstance(array, np.ndarray) else array.long()


def real(array: Any) -> Any:
    """The array as float32."""
    return cast(array, "float32")


def cast(array: Any, dtype: str) -> Any:
    """The array with another type of values, by its name."""
    return array.astype(dtype) if isinstance(array, np.ndarray) else array.to(getattr(library(array), dtype))


def look_up(table: Array, numbers: Any) -> Any:
    """table[numbers], in the library and on the device of `numbers`, whole numbers of any width and shape."""
    if isinstance(numbers, np.ndarray):
        return table[numbers]
    flat = numbers.flatten()
    flat = flat if flat.element_size() >= 4 else flat.int()
    return beside(table, numbers).index_select(0, flat).view(numbers.shape)


def beside(constants: Any, array: Any) -> Any:
    """Constants of NumPy in the library and on the device of `array`."""
    return constants if isinstance(array, np.ndarray) else library(array).as_tensor(constants, device=array.device)
