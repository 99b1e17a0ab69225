"""The fidelity of a cache in figures, and in a sentence for who is about to train from it. No torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from logitstore.cache.reader import Cache
from logitstore.errors import BadInput
from logitstore.manifest import Fidelity
from logitstore.methods import method_of, standing


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

_KINDS = {
    "estimate": "an estimate",
    "approximation": "an approximation",
    "bound": "a bound",
    "biased": "biased",
}


def honesty(cache: Cache, name: str, temperature: float, taps: Collection[str] = ()) -> tuple[str, bool] | None:
    """What a user should know of an objective on a cache before training, and whether it is a warning; None for exact ones.

    Args:
        cache: what is trained from.
        name: of the objective.
        temperature: at which it is taken.
        taps: that it looks at.
    """
    kind, why = standing(name, cache.manifest.row, [cache.taps[tap].info.codec for tap in taps])
    if kind == "exact":
        return None
    said = f"{name} is {_KINDS[kind]} on this cache: {why}"
    found = None if taps else fidelity_of(cache.fidelity)
    if found is None or (kind != "approximation" and cache.manifest.row.tail.shape != "none"):
        return f"{said}.", False
    nearest = min((1, 2, 4), key=lambda known: abs(math.log(known / temperature)))
    figure = found[f"kl_t{nearest}"]
    if figure is None or found["unbounded"] > 0:
        return (
            f"{said}; {found['unbounded'] / found['rows']:.1%} of the rows have tokens that can come and have no mass: the "
            "student learns a cut-off teacher.",
            True,
        )
    said += (
        f"; at temperature {nearest} it is {figure['mean']:.2f} \u00b1 {figure['error']:.2f} nats of KL from its "
        f"{found['against']}."
    )
    if figure["mean"] <= LARGE_KL:
        return said, False
    colder = "Train at a lower temperature, or dump" if temperature > 1 else "Dump"
    return f"{said} {colder} with --preset small, faithful or exact.", True


def refuse_unless_exact(cache: Cache, name: str, taps: Collection[str] = ()) -> None:
    """What --strict asks for.

    Args:
        cache: what is trained from.
        name: of the objective.
        taps: that it looks at.

    Raises:
        BadInput: the objective is not exact on this cache.
    """
    kind, why = standing(name, cache.manifest.row, [cache.taps[tap].info.codec for tap in taps])
    if kind == "exact":
        return
    wiser = (
        "Keep them as bfloat16"
        if taps
        else "Take another objective"
        if method_of(name).own
        else "Dump with --preset exact"
    )
    raise BadInput(f"--strict: {name} is {_KINDS[kind]} on {cache.path}: {why}. {wiser}, or leave out --strict.")
