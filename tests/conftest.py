"""What every process of a test run does first: the environment, the fixtures, the processes that are ready to run commands."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# the last bits of a float may depend on the number of threads: it is one here and in every process that a test starts
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest

from tests.parts import warm
from tests.parts.attacks import attacks, pytest_runtest_setup, pytest_terminal_summary

__all__ = ["attacks", "pytest_runtest_setup", "pytest_terminal_summary"]


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures where tests run. The process that only hands out tests does without torch, and starts one server
    of warm processes for all workers."""
    hands_out = config.getoption("dist", "no") != "no" and not config.getoption("collectonly")
    if hands_out and not hasattr(config, "workerinput"):
        warm.serve_all()
    else:
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that no process is left with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
