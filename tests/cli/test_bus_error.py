"""A mapped file that is cut off while it is read ends a command in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import logitstore
from tests.parts.commands import error_line
from tests.parts.warm import WarmProcess

READ = """
import sys, threading
import numpy as np, pyarrow as pa
from logitstore_cli.bus_error import tell_of_bus_errors
tell_of_bus_errors()
array = np.frombuffer(pa.memory_map(sys.argv[1]).read_buffer(), np.uint8)
open(sys.argv[1], "r+b").truncate(0)
if sys.argv[2] == "thread":
    thread = threading.Thread(target=array.copy)
    thread.start()
    thread.join()
else:
    array.copy()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the signal is understood on Linux alone")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_the_file_is_named(tmp_path: Path, where: str) -> None:
    file = tmp_path / "rows of ü"
    file.write_bytes(bytes(1 << 20))
    command = [sys.executable, "-c", READ, str(file), where]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [error_line(done.stderr)]
    assert str(file) in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the signal is understood on Linux alone")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_cut_off_while_a_student_trains_ends_the_run_in_one_line(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, workers: int
) -> None:
    own = Path(shutil.copytree(cache.path, tmp_path / "cache"))
    out = tmp_path / "out"
    process = WarmProcess(
        *("train", own, "--student", small_student, "--out", out, "--device", "cpu", "--max-steps", 100_000),
        *("--batch-size", 2, "--holdout", 0, "--save-every", 2, "--workers", workers),
    )
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for chunk in own.glob("parts/*/rows.zarr/*/c/0*"):
        for file in [chunk] if chunk.is_file() else chunk.rglob("*"):
            if file.is_file():
                os.truncate(file, 0)
    _, stderr = process.communicate()
    assert process.returncode == 2, stderr
    line = next(line for line in stderr.splitlines() if line.startswith("error: "))
    assert str(own) in line
    # a part that was mapped then, or one that was opened later
    assert "cut off" in line or "has 0 bytes instead of" in line
    assert "Traceback" not in stderr
