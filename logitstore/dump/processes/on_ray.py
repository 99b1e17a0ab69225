"""Workers on a cluster, by Ray: each actor keeps one process that serves, wherever Ray has room for it.

What the process says comes back as answers of the actor, and never rows: those go from the process to the cache. An actor is
not detached, so it ends with the command; its process then reads the end of its pipe, drops the part that it has begun, and
ends.
"""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from logitstore.dump.processes.keeper import Heard, Keeper
from logitstore.dump.processes.messages import Told
from logitstore.dump.processes.workers import GPUS, THREADS, Rules, Seat, Worker
from logitstore.errors import BadInput, one_line

LOCAL = "ray"
"""What the user writes for the cluster that RAY_ADDRESS names, or that this machine is part of, or else one of its own."""

STORE_BYTES = 100_000_000
"""Memory for the objects of a Ray of this machine's own: nothing but short messages go through it."""

TRIES = 3

LATE = 3.0

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # lines that Ray would print of workers that died; what they said is told by this command
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    # the meaning that later versions give to actors without GPUs
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

ANSWERS = 5.0
"""Seconds in which the machine of a cluster takes a connection."""

_CALLS = 4
"""Calls of an actor that run at the same time: one waits for what is said, while another passes a job on."""


def ray() -> Any:
    """Return the library Ray.

    Raises:
        BadInput: it is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise BadInput(
            f"--cluster needs Ray, which cannot be imported ({one_line(error)}). Install it: pip install 'logitstore[ray]'."
        ) from error


def last_cluster() -> str | None:
    """Return the address of the cluster that Ray began last on this machine, as `host:port`; None where it keeps none."""
    try:
        found: str | None = importlib.import_module("ray._private.utils").read_ray_address()
    except (ImportError, AttributeError):  # another version keeps it elsewhere, and finds the cluster itself
        return None
    return found


def refuse_gone(address: str | None) -> None:
    """Refuse a cluster that nobody answers for: of one that was killed Ray keeps the address, and asks it for minutes.

    Args:
        address: `host:port`; None for none.

    Raises:
        ConnectionError: nothing listens there.
    """
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS).close()
    except OSError as error:
        raise ConnectionError(f"nothing listens at {address}") from error


class RayWorker:
    """One actor with its process, as the command sees it."""

    def __init__(self, name: str, keeper: Any) -> None:
        self._called, self.place = name.removesuffix(")"), ""
        self.name = name
        self._ray, self._keeper = ray(), keeper
        self._said: deque[bytes] = deque()
        self._ended: str | None = None
        self.answer = keeper.hear.remote()
        self._ending: Any = None

    @property
    def is_heard(self) -> bool:
        """Whether there is something to hear without asking the actor."""
        return bool(self._said) or self._ended is not None

    def send(self, message: bytes) -> None:
        # of an actor that is dead the next answer tells
        self._keeper.send.remote(message)

    def hear(self) -> Told | None:
        if not self.is_heard:
            try:
                heard: Heard = self._ray.get(self.answer)
            except self._ray.exceptions.RayError as error:
                self._ended = f"was lost: {_why(error)}"
            else:
                self._said.extend(heard.messages)
                self.place, self._ended = heard.place, heard.ended
                self.name = f"{self._called}, {heard.host})"
                if self._ended is None:
                    self.answer = self._keeper.hear.remote()
        if not self._said:
            return None
        said: Told = pickle.loads(self._said.popleft())
        return said

    def leave(self, *, is_over: bool) -> None:
        # one whose place nobody knows has no process yet
        if self.place and self._ending is None:
            self._ending = self._keeper.end.remote(is_over)

    def end(self, deadline: float) -> None:
        if self._ending is not None:
            self._ray.wait([self._ending], timeout=max(deadline - time.monotonic(), 0.0))
        self._ray.kill(self._keeper, no_restart=True)

    def how_it_ended(self) -> str:
        return self._ended or "has ended"


def _why(error: BaseException) -> str:
    """Return the line of an error of Ray that says most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = [line for line in lines if line.startswith("The actor ") or "Error: " in line]
    return (found or lines or [type(error).__name__])[-1].partition(" Worker exit type")[0][:300]


class RayCrew:
    """Workers on a cluster.

    Args:
        cluster: `LOCAL`, or the address of a cluster, `ray://host:port`.
        count: of the workers; None for as many as there is room for.
        gpus: for each of them, also a part of one; None for one where the cluster has GPUs.
    """

    rules = Rules(option="--cluster", noun="worker", tries=TRIES, goes_on=True, late=LATE)

    def __init__(self, cluster: str, count: int | None, gpus: float | None) -> None:
        self._cluster, self._wanted, self._gpus = cluster, count, gpus
        self._ray = ray()

    def open(self, most: int) -> int:
        self._is_ours, self._is_here = not self._ray.is_initialized(), False
        if self._is_ours:
            self._connect()
        try:
            return self._count(most)
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        """Join the cluster, or start one on this machine.

        Raises:
            BadInput: nothing answers at the address.
        """
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        address = None if self._cluster == LOCAL else self._cluster
        if address is None and "RAY_ADDRESS" not in os.environ:
            try:
                refuse_gone(last_cluster())
                self._ray.init(address="auto", **quiet)
            except ConnectionError:
                self._is_here = True
                self._ray.init(address="local", include_dashboard=False, object_store_memory=STORE_BYTES, **quiet)
            return
        try:
            refuse_gone((address or os.environ["RAY_ADDRESS"]).removeprefix("ray://"))
            self._ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = address or f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}"
            raise BadInput(
                f"--cluster {self._cluster}: no cluster of Ray answers at {where} ({one_line(error)}). Start one with "
                "`ray start --head`, or give --cluster ray for one on this machine."
            ) from error

    def _count(self, most: int) -> int:
        """Return how many workers there shall be, and decide what each of them gets.

        Raises:
            BadInput: there is room for none.
        """
        has, free = self._ray.cluster_resources(), self._ray.available_resources()
        if self._gpus is None:
            self._gpus = 1.0 if has.get("GPU") else 0.0
        cores = int(has.get("CPU", 0))
        threads = os.environ.get(THREADS, "").partition(",")[0]
        if self._gpus:
            room, what = int(free.get("GPU", 0) / self._gpus), _counted(self._gpus, "GPU")
            each = int(threads or max(cores // (self._wanted or max(room, 1)), 1))
            self._cpus = 1
        else:
            each = self._cpus = int(threads or max(cores // (self._wanted or cores or 1), 1))
            room, what = int(free.get("CPU", 0) // each), _counted(each, "core")
        if self._wanted is None and room == 0:
            raise BadInput(
                f"--cluster {self._cluster}: there is room for no worker; each takes {what}, and {_free(free)} are free. Wait, "
                "give --gpus-per-worker less, or give --processes N to wait for a place, also in a cluster that grows."
            )
        variables = {THREADS: str(each)} | ({} if self._gpus else {GPUS: ""})
        self._seat = Seat(
            name=_counted(self._gpus, "GPU") if self._gpus else _counted(each, "core"), variables=variables
        )
        return min(self._wanted or room, most)

    def start(self, number: int, opening: bytes) -> RayWorker:
        name = f"{self.rules.noun} {number} ({self._seat.name})"
        options: dict[str, Any] = {
            "num_cpus": self._cpus,
            "num_gpus": self._gpus,
            "max_concurrency": _CALLS,
            # lost workers and their parts are seen to by the pool
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        # on this machine the modules of this process; elsewhere logitstore is installed, or the variable is set here
        path = os.pathsep.join(filter(None, sys.path)) if self._is_here else os.environ.get("PYTHONPATH")
        if path:
            options["runtime_env"] = {"env_vars": {"PYTHONPATH": path}}
        actor = self._ray.remote(Keeper).options(**options)
        return RayWorker(name, actor.remote(name, self._seat, opening, os.getcwd()))

    def heard(self, workers: Sequence[Worker], seconds: float | None) -> list[Worker]:
        ours = [worker for worker in workers if isinstance(worker, RayWorker)]
        if told := [worker for worker in ours if worker.is_heard]:
            return list(told)
        answers = {worker.answer: worker for worker in ours}
        first, _ = self._ray.wait(list(answers), timeout=seconds)
        if not first:
            return []
        ready, _ = self._ray.wait(list(answers), num_returns=len(answers), timeout=0)
        return [answers[each] for each in ready or first]

    def close(self) -> None:
        if self._is_ours:
            self._ray.shutdown()


def _free(resources: dict[str, float]) -> str:
    return f"{_counted(resources.get('CPU', 0), 'core')} and {_counted(resources.get('GPU', 0), 'GPU')}"


def _counted(count: float, noun: str) -> str:
    return f"{count:g} {noun}{'' if count == 1 else 's'}"
