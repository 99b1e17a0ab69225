"""Attacks on caches and commands: what is tried, what becomes of it, and the sums at the end of all tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import pytest

from tests.parts.commands import logitstore_command

MEMORY = 512 << 20
"""Bytes that a command under attack may have beyond those of the libraries."""

SECONDS = 120
"""A command under attack that runs longer hangs."""


class Attacks:
    """Counts the attacks of one test.

    Attributes:
        counts: `"<kind>: tried"` and `"<kind>: survived"`, how many.
        found: what went wrong, one line for each attack that was not survived.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.found: list[str] = []

    @contextmanager
    def of(self, kind: str, what: str = "") -> Iterator[None]:
        """Count one attack; it is survived if nothing is raised. An assertion that fails is kept for `check`."""
        self.counts[f"{kind}: tried"] += 1
        try:
            yield
        except AssertionError as error:
            self.found.append(f"{what}: {error}")
        else:
            self.counts[f"{kind}: survived"] += 1

    def survived(self, kind: str) -> None:
        """Count one attack that was survived, where a test ends at the first that is not."""
        self.counts[f"{kind}: tried"] += 1
        self.counts[f"{kind}: survived"] += 1

    def check(self) -> None:
        """Fail if an attack was not survived."""
        assert not self.found, f"{len(self.found)} found:\n" + "\n".join(self.found)


@pytest.fixture
def attacks(request: pytest.FixtureRequest) -> Iterator[Attacks]:
    """Counts for the summary at the end of all tests."""
    made = Attacks()
    yield made
    request.node.user_properties.append(("attacks", dict(made.counts)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell of each kind of attack how many were tried, how many were survived, and how many found something."""
    sums: Counter[str] = Counter()
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport) and report.when == "teardown":
            for name, counts in report.user_properties:
                if name == "attacks":
                    sums.update(counts)
    for name in sorted(name for name in sums if name.endswith(": tried")):
        kind, tried = name.removesuffix(": tried"), sums[name]
        survived = sums[f"{kind}: survived"]
        terminalreporter.write_line(
            f"attack: {kind}: {tried:,} tried, {survived:,} survived, {tried - survived:,} found"
        )


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
