"""Describe where and with what a benchmark ran, for its results file."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def describe_run() -> dict[str, Any]:
    """Return machine, versions and commit."""
    return {
        "machine": {"processor": _processor(), "threads": torch.get_num_threads(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("logitstore", "torch", "transformers", "numpy", "zarr")}
        | {"python": platform.python_version()},
        "commit": _commit(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """Return the commit that is measured, marked as changed if Python files differ from it."""
    head, changed = (
        subprocess.run(["git", *command], capture_output=True, text=True, check=False).stdout.strip()
        for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "*.py"])
    )
    return f"{head}-changed" if changed else head
