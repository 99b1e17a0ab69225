"""Attacks on caches and commands: what is tried, what becomes of it, and the sums at the end of all tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytest

from tests.parts.commands import logitstore_command

MEMORY = 512 << 20
"""Bytes that a command under attack may have beyond those of the libraries."""

SECONDS = 120
"""A command under attack that runs longer hangs."""


OWN = "a test each"
"""Kind of the attacks that are a test of their own: single entries forged, files added, links, writers side by side."""


class Silent(AssertionError):
    """What was damaged was taken as if nothing were wrong."""


class Attack:
    """One attack; `refused` says that it was found, or refused in one line, and did not just do no harm."""

    refused = False


class Attacks:
    """Counts the attacks of one test.

    Attributes:
        counts: `"<kind>: <what became of it>"`, how many: tried, survived, refused, silent. Those refused are survived.
        found: what went wrong, one line for each attack that was not survived.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.found: list[str] = []

    @contextmanager
    def of(self, kind: str, what: str = "") -> Iterator[Attack]:
        """Count one attack; it is survived if nothing is raised. An assertion that fails is kept for `check`."""
        self.counts[f"{kind}: tried"] += 1
        attack = Attack()
        try:
            yield attack
        except AssertionError as error:
            self.found.append(f"{what}: {error}")
            self.counts[f"{kind}: silent"] += isinstance(error, Silent)
        else:
            self.counts[f"{kind}: survived"] += 1
            self.counts[f"{kind}: refused"] += attack.refused

    def survived(self, kind: str, refused: bool = False) -> None:
        """Count one attack that was survived, where a test ends at the first that is not."""
        with self.of(kind) as attack:
            attack.refused = refused

    def check(self) -> None:
        """Fail if an attack was not survived."""
        assert not self.found, f"{len(self.found)} found:\n" + "\n".join(self.found)


@pytest.fixture
def attacks(request: pytest.FixtureRequest) -> Iterator[Attacks]:
    """Counts for the summary at the end of all tests."""
    made = Attacks()
    yield made
    request.node.user_properties.append(("attacks", dict(made.counts)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Mark the reports of a test that is an attack; the keywords of a report name folders as well."""
    if item.get_closest_marker("attack"):
        item.user_properties.append(("is an attack", True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell of each kind of attack how many were tried, and what became of them."""
    sums = _sums(terminalreporter.stats)
    kinds = sorted({name.rpartition(": ")[0] for name in sums})
    for fate in ("tried", "survived", "refused", "silent"):
        sums[f"all: {fate}"] = sum(sums[f"{kind}: {fate}"] for kind in kinds)
    for kind in [*kinds, "all"] if kinds else []:
        tried, survived, refused, silent = (
            sums[f"{kind}: {fate}"] for fate in ("tried", "survived", "refused", "silent")
        )
        terminalreporter.write_line(
            f"attack: {kind}: {tried:,} tried, {survived:,} survived ({refused:,} found or refused), {silent:,} silent, "
            f"{tried - survived - silent:,} failed"
        )


def _sums(stats: dict[str, list[Any]]) -> Counter[str]:
    """Return the counts of all tests; one that counts nothing itself is one attack."""
    reports = [each for each in chain.from_iterable(stats.values()) if isinstance(each, pytest.TestReport)]
    failed = {report.nodeid for report in reports if report.failed}
    skipped = {report.nodeid for report in reports if report.skipped}
    sums: Counter[str] = Counter()
    for report in reports:
        if report.when != "teardown":
            continue
        told_of = dict(report.user_properties)
        if "attacks" in told_of:
            sums.update(told_of["attacks"])
        elif "is an attack" in told_of and report.nodeid not in skipped:
            sums[f"{OWN}: tried"] += 1
            sums[f"{OWN}: survived"] += report.nodeid not in failed
    return sums


def told(*arguments: object) -> int:
    """Run a command in a process that may neither ask for much memory nor hang; return its exit code.

    Fails on a traceback, on a signal, and on anything but one line of an error.
    """
    done = logitstore_command(*arguments, ATTACK_MEMORY=str(MEMORY), ATTACK_SECONDS=str(SECONDS))
    said = f"logitstore {' '.join(map(str, arguments))}: exit code {done.returncode}: {done.stderr[-1500:]}"
    assert done.returncode in (0, 1, 2), said
    assert "Traceback" not in done.stderr, said
    assert "Timeout (" not in done.stderr, said
    if done.returncode == 2:
        assert done.stderr.splitlines()[-1].startswith("error: "), said
        assert done.stderr.count("error: ") == 1, said
    return done.returncode
