"""What every process of a test run does first: the environment, the fixtures, the processes that are ready to run commands."""

from __future__ import annotations

import os
from collections import Counter
from itertools import chain

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# the last bits of a float may depend on the number of threads: it is one here and in every process that a test starts
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest

from tests.parts import warm


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures where tests run. The process that only hands out tests does without torch, and starts one server
    of warm processes for all workers."""
    hands_out = config.getoption("dist", "no") != "no" and not config.getoption("collectonly")
    if hands_out and not hasattr(config, "workerinput"):
        warm.serve_all()
    else:
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many kills there were and what they ended in."""
    sums: Counter[str] = Counter()
    for report in chain.from_iterable(terminalreporter.stats.values()):
        if isinstance(report, pytest.TestReport) and report.when == "teardown":
            for name, counts in report.user_properties:
                if name == "tally":
                    sums.update(counts)
    if sums:
        terminalreporter.write_line(
            f"{sums['kills']} kills and {sums['interrupts']} interrupts, each with sound parts that are as they will be; "
            f"{sums['identical']} caches ended byte-identical"
        )
