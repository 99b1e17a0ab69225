"""Other processes: what they give comes in order, and what they cannot do is told."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from logitstore.core.processes.crew import Crew
from logitstore.errors import BadInput
from tests.parts.working import doubled


def died(job: Any, how: str) -> Exception:
    return RuntimeError(f"{job}: {how}")


def test_results_come_in_order_and_no_module_of_the_current_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "pickle", "logitstore"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    with Crew[int, tuple[int, int]](died) as crew:
        crew.start(2)
        done = list(crew.in_order(doubled, range(9)))
        with pytest.raises(BadInput, match="seven"):
            list(crew.in_order(partial(doubled, refused=7), range(9)))
        # an error leaves the processes as they are
        assert [job for job, _ in crew.in_order(doubled, range(3))] == [0, 1, 2]
    assert [(job, double) for job, (double, _) in done] == [(number, 2 * number) for number in range(9)]
    assert os.getpid() not in {process for _, (_, process) in done}


def test_a_death_and_a_job_that_cannot_be_sent_are_raised_here() -> None:
    with Crew[Any, Any](died) as crew:
        crew.start(1)
        with pytest.raises(TypeError, match="pickle"):
            list(crew.in_order(doubled, [threading.Lock()]))
        with pytest.raises(RuntimeError, match=r"^3: SIGKILL$"):
            list(crew.in_order(partial(doubled, killed=3), range(5)))
