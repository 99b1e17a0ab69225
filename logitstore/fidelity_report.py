"""The fidelity of a cache in figures, and in a sentence for who is about to train from it. No torch."""

from __future__ import annotations

import math
from typing import Any

from logitstore.cache.reader import Cache
from logitstore.manifest import Fidelity


def fidelity_of(found: Fidelity) -> dict[str, Any] | None:
    """Means with 95% confidence intervals: name -> {"mean", "error"}; None where nothing was measured.

    `gradient_error` is relative: the share by which stored targets change the mean gradient of the reference student.
    """
    if not found.rows:
        return None
    figures: dict[str, Any] = {"against": found.against, "rows": found.rows, "unbounded": found.unbounded}
    for name, (total, squares) in found.sums.items():
        count = found.rows - found.unbounded if name.startswith("kl_") else found.rows
        if not count:
            figures[name] = None
            continue
        mean = total / count
        variance = max(squares / count - mean**2, 0.0) * count / max(count - 1, 1)
        figures[name] = {"mean": mean, "error": 1.96 * math.sqrt(variance / count)}
    along = figures.pop("gradient")["mean"]
    for part in ("mean", "error"):
        figures["gradient_error"][part] = abs(figures["gradient_error"][part]) / along if along else 0.0
    return figures


LARGE_KL = 0.25
"""Nats of KL between what is stored and what the teacher said, from which `train` warns."""


def fidelity_warning(cache: Cache, temperature: float) -> str | None:
    """What a user should know before training at a temperature; None where the cache is near enough to its teacher."""
    found = fidelity_of(cache.fidelity)
    if found is None or cache.manifest.sparsifier.is_estimate:
        return None
    nearest = min((1, 2, 4), key=lambda known: abs(math.log(known / temperature)))
    figure = found[f"kl_t{nearest}"]
    if figure is None or found["unbounded"] > 0:
        return (
            f"{found['unbounded'] / found['rows']:.1%} of the rows have tokens that can come and have no mass in this cache "
            f"(tail '{cache.manifest.tail.shape}'): the student learns a cut-off teacher."
        )
    if figure["mean"] <= LARGE_KL:
        return None
    return (
        f"at temperature {nearest} this cache is {figure['mean']:.2f} \u00b1 {figure['error']:.2f} nats of KL from its "
        f"{found['against']}. Train at a lower temperature, or dump with --preset small, faithful or exact."
    )
