"""The command line: in this process, in one of its own, and what it prints when it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from logitstore.settings.dump import AddSettings, DumpSettings
from tests.parts.warm import WarmProcess

PROGRESS = re.compile(
    r"labels: |data: |cost: |vectors: |(load the teacher|fingerprint|images) \.\.\.$|"
    r"(add|tokenise|windows|check the images|pilot|pilot of taps|dump|verify|check|ask again|evaluate|train): "
    r"[\d,]+ (of [\d,]+ )?"
)
Command = Callable[..., int]
Refused = Callable[..., str]


def error_line(stderr: str) -> str:
    """The one error line; all that may stand before it are lines of progress and notes."""
    lines = stderr.splitlines()
    assert lines, "nothing on stderr"
    assert [line for line in lines[:-1] if not PROGRESS.match(line) and not line.startswith("note: ")] == []
    assert lines[-1].startswith("error: ")
    return lines[-1]


def flags_of(settings: DumpSettings | AddSettings) -> list[str]:
    """The options that say what a plan says; what a plan leaves as it is needs none."""
    said = settings.model_dump(exclude_defaults=True, exclude={"resume", "cache"})
    return [text for name, value in said.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def logitstore_command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, one that has the libraries loaded; with variables of its environment."""
    process = WarmProcess(*arguments, **variables)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(list(arguments), process.wait(), stdout, stderr)


def cold_command(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "logitstore", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)
