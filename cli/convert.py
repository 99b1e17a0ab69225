"""`logitstore convert`, `export`, `recode` and `merge`: caches of other software made ours, and caches made from caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from logitstore_cli.show import Bars, going_on, say, say_made

import logitstore
from logitstore.core.progress import amount
from logitstore.core.registry import resolve
from logitstore.core.tasks import task_of

if TYPE_CHECKING:
    from logitstore.settings.convert import MergeSettings, RecodeSettings
    from logitstore.settings.foreign.convert import ConvertSettings, ExportSettings


def convert(settings: ConvertSettings) -> None:
    """Make a cache from one that other software wrote. No teacher runs.

    What it did not keep stays unknown: docs/importing.md says what becomes of each format. The same command resumes an
    interrupted one.

    Example: logitstore convert Qwen3-Logits --tokenizer Qwen/Qwen3-8B --out my-cache
    """
    with Bars() as progress, going_on(settings.out):
        made = resolve("logitstore.text.foreign.convert:convert")(settings, progress)
    say_made(settings.out, made)


def export(settings: ExportSettings) -> None:
    """Write a cache as Parquet files that any software reads: tokens, ids and logprobs of each row, in plain numbers.

    `convert` reads them again. Rows of a kind without lists, such as those of the preset exact, are listed first by `recode`.

    Example: logitstore export my-cache --out my-parquet
    """
    with Bars() as progress:
        count = resolve("logitstore.text.foreign.export:export")(settings, progress)
    say(f"{settings.out}: {count:,} files")


def recode(settings: RecodeSettings) -> None:
    """Make a smaller cache, or one in another layout, from a cache. No teacher runs.

    A cache of listed tokens can become one with fewer tokens, coarser logprobs or a simpler tail. A cache of hidden states
    (preset exact) can become anything. Every cache can become an archive, and an archive a mapped cache. Of one that keeps
    vectors or scores in place of distributions, only the layout can change.

    Example: logitstore recode my-cache --layout archive --out my-archive
    """
    with Bars() as progress, going_on(settings.out):
        made = resolve("logitstore.convert.recode:recode")(settings, progress)
    source = logitstore.open(settings.cache)
    if left := ", ".join(name for name in source.taps if name != task_of(source.manifest.task).keeps):
        say(f"not carried over: {left}; give `logitstore add {settings.out}` for them")
    say_made(settings.out, made)


def merge(settings: MergeSettings) -> None:
    """Make one cache of the mean of several teachers, or of the best of them for each row, from their caches of the same
    samples. No teacher runs.

    The mean is that of the probabilities, token by token. With --by each row is that of one cache, byte for byte where all
    have one form of row; `inspect` says how many come from each. Dump each teacher alone, with the same data, windows and
    vocabulary, and any preset except sampled and scores; exact and faithful lose least. The mean is an ordinary cache: train,
    evaluate, inspect, verify, recode and select read it like that of one teacher.

    The logprob of the gold token is exact. The rest is as exact as the caches of the teachers, minus what the new rows leave
    out; that loss is printed at the end. The same command resumes an interrupted merge.

    Example: logitstore merge one-cache other-cache --weights 1,2 -k 50 --out my-ensemble
    """
    with Bars() as progress, going_on(settings.out):
        made = resolve("logitstore.convert.merge:merge")(settings, progress)
    say_made(settings.out, made)
    if error := _error(made):
        say(error)


def _error(made: logitstore.Cache) -> str:
    """Return a line about the KL of the rows to the mean. It is empty if that was not measured, or the rows are estimates."""
    found = resolve("logitstore.format.part_record:fidelity_of")(made.fidelity)
    if found is None or made.manifest.sparsifier.is_estimate:
        return ""
    caches = amount(len(made.manifest.merged_from or []), "cache")
    start = (
        f"KL to the mean of {caches}: " if made.manifest.chosen_by is None else f"KL to the chosen rows of {caches}: "
    )
    if found["unbounded"]:
        return f"{start}infinite in {found['unbounded'] / found['rows']:.1%} of the rows, which leave out tokens that can come"
    one, two = found["kl_t1"], found["kl_t2"]
    return (
        f"{start}{one['mean']:.3g} \u00b1 {one['error']:.2g} nats at temperature 1, {two['mean']:.3g} \u00b1 "
        f"{two['error']:.2g} at 2"
    )
