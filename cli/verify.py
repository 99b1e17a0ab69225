"""`logitstore verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from logitstore_cli.show import Bars, console, say

import logitstore
from logitstore.core.place import split_scheme
from logitstore.core.progress import amount
from logitstore.core.registry import resolve
from logitstore.settings.models.engine import ENGINE_OPTIONS
from logitstore.settings.models.placing import PLACING
from logitstore.settings.tasks import refuse_set

if TYPE_CHECKING:
    from logitstore.settings.look import VerifySettings

AUDITED = 0.01
"""Share of the samples that a teacher is asked about, if none is given."""


def verify(settings: VerifySettings) -> None:
    """Check every checksum and every invariant of a cache. The exit code is 1 if something is wrong.

    An interrupted check goes on where it was when the same command is given again.

    Example: logitstore verify my-cache --repair
    """
    resolve("logitstore.settings.trust:refuse_unnamed")(settings, "against_teacher")
    if settings.against_teacher is None:
        refuse_set(
            settings, ("device", *PLACING, "images", "tolerance", *ENGINE_OPTIONS), "only --against-teacher uses it"
        )
        if settings.share is None:
            refuse_set(settings, ("seed",), "only --share and --against-teacher use it")
    else:
        resolve("logitstore.dump.audit:check_audit")(settings)
    with Bars() as progress:
        found = resolve("logitstore.store.checks.verify:verified")(settings.cache, _extent(settings), progress)
    for problem in found.problems:
        say(str(problem), style="red")
    if found.problems and settings.repair:
        for name in resolve("logitstore.store.checks.verify:repair")(settings.cache, found.problems):
            say(f"dropped {name}")
        console.print("Run the command that wrote it again, dump or add, to write only that again.")
    if found.problems:
        if found.parts < found.of:
            say(f"{settings.cache}: {_checked(settings, found)}")
        raise typer.Exit(1)
    _say_sound(settings, found)
    if settings.against_teacher is not None:
        _compare(settings)


def _extent(settings: VerifySettings) -> Any:
    """Return how much is checked, and by whom."""
    cores = resolve("logitstore.core.processes.crew:usable_cores")
    # what lies in the memory of this process, or comes over one connection, is checked here
    workers = settings.workers or (1 if split_scheme(settings.cache)[0] else cores())
    is_share = settings.share is not None and settings.against_teacher is None
    share = {"share": settings.share, "seed": settings.seed} if is_share else {}
    return resolve("logitstore.store.checks.run:Extent")(workers=workers, journal=True, resume=settings.resume, **share)


def _checked(settings: VerifySettings, found: Any) -> str:
    return f"{found.parts:,} of {amount(found.of, 'part')} checked (--share {settings.share:g} --seed {settings.seed})"


def _say_sound(settings: VerifySettings, found: Any) -> None:
    """Print that nothing is wrong, and of how much that is said."""
    opened = logitstore.open(settings.cache)
    missing, lacking = opened.manifest.parts - len(opened.part_numbers), opened.taps.lacking
    what = f"sound: {amount(len(opened.part_numbers), 'part')}, {amount(opened.rows, 'row')}"
    if found.parts < found.of:
        what = f"no problem: {_checked(settings, found)}"
    elif found.earlier:
        at = resolve("logitstore.store.checks.run:moment")(found.began)
        what += f"; {amount(found.earlier, 'part')} checked by the run of {at}"
    say(
        f"{settings.cache}: {what}"
        + (f"; {amount(missing, 'part')} still to be dumped" if missing else "")
        + "".join(f"; {name}: {amount(len(tap.part_numbers), 'part')}" for name, tap in opened.taps.items())
        + (f"; of the rows' own values {amount(lacking, 'part')} still to be dumped" if lacking else "")
    )


def _compare(settings: VerifySettings) -> None:
    with Bars() as progress:
        found = resolve("logitstore.dump.audit:audit")(
            logitstore.open(settings.cache),
            settings.against_teacher,
            AUDITED if settings.share is None else settings.share,
            settings.seed,
            settings.device,
            progress,
            settings.images,
            settings.trust_remote_code,
            settings,
            settings,
            settings.tolerance,
        )
    say(
        f"{amount(found.rows, 'row')} asked again: stored values differ by at most {found.stored:.2g} {found.unit} beyond "
        f"rounding; the teacher itself by {found.spread:.2g} {found.unit} between two batchings; allowed "
        f"{found.tolerance:.2g}: " + ("it agrees" if found.passed else "it DIFFERS")
    )
    if found.chosen is not None:
        say(
            f"which positions have a row: one without has an entropy that is at most {found.chosen:.2g} nats above that of one "
            "with a row, beyond rounding"
        )
    if found.same_weights is None:
        say("another engine answered than the one of the dump, so whether the weights are the same is not compared")
    elif not found.same_weights:
        console.print("the teacher's weights are not the ones the cache was made with", style="red")
    if not found.passed:
        raise typer.Exit(1)
