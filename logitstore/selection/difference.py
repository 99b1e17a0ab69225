"""Difference sampling: choose samples that a large model finds more probable than a small one does.

Axes: S samples.
"""

from __future__ import annotations

import numpy as np

from logitstore.types import Array


def difference(teacher_S: Array, reference_S: Array) -> Array:
    """Return float64[S]: nll of the reference minus nll of the teacher, nats per row (MiniPLM, Gu et al. 2024).

    This is log p_teacher - log p_reference per row, as in the authors' code; a larger one is better. The text of their
    README writes the ratio of the logprobs instead. A sample that both models find impossible has no number: NaN.

    Args:
        teacher_S, reference_S: mean negative logprob of the gold tokens of each sample, nats per row.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(reference_S.astype(np.float64) - teacher_S.astype(np.float64))
