"""Rows of logprobs for the tests of the codecs."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from logitstore.core.types import Array

LOGPROB = st.floats(-120, 0, width=32) | st.just(-np.inf)


def logprob_rows(element: st.SearchStrategy[float] = LOGPROB) -> st.SearchStrategy[Array]:
    shape = arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)
    return arrays.arrays(np.float32, shape, elements=element)


def in_torch(stored: Array) -> torch.Tensor:
    return torch.from_numpy(stored.copy())
