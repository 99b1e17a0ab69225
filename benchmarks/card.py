"""Time and measure work on a GPU, or on the CPU in its place: waiting for the device, peak memory, and a budget of time."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench import added_peak, resident

GIB = 1 << 30


@dataclass(frozen=True)
class Card:
    """The device that is measured.

    Attributes:
        device: where the work runs.
        is_small: whether everything is tiny, to try the script.
    """

    device: torch.device
    is_small: bool = False

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def settle(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any]) -> float:
        """Return how long some work takes, on the device too."""
        self.settle()
        began = time.perf_counter()
        work()
        self.settle()
        return time.perf_counter() - began

    def peak(self, work: Callable[[], Any]) -> int:
        """Return the bytes that are in use at most while some work runs, what was there before included."""
        if not self.is_gpu:
            before = resident("VmRSS")
            return before + added_peak(work)
        self.settle()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.settle()
        return int(torch.cuda.max_memory_allocated(self.device))

    def free(self) -> int:
        """Return the bytes of memory that are free, after what nobody holds has been given back."""
        gc.collect()
        if not self.is_gpu:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self.device)[0])

    def about(self) -> dict[str, Any]:
        """Describe the device for the results file."""
        if not self.is_gpu:
            return {"device": "cpu"}
        known = torch.cuda.get_device_properties(self.device)
        return {
            "device": known.name,
            "memory_gib": round(known.total_memory / GIB, 1),
            "capability": f"{known.major}.{known.minor}",
            "cuda": torch.version.cuda,
        }


@dataclass
class Budget:
    """The seconds of a script, and of the block that runs.

    Attributes:
        total: seconds of the whole script.
        began: when it started.
        block_ends: when the block that runs should end.
    """

    total: float
    began: float = field(default_factory=time.monotonic)
    block_ends: float = 0.0

    def begin(self, seconds: float) -> None:
        """Begin a block, which ends after so many seconds, or with the script."""
        self.block_ends = min(time.monotonic() + seconds, self.began + self.total)

    @property
    def used(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds that the block may still take."""
        return self.block_ends - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """Say whether work of so many seconds fits into the block."""
        return self.left > seconds


def work_folder(least: int) -> Path:
    """Return a folder for caches: in memory where there is room for so many bytes, so that no disk is measured."""
    shared = Path("/dev/shm")
    if shared.is_dir() and os.access(shared, os.W_OK):
        there = os.statvfs(shared)
        if there.f_bavail * there.f_frsize > least:
            return shared / f"logitstore-gpu-{os.getpid()}"
    return Path("build/gpu")
