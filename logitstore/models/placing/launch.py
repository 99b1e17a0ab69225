"""Start the processes of a teacher that is split over several, or join those that torchrun has started."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import IO, Any

import torch
import torch.distributed as dist

from logitstore.errors import BadInput
from logitstore.models.placing.ranks import JOINING, Ranks, end, ended

_FOLLOW = "from logitstore.models.placing.follower import follow; follow()"

_QUIET = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
"""What is read of the other processes is why they ended, and no bars."""

joined: list[Ranks] = []
"""The processes that torchrun started, this one among them."""


def launched() -> bool:
    """Return True where torchrun has started this process, and others with it."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(count: int) -> Ranks:
    """Join the processes that torchrun has started.

    Raises:
        BadInput: they are not as many as the teacher is split over.
    """
    started = int(os.environ["WORLD_SIZE"])
    if started != count and int(os.environ["RANK"]):
        sys.exit(2)  # the leader says why
    if started != count:
        raise BadInput(
            f"--tensor-parallel {count}: torchrun has started {started} processes. Give as many (--nproc-per-node {count}), or "
            "leave torchrun out: the command starts them itself."
        )
    ranks = Ranks(int(os.environ["RANK"]), count)
    joined.append(ranks)
    if ranks.rank == 0:
        atexit.register(ranks.close)
    return ranks


def ranks_for(count: int) -> Ranks:
    """Return the processes that a teacher is split over: those that are there, or as many as are started now.

    Raises:
        BadInput: there are fewer accelerators.
    """
    if joined:
        return joined[0]
    devices = torch.accelerator.device_count()
    if 0 < devices < count:
        raise BadInput(
            f"--tensor-parallel {count}: there are {devices} accelerators here, and each process needs one. Give "
            f"--tensor-parallel {devices} or less, or --device-map auto."
        )
    if dist.is_initialized():
        raise BadInput(
            f"--tensor-parallel {count}: this process is one of several already. Use the command line, once at a time."
        )
    return _start(count)


def meeting(port: int, count: int, *, is_leader: bool) -> Any:
    """Return the place where the processes of one machine find each other; the leader opens it, at any free port."""
    opened: Any = getattr(dist, "TCPStore")  # noqa: B009  # torch does not export it by name
    return opened("127.0.0.1", port, count, is_master=is_leader, wait_for_workers=False, timeout=JOINING)


def check_in(store: Any, rank: int) -> None:
    """Let the leader know that this process is there."""
    store.set(f"here-{rank}", "")


def _await(store: Any, children: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> None:
    """Wait until all processes that were started are there. Raises ModelError: one has ended."""
    count = len(children) + 1
    while not store.check([f"here-{rank}" for rank in range(1, count)]):
        for number, (child, said) in enumerate(children, 1):
            if child.poll() is not None:
                raise ended(number, count, child, said)
        time.sleep(0.05)


def _start(count: int) -> Ranks:
    store = meeting(0, count, is_leader=True)
    path = os.pathsep.join(filter(None, sys.path))  # modules are found as here, and not in the current folder
    children = []
    for rank in range(1, count):
        said = tempfile.TemporaryFile()  # noqa: SIM115  # it is read when the process has ended
        told = json.dumps({"rank": rank, "count": count, "port": store.port})
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _FOLLOW, told],
            stdin=subprocess.PIPE,  # its end tells them that this process is gone
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=os.environ | _QUIET | {"LOCAL_RANK": str(rank), "PYTHONPATH": path},
        )
        children.append((child, said))
    try:
        _await(store, children)
        ranks = Ranks(0, count, store)
    finally:
        if not dist.is_initialized():
            for child, said in children:
                end(child, said, 0.0)
    for child, said in children:
        ranks.hold(child, said)
    return ranks
