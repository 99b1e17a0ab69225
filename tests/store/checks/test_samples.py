"""Samples that are sealed rightly and still wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pytest
import xxhash

import logitstore
from logitstore.errors import CacheDamaged
from logitstore.store.checks.verify import verify
from tests.parts.specification import golden_copy, tamper

pytestmark = pytest.mark.attack


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"mask": lambda mask: [True] * len(mask)}, "last position"),
        ({"mask": lambda mask: [True] + [False] * (len(mask) - 1)}, "row_count is not the count of the mask"),
        ({"row_start": lambda start: start + 1}, "spans do not follow"),
        ({"row_count": lambda count: count + 1}, "row_count is not the count of the mask"),
        ({"row_count": lambda _: 2**31 - 1}, "row_count is not the count of the mask"),
        ({"tokens": lambda tokens: tokens * 2, "mask": lambda mask: mask + [False] * len(mask)}, "count of tokens"),
    ],
)
def test_verify_tells_what_is_wrong_with_samples_that_are_sealed_rightly(
    tmp_path: Path, change: dict[str, Callable[[Any], Any]], what: str
) -> None:
    folder = golden_copy(tmp_path)
    path = folder / "parts/00000/samples.arrow"
    batch = pa.ipc.open_file(path).get_batch(0)
    entries = [entry | {name: turn(entry[name]) for name, turn in change.items()} for entry in batch.to_pylist()]
    path.unlink()
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(entries, schema=batch.schema))
    raw = path.read_bytes()
    sealed = {"bytes": len(raw), "xxh3_128": xxhash.xxh3_128_hexdigest(raw)}
    tamper(folder / "parts/00000/part.json", lambda record: record["files"].update({"samples.arrow": sealed}))
    problems = verify(folder)
    assert {(problem.part, problem.file) for problem in problems} == {(0, "parts/00000/samples.arrow")}
    assert any(what in problem.what for problem in problems)
    if "row_count" in change or "row_start" in change:
        with pytest.raises(CacheDamaged):
            next(iter(logitstore.open(folder).loader(batch_size=2)))


FLIPPED_ARROW = """
import sys
from pathlib import Path
import logitstore
folder = Path(sys.argv[1])
path = folder / "parts/00000/samples.arrow"
raw = path.read_bytes()
refused = 0
for place in range(0, len(raw) * 2, 7):
    changed = bytearray(raw)
    changed[place // 2] ^= 128 if place % 2 else 1
    path.unlink()
    path.write_bytes(changed)
    try:
        for sample in logitstore.open(folder):
            sample.sample.gold_N
    except (logitstore.LogitstoreError, IndexError):
        refused += 1
print(refused > len(raw) // 21)
"""


@pytest.mark.slow
@pytest.mark.exhaustive
def test_no_flipped_bit_of_a_samples_file_brings_the_reader_down(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FLIPPED_ARROW, str(golden_copy(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-500:]
