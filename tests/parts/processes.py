"""Processes that write parts, started from those that have the libraries loaded, and openings that need no teacher."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from logitstore.core.progress import Progress, Step
from logitstore.dump.processes import workers
from logitstore.errors import BadInput
from tests.parts.warm import WarmMember


@contextmanager
def warm_members(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WarmMember]]:
    """Have this process start warm members; gives those that it has started."""
    members: list[WarmMember] = []

    def launch(*arguments: Any) -> WarmMember:
        members.append(WarmMember(*arguments))
        return members[-1]

    monkeypatch.setattr(workers, "launch", launch)
    yield members
    for member in members:
        member.close()


class Notes:
    """What a writer of parts leaves of each part: a file with its number, in a folder."""

    def __init__(self, folder: Path, fate: str) -> None:
        self._folder, self._fate = folder, fate

    def write(self, part: int, names: Collection[str], report_rows: Callable[[int], None]) -> None:
        """Write a part of ten rows; part 1 meets the fate."""
        report_rows(4)
        if part == 1 or self._fate.startswith("each"):
            meet(self._fate, self._folder / f"met-{part}")
        report_rows(6)
        with (self._folder / str(part)).open("a") as file:
            file.write(f"{'+'.join(names)} {os.getpid()}\n")


def meet(fate: str, met: Path) -> None:
    """Do what the fate says; a fate with "once" in it befalls the first writer of a part alone."""
    if "once" in fate:
        try:
            met.touch(exist_ok=False)
        except FileExistsError:
            return
        fate = fate.removeprefix("each ").removesuffix(" once")
    if fate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fate == "exits":
        print("the library says\n\x1b[31mcannot go on", flush=True)
        os._exit(7)
    elif fate == "refuses":
        raise BadInput("--data nothing: it is empty. Give another.") from OSError(5, "cause")
    elif fate in ("bug", "each bug"):
        raise odd_error()
    elif fate == "is slow":
        time.sleep(4)
    elif fate == "waits":
        time.sleep(300)


def odd_error() -> Exception:
    """An error of a class that no other process knows."""

    class Odd(Exception):
        pass

    return Odd("three is odd")


def notes_of(folder: Path, fate: str, progress: Progress) -> Any:
    """An opening: load nothing, and tell of it."""
    if fate == "dies while it loads":
        os.kill(os.getpid(), signal.SIGKILL)
    progress(Step(stage="load", done=0, total=1))
    return partial(opened, folder, fate)


def opened(folder: Path, fate: str, progress: Progress) -> Notes:
    progress(Step(stage="begin", done=0, total=1))
    if fate == "begins once":
        with (folder / "begun").open("a") as file:
            file.write("x")
    return Notes(folder, fate)
