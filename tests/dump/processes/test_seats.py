"""Each process has a GPU of its own, or its share of the cores."""

from __future__ import annotations

import pytest
import torch

from logitstore.dump.processes.seats import seats
from logitstore.errors import BadInput


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("visible", "seen"), [(None, ["0", "1", "2"]), ("5, 2,7,1", ["5", "2", "7"]), ("GPU-a,GPU-b,GPU-c", None)]
)
def test_a_process_sees_one_gpu_alone(
    gpus: None, monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, seen: list[str] | None
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = seats(device, 3)
    assert [each.variables["CUDA_VISIBLE_DEVICES"] for each in found] == (seen or ["GPU-a", "GPU-b", "GPU-c"])
    assert [each.name for each in found] == ["cuda:0", "cuda:1", "cuda:2"]
    assert {each.variables["OMP_NUM_THREADS"] for each in found} == {"5"}


@pytest.mark.parametrize(("count", "threads"), [(2, "8"), (3, "5"), (40, "1")])
def test_on_the_cpu_the_threads_of_one_process_are_shared(
    gpus: None, monkeypatch: pytest.MonkeyPatch, count: int, threads: str
) -> None:
    found = seats("cpu", count)
    assert [each.variables for each in found] == [{"OMP_NUM_THREADS": threads}] * count
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert seats("cpu", count)[0].variables == {"OMP_NUM_THREADS": "4"}


@pytest.mark.parametrize(
    ("device", "count", "said"),
    [
        ("auto", 5, "this machine shows 4 GPUs, and each process takes one. Give --processes 4 or less"),
        ("cuda:1", 2, "each process takes a GPU of its own. Give --device auto"),
        ("mps", 2, "each process takes a GPU of its own"),
    ],
)
def test_a_device_that_cannot_be_shared_is_refused(gpus: None, device: str, count: int, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        seats(device, count)
