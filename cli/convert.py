"""`logitstore recode` and `logitstore merge`: one cache made from others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore_cli.show import Bars, console, going_on, say_made

import logitstore
from logitstore.core.registry import resolve

if TYPE_CHECKING:
    from logitstore.settings.convert import MergeSettings, RecodeSettings


def recode(settings: RecodeSettings) -> None:
    """Make a smaller cache, or one in another layout, from a cache. No teacher runs.

    From any cache of listed tokens: fewer of them, coarser logprobs, a plainer tail. From a cache of hidden states (preset
    exact): anything. From every cache: the archive layout and back.

    Example: logitstore recode my-cache --layout archive --out my-archive
    """
    with Bars() as progress, going_on(settings.out):
        made = resolve("logitstore.convert.recode:recode")(settings, progress)
    if left := ", ".join(logitstore.open(settings.cache).taps):
        console.print(
            f"not carried over: {left}; give `logitstore add {settings.out}` for them", highlight=False, soft_wrap=True
        )
    say_made(settings.out, made)


def merge(settings: MergeSettings) -> None:
    """Make one cache of the mean of several teachers, from their caches of the same samples. No teacher runs.

    Dump each teacher alone, with the same data, windows and vocabulary, and any preset but sampled and scores; exact and
    faithful lose least. The mean is an ordinary cache: train, evaluate, inspect, verify, recode and select take it as one
    teacher's.

    The logprob of the gold token is exact. The rest is as near to the teachers as their caches are, and loses what its own rows
    leave out, which is printed at the end. An interrupted merge goes on where it stopped when the same command is given again.

    Example: logitstore merge --mean-probabilities one-cache other-cache --weights 1,2 -k 50 --out my-ensemble
    """
    with Bars() as progress, going_on(settings.out):
        made = resolve("logitstore.convert.merge:merge")(settings, progress)
    say_made(settings.out, made)
    if error := _error(made):
        console.print(error, highlight=False, soft_wrap=True)


def _error(made: logitstore.Cache) -> str:
    """What its rows lose of the mean; empty where that was not measured, or is right on average only."""
    found = resolve("logitstore.format.part_record:fidelity_of")(made.fidelity)
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
