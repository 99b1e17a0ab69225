"""Share what the benchmarks need: timing in turns, medians, and the form of a results file."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from machine import describe_run

RESULTS = Path(__file__).parent / "results"
console = Console()


def in_turns(
    ways: Mapping[str, Callable[[], Any]],
    rounds: int,
    warm_up: int = 1,
    *,
    settle: Callable[[], Any] = lambda: None,
    allows: Callable[[float], bool] = bool,
) -> dict[str, list[float]]:
    """Return the seconds of every way in every round. The ways take turns, so that what slows the machine slows all of
    them.

    Args:
        ways: what is timed, by name.
        rounds: how often, at most.
        warm_up: rounds that do not count.
        settle: waits for a device that still works.
        allows: says whether there is time for one more round of so many seconds; the first one is always run. By default
            there is.
    """
    for _ in range(warm_up):
        for way in ways.values():
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        if number and not allows(sum(times[-1] for times in seconds.values())):
            break
        for name, way in ways.items():
            settle()
            began = time.perf_counter()
            way()
            settle()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def in_rows(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every way, with all its runs one after the other, the first one left out."""
    return {name: in_turns({name: way}, rounds)[name] for name, way in ways.items()}


def added_peak(work: Callable[[], Any]) -> int:
    """Return the bytes of resident memory that some work took at most, above what was there before."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Return the bytes of a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def in_a_process(script: str, *arguments: object) -> dict[str, float]:
    """Run a script in a process of its own; return the JSON that it prints."""
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def ratio(seconds: Mapping[str, list[float]], of: str, to: str) -> float:
    """Return the median over the rounds of the ratio of two ways' times."""
    return statistics.median(a / b for a, b in zip(seconds[of], seconds[to], strict=True))


def at_most(name: str, target: float, measured: float, unit: str = "x", **more: Any) -> dict[str, Any]:
    """Return a line whose figure should not be above its target."""
    return _said(name, f"<= {target:g}", measured, unit, measured <= target, more)


def at_least(name: str, target: float, measured: float, unit: str = "x", **more: Any) -> dict[str, Any]:
    """Return a line whose figure should not be below its target."""
    return _said(name, f">= {target:g}", measured, unit, measured >= target, more)


def found(name: str, measured: float, unit: str = "x", **more: Any) -> dict[str, Any]:
    """Return a line without a target."""
    return _said(name, None, measured, unit, None, more)


def line_of(name: str, measured: float, unit: str = "x", **more: Any) -> dict[str, Any]:
    """Return a line without a target, and print nothing yet."""
    return _line(name, None, measured, unit, None, more)


def _said(
    name: str, target: str | None, measured: float, unit: str, met: bool | None, more: dict[str, Any]
) -> dict[str, Any]:
    line = _line(name, target, measured, unit, met, more)
    say(line)
    return line


def _line(
    name: str, target: str | None, measured: float, unit: str, met: bool | None, more: dict[str, Any]
) -> dict[str, Any]:
    return {"name": name, "target": target, "measured": float(f"{measured:.4g}"), "unit": unit, "met": met, **more}


def say(line: dict[str, Any]) -> None:
    """Print a line."""
    mark = {None: "", True: "met", False: "MISSED"}[line["met"]]
    text = f"{line['name']}: {line['measured']:g} {line['unit']}  {line['target'] or ''} {mark}"
    console.print(text.rstrip(), highlight=False, soft_wrap=True)


def save(script: str, lines: list[dict[str, Any]], **more: Any) -> None:
    """Write results/<script>.json."""
    content = describe_run() | more | {"lines": lines}
    (RESULTS / f"{script}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
