"""`logitstore verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from logitstore_cli.show import Bars, console, say

import logitstore
from logitstore.core.registry import resolve
from logitstore.settings.models.placing import PLACING
from logitstore.settings.tasks import refuse_set

if TYPE_CHECKING:
    from logitstore.settings.look import VerifySettings


def verify(settings: VerifySettings) -> None:
    """Check every checksum and every invariant of a cache. The exit code is 1 if something is wrong.

    Example: logitstore verify my-cache --repair
    """
    resolve("logitstore.settings.trust:refuse_unnamed")(settings, "against_teacher")
    if settings.against_teacher is None:
        refuse_set(settings, ("share", "seed", "device", *PLACING, "images"), "only --against-teacher uses it")
    else:
        resolve("logitstore.dump.audit:check_audit")(settings)
    with Bars() as progress:
        problems = resolve("logitstore.store.checks.verify:verify")(settings.cache, progress)
    for problem in problems:
        say(str(problem), style="red")
    if problems and settings.repair:
        for name in resolve("logitstore.store.checks.verify:repair")(settings.cache, problems):
            say(f"dropped {name}")
        console.print("Run the command that wrote it again, dump or add, to write only that again.")
    if problems:
        raise typer.Exit(1)
    opened = logitstore.open(settings.cache)
    missing = opened.manifest.parts - len(opened.part_numbers)
    say(
        f"{settings.cache}: sound: {len(opened.part_numbers)} parts, {opened.rows:,} rows"
        + (f"; {missing} parts are still to be dumped" if missing else "")
        + "".join(f"; {name}: {len(tap.part_numbers)} parts" for name, tap in opened.taps.items())
    )
    if settings.against_teacher is not None:
        _compare(settings)


def _compare(settings: VerifySettings) -> None:
    with Bars() as progress:
        found = resolve("logitstore.dump.audit:audit")(
            logitstore.open(settings.cache),
            settings.against_teacher,
            settings.share,
            settings.seed,
            settings.device,
            progress,
            settings.images,
            settings.trust_remote_code,
            settings,
        )
    say(
        f"{found.rows:,} rows asked again: stored values differ by at most {found.stored:.2g} nats beyond float16 rounding; "
        f"the teacher itself by {found.spread:.2g} nats between two batchings; allowed {found.tolerance:.2g}: "
        + ("it agrees" if found.passed else "it DIFFERS")
    )
    if not found.same_weights:
        console.print("the teacher's weights are not the ones the cache was made with", style="red")
    if not (found.passed and found.same_weights):
        raise typer.Exit(1)
