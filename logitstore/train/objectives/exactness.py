"""How exact an objective is on a cache: from the kinds of its rows and tails, and from its measured fidelity. No torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any, Literal

from logitstore.core.methods import method_of, methods
from logitstore.core.registry import suggest
from logitstore.core.tasks import task_of
from logitstore.errors import BadInput
from logitstore.format.part_record import fidelity_of
from logitstore.format.row import RowInfo
from logitstore.format.row_kinds import Lists
from logitstore.format.tap import needs_pilot
from logitstore.store.cache import Cache

LARGE_KL = 0.25
"""KL between the stored rows and the teacher's answers, in nats; `train` warns above it."""


_KINDS = {
    "estimate": "an estimate",
    "approximation": "an approximation",
    "bound": "a bound",
    "biased": "biased",
}


def fidelity_note(cache: Cache, name: str, temperature: float, taps: Collection[str] = ()) -> tuple[str, bool] | None:
    """Return a sentence about an objective on a cache, and True if it is a warning; None if the objective is exact.

    Args:
        cache: the cache to train from.
        name: name of the objective.
        temperature: temperature of the objective.
        taps: names of the taps that the objective reads.
    """
    kind, why = exactness(name, cache.manifest.row, [cache.taps[tap].info.codec for tap in taps])
    if kind == "exact":
        return None
    sentence = f"{name} is {_KINDS[kind]} on this cache: {why}"
    measured = None if taps else fidelity_of(cache.fidelity)
    if measured is None or (kind != "approximation" and cache.manifest.row.tail.shape != "none"):
        shares_tail = not taps and cache.manifest.row.tail.shape in ("prior", "uniform", "none")
        if measured is None and shares_tail and temperature > 1 and task_of(cache.manifest.task).learns_lists_alone:
            return (
                f"{sentence}; all rows share a tail, and above temperature 1 students of such rows came out worse than "
                "those of gold tokens alone (docs/presets.md). Train at temperature 1.",
                True,
            )
        return f"{sentence}.", False
    nearest = min((1, 2, 4), key=lambda measured_at: abs(math.log(measured_at / temperature)))
    figure = measured[f"kl_t{nearest}"]
    if figure is None or measured["unbounded"] > 0:
        return (
            f"{sentence}; {measured['unbounded'] / measured['rows']:.1%} of the rows have tokens that can come and have no "
            "mass: the student learns a cut-off teacher.",
            True,
        )
    sentence += (
        f"; at temperature {nearest} it is {figure['mean']:.2f} \u00b1 {figure['error']:.2f} nats of KL from its "
        f"{measured['against']}."
    )
    if figure["mean"] <= LARGE_KL:
        return sentence, False
    colder = "Train at a lower temperature, or dump" if temperature > 1 else "Dump"
    return f"{sentence} {colder} with --preset small, faithful or exact.", True


def refuse_unless_exact(cache: Cache, name: str, taps: Collection[str] = ()) -> None:
    """Refuse an objective that is not exact on the cache; `--strict` asks for this check.

    Args:
        cache: the cache to train from.
        name: name of the objective.
        taps: names of the taps that the objective reads.

    Raises:
        BadInput: the objective is not exact on this cache.
    """
    kind, why = exactness(name, cache.manifest.row, [cache.taps[tap].info.codec for tap in taps])
    if kind == "exact":
        return
    advice = (
        "Keep them as bfloat16"
        if taps
        else "Take another objective"
        if method_of(name).own
        else "Dump with --preset exact"
    )
    raise BadInput(f"--strict: {name} is {_KINDS[kind]} on {cache.path}: {why}. {advice}, or leave out --strict.")


def check_method(name: str, row: RowInfo, hottest: float) -> None:
    """Refuse an objective that the rows of a cache do not serve.

    Args:
        name: of the objective.
        row: what a row of the cache holds.
        hottest: the temperature that is farthest from 1 of those it will be taken at.

    Raises:
        BadInput: an unknown name, or a cache, or a temperature, for which it does not exist.
    """
    method = method_of(name)
    if method.form == "features":
        return
    is_of_scores = not row.sparsifier.kind.is_distribution
    if is_of_scores != (method.form == "rankings"):
        fit = [each for each, known in methods().items() if known.form == "rankings"]
        holds = (
            "keeps scores, and no distributions" if is_of_scores else "keeps distributions, and no scores of documents"
        )
        way_out = f"Use {', '.join(fit)}." if is_of_scores else "Use forward_kl, or a cache of --task ranking."
        raise BadInput(f"--objective {name}: this cache {holds}. {way_out}")
    if method.form == "sequences":
        if hottest != 1:
            raise BadInput(f"--objective {name}: it exists at temperature 1 only. Leave out --temperature {hottest:g}.")
        return
    if method.needs_distribution and row.sparsifier.is_estimate:
        raise BadInput(
            f"--objective {name}: it needs the teacher's whole distribution, and this cache holds random samples. "
            "Use forward_kl, or dump with another preset."
        )
    if method.needs_tail and row.tail.shape == "none" and row.sparsifier.kind.keeps_tail_mass:
        raise BadInput(
            f"--objective {name}: this cache has no tail, so it is infinite wherever the student gives mass to a token that "
            "is not listed. Dump with a tail, or use jensen_shannon or skew_reverse_kl."
        )
    if hottest != 1 and not method.has_temperature:
        raise BadInput(f"--objective {name}: it exists at temperature 1 only. Leave out --temperature {hottest:g}.")
    if row.sparsifier.k == 0 and method.needs_list:
        raise BadInput(f"--objective {name}: this cache lists no tokens. Use forward_kl.")


def check_options(name: str, options: dict[str, Any]) -> None:
    """Refuse options that an objective does not take.

    Raises:
        BadInput: an unknown option, with the nearest one, or a value that is not finite or of another kind than the default's.
    """
    known = method_of(name).options
    for option, value in options.items():
        if option not in known:
            said = suggest(option, list(known)) if known else "It takes none."
            raise BadInput(f"objective {name}: no option named '{option}'. {said}")
        default = known[option]
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"objective {name}: {option} is {value}, but must be finite.")
        fits = isinstance(value, (int, float)) if isinstance(default, float) else isinstance(value, type(default))
        if default is not None and (not fits or (isinstance(value, bool) and not isinstance(default, bool))):
            raise BadInput(f"objective {name}: {option} is {value!r}, but must be like {default!r}.")


Exactness = Literal["exact", "estimate", "approximation", "bound", "biased"]


def exactness(name: str, row: RowInfo, codecs: Collection[str] = ()) -> tuple[Exactness, str]:
    """How true an objective is on a cache, and why.

    Args:
        name: of the objective.
        row: what a row of the cache holds.
        codecs: of the taps that it looks at.
    """
    method = method_of(name)
    if method.form == "features":
        if lossy := sorted(codec for codec in set(codecs) if needs_pilot(codec)):
            return "approximation", f"its features are stored as {' and '.join(lossy)}"
        return "exact", "features are compared as they are stored"
    if method.form == "rankings":
        return "exact", "the scores are stored as the teacher gave them"
    if method.form == "sequences":
        return "exact", "the logprobs of gold tokens are stored"
    kind = row.sparsifier.kind
    if kind.is_estimate:
        return "estimate", "random samples, right on average"
    if kind.lists is Lists.ALL:
        return "exact", "the whole distribution is stored"
    if row.tail.shape == "none":
        return "biased", "the cache has no tail"
    if method.own is not None:
        return method.own, method.because
    if kind.keeps_hidden:
        return "exact", "the whole distribution is stored"
    if kind.lists is Lists.GIVEN and row.sparsifier.k >= row.vocabulary:
        return "exact", "the whole distribution is listed"
    return "approximation", f"the tail is modelled ({row.tail.shape})"
