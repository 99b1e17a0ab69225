"""Several processes that compute one teacher together: the first one leads, and the others do what it tells them.

The leader alone reads data, writes parts and reports. The others hold their share of every layer. Whatever the leader asks of
the model it tells them first, so that all of them run the same operations in the same order.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import IO, Any

import torch
import torch.distributed as dist
from torch import Tensor

from logitstore.core.types import ModelRef
from logitstore.errors import ModelError, one_line
from logitstore.models.placing.placement import Placement

JOINING = timedelta(minutes=10)
_LOADING = timedelta(hours=2)
_IDLE = timedelta(days=30)
"""How long the others wait for the leader, which may prepare data or write meanwhile. They end with it."""
_LOST = re.compile(r"[Cc]onnection|gloo|NCCL|[Bb]roken pipe|[Ss]ocket")
"""What the libraries say when another process is gone."""
_MARK = re.compile(r"^\[rank\d+\]:")
_ENDING, _GRACE = 10.0, 60.0
"""Seconds that a process is given to end by itself, and that the leader is given to notice that one has ended."""


@dataclass(frozen=True)
class Load:
    """Load a model: all processes read their own shares of its weights."""

    model: ModelRef
    dtype: torch.dtype
    task: str
    placement: Placement


@dataclass(frozen=True)
class Forward:
    """Run the model."""

    inputs: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Gather:
    """Give a share of a parameter to the leader."""

    name: str


class Ranks:
    """The processes of one teacher, as each of them sees the others.

    Attributes:
        count: of the processes.
        rank: number of this one; 0 leads.
    """

    def __init__(self, rank: int, count: int, store: Any = None) -> None:
        """Join the others, and wait until all are there."""
        self.rank, self.count = rank, count
        self._children: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        self._is_open, self._is_busy = True, False
        accelerator = torch.accelerator.current_accelerator()
        kind = "cpu" if accelerator is None or accelerator.type == "mps" else accelerator.type
        self.device = torch.device(kind)
        if kind != "cpu":
            number = int(os.environ.get("LOCAL_RANK", rank))
            torch.accelerator.set_device_index(number)
            self.device = torch.device(kind, number)
        backend = dist.get_default_backend_for_device(self.device)
        dist.init_process_group(
            backend,
            init_method="env://" if store is None else None,
            store=store,
            rank=rank,
            world_size=count,
            timeout=_LOADING,
            device_id=self.device if backend == "nccl" else None,
        )
        self._said = dist.new_group(backend="gloo", timeout=_IDLE)

    def tell(self, said: object) -> None:
        """Tell the others what is done next; None lets them end."""
        self._is_busy = True
        dist.broadcast_object_list([said], src=0, group=self._said)

    def hear(self) -> Any:
        """Wait for what the leader says."""
        said: list[Any] = [None]
        dist.broadcast_object_list(said, src=0, group=self._said)
        return said[0]

    def lead(self, model: Any) -> None:
        """Let the others run a model with this process, whenever it is called here."""
        model.ranks = self
        if self.rank:
            return
        run = model.forward

        @functools.wraps(run)
        def with_others(*inputs: Any, **options: Any) -> Any:
            with self._together(Forward(moved(inputs, "cpu"), moved(options, "cpu"))):
                return run(*inputs, **options)

        model.forward = with_others
        weakref.finalize(model, self.close)

    def gathered(self, name: str, share: Any) -> Tensor:
        """Return a parameter whole, of which each process has a share."""
        with self._together(Gather(name)):
            found: Tensor = share.full_tensor()
        return found

    @contextmanager
    def loading(self, order: Load) -> Iterator[None]:
        """Load a model on all processes: the leader in the context, the others when they hear of it."""
        with self._together(order):
            yield

    @contextmanager
    def _together(self, order: object) -> Iterator[None]:
        """Do in the context what the others do as well.

        Raises:
            ModelError: one of them has ended.
        """
        if self.rank:
            yield  # whoever follows was told already
            return
        try:
            self.tell(order)
            yield
        except (RuntimeError, ModelError) as error:
            if not _LOST.search(str(error)):
                raise
            raise self._lost(error) from error
        self._is_busy = False

    def _lost(self, error: Exception) -> ModelError:
        """Return what to tell of a lost connection: which other process has ended, and why."""
        until = time.monotonic() + _ENDING
        while time.monotonic() < until:
            for number, (child, said) in enumerate(self._children, 1):
                if child.poll() is not None:
                    return ended(number, self.count, child, said)
            time.sleep(0.05)
        return ModelError(f"a process that computes the teacher with this one is gone: {one_line(error)}")

    def close(self) -> None:
        """Let the other processes end, where this one leads. It may be called more than once."""
        if self.rank or not self._is_open:
            return
        self._is_open = False
        # what was interrupted has left the others somewhere in the middle, where they hear nothing
        is_sound = not self._is_busy and all(child.poll() is None for child, _ in self._children)
        if is_sound:
            with suppress(RuntimeError):
                self.tell(None)
        for child, said in self._children:
            end(child, said, _ENDING if is_sound else 0.0)
        if is_sound or dist.get_backend() == "gloo":
            dist.destroy_process_group()

    def hold(self, child: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        """Hold a process that was started for this teacher."""
        self._children.append((child, said))
        if dist.get_backend() != "gloo":  # there an operation fails when another process is gone; elsewhere it waits
            number = len(self._children)
            threading.Thread(target=self._end_with, args=(number, child, said), daemon=True).start()

    def _end_with(self, number: int, child: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        """End this process if another has ended and nobody noticed, because an accelerator waits for it."""
        child.wait()
        time.sleep(_GRACE)
        if self._is_open:
            sys.stderr.write(f"error: {ended(number, self.count, child, said)}\n")
            sys.stderr.flush()
            os._exit(2)


def moved(value: Any, device: Any) -> Any:
    """Return inputs of a model with their tensors on another device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(each, device) for name, each in value.items()}
    return type(value)(moved(each, device) for each in value) if isinstance(value, list | tuple) else value


def ended(number: int, count: int, child: subprocess.Popen[bytes], said: IO[bytes]) -> ModelError:
    """Return what to tell of a process that has ended: the last line that it wrote, or the signal that ended it."""
    who = f"process {number} of the {count} that compute the teacher"
    if child.returncode < 0:
        return ModelError(f"{who} was ended by signal {-child.returncode}. The machine may be out of memory.")
    said.seek(0)
    lines = [_MARK.sub("", line).strip() for line in said.read().decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    reason = f": {last.removeprefix('error: '):.300}" if last else f" with code {child.returncode}"
    return ModelError(f"{who} has ended{reason.rstrip('.')}.")


def end(child: subprocess.Popen[bytes], said: IO[bytes], seconds: float) -> None:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdin is not None:
        child.stdin.close()
    said.close()
