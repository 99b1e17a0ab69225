"""What each of several processes on one machine computes on: a GPU of its own, or its share of the cores."""

from __future__ import annotations

import os

import torch

from logitstore.dump.processes.workers import GPUS, THREADS, Seat
from logitstore.errors import BadInput


def seats(device: str, count: int) -> list[Seat]:
    """Return where each of `count` processes computes.

    A process sees one GPU alone, as its first. A number of threads that the environment sets is kept for each process;
    without one they share the threads that a single process would use.

    Args:
        device: as the user names it: auto, cpu, cuda.
        count: of the processes, two or more.

    Raises:
        BadInput: there are not so many GPUs, or the device is one that processes cannot share.
    """
    threads = os.environ.get(THREADS) or str(max(torch.get_num_threads() // count, 1))
    if device == "cpu" or (device == "auto" and not (torch.cuda.is_available() or torch.backends.mps.is_available())):
        name = f"{threads} thread{'' if threads == '1' else 's'}"
        return [Seat(name=name, variables={THREADS: threads})] * count
    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        raise BadInput(
            f"--processes {count} --device {device}: each process takes a GPU of its own. Give --device auto where there are "
            "several, or --device cpu."
        )
    gpus = _gpus()
    if len(gpus) < count:
        raise BadInput(
            f"--processes {count}: this machine shows {len(gpus)} GPU{'s' if len(gpus) != 1 else ''}, and each process takes "
            f"one. Give --processes {len(gpus)} or less, or --device cpu."
        )
    return [
        Seat(name=f"cuda:{number}", variables={THREADS: threads, GPUS: gpu}) for number, gpu in enumerate(gpus[:count])
    ]


def _gpus() -> list[str]:
    """Return the GPUs that this process sees, as the variable that hides the others names them."""
    count = torch.cuda.device_count()
    named = [each.strip() for each in os.environ.get(GPUS, "").split(",") if each.strip()]
    return named[:count] if named else [str(number) for number in range(count)]
