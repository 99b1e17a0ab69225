"""`logitstore merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from logitstore_cli.options import Config, argument, option
from logitstore_cli.show import Bars, console, going_on, say_made

from logitstore.core.registry import resolve
from logitstore.format.part_record import fidelity_of
from logitstore.settings.convert import MergeSettings
from logitstore.settings.recipe import load
from logitstore.store.cache import Cache


def merge(
    caches: Annotated[list[Path] | None, argument(MergeSettings, "caches")] = None,
    mean_probabilities: Annotated[
        bool | None, option(MergeSettings, "mean_probabilities", "--mean-probabilities")
    ] = None,
    weights: Annotated[str | None, option(MergeSettings, "weights")] = None,
    out: Annotated[Path | None, option(MergeSettings, "out")] = None,
    config: Config = None,
    preset: Annotated[str | None, option(MergeSettings, "preset")] = None,
    k: Annotated[int | None, option(MergeSettings, "k", "-k", "--k")] = None,
    tail: Annotated[str | None, option(MergeSettings, "tail")] = None,
    sparsifier: Annotated[str | None, option(MergeSettings, "sparsifier")] = None,
    logprobs: Annotated[str | None, option(MergeSettings, "logprobs")] = None,
    layout: Annotated[str | None, option(MergeSettings, "layout")] = None,
) -> None:
    """Make one cache of the mean of several teachers, from their caches of the same samples. No teacher runs.

    Dump each teacher alone, with the same data, windows and vocabulary, and any preset but sampled and scores; exact and
    faithful lose least. The mean is an ordinary cache: train, evaluate, inspect, verify, recode and select take it as one
    teacher's.

    The logprob of the gold token is exact. The rest is as near to the teachers as their caches are, and loses what its own rows
    leave out, which is printed at the end. An interrupted merge goes on where it stopped when the same command is given again.

    Example: logitstore merge --mean-probabilities one-cache other-cache --weights 1,2 -k 50 --out my-ensemble
    """
    flags = {name: value for name, value in locals().items() if name != "config"}
    asked = load(MergeSettings, "merge", config, flags | {"caches": caches or None})
    with Bars() as progress, going_on(asked.out):
        made = resolve("logitstore.convert.merge:merge")(asked, progress)
    say_made(asked.out, made)
    if error := _error(made):
        console.print(error, highlight=False, soft_wrap=True)


def _error(made: Cache) -> str:
    """What its rows lose of the mean; empty where that was not measured, or is right on average only."""
    found = fidelity_of(made.fidelity)
    if found is None or made.manifest.sparsifier.is_estimate:
        return ""
    said = f"KL to the mean of {len(made.manifest.merged_from or [])} caches: "
    if found["unbounded"]:
        return f"{said}infinite in {found['unbounded'] / found['rows']:.1%} of the rows, which leave out tokens that can come"
    one, two = found["kl_t1"], found["kl_t2"]
    return (
        f"{said}{one['mean']:.3g} \u00b1 {one['error']:.2g} nats at temperature 1, {two['mean']:.3g} \u00b1 "
        f"{two['error']:.2g} at 2"
    )
