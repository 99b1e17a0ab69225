"""The other processes of a teacher that is split over several: they run what the first one tells them, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

import torch
import torch.distributed as dist

from logitstore.core.record import Record
from logitstore.errors import LogitstoreError
from logitstore.models.load import load_config, load_weights
from logitstore.models.placing.launch import check_in, join, joined, launched, meeting
from logitstore.models.placing.ranks import Forward, Gather, Load, Ranks, moved
from logitstore.models.placing.weights import whole_by_name


def takes_part(settings: Record) -> bool:
    """Join the other processes of torchrun, where the teacher of a command is split over them.

    Returns:
        True where this process only follows, and has done so to the end.

    Raises:
        BadInput: they are not as many as the teacher is split over.
    """
    count = getattr(settings, "tensor_parallel", 1)
    if count == 1 or not launched():
        return False
    ranks = join(count)
    if ranks.rank == 0:
        return False
    run(ranks)
    return True


def follow() -> None:
    """Follow the process that has started this one, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C goes to the leader, which lets this process end
    threading.Thread(target=_end_with_leader, daemon=True).start()
    told = json.loads(sys.argv[1])
    store = meeting(told["port"], told["count"], is_leader=False)
    check_in(store, told["rank"])
    ranks = Ranks(told["rank"], told["count"], store)
    joined.append(ranks)
    try:
        run(ranks)
    except LogitstoreError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def _end_with_leader() -> None:
    os.read(0, 1)  # nothing comes but the end of the pipe
    os._exit(1)


def run(ranks: Ranks) -> None:
    """Do what the leader says, until it has nothing more to say."""
    model: Any = None
    with torch.inference_mode():
        while (said := ranks.hear()) is not None:
            if isinstance(said, Load):
                with torch.inference_mode(mode=False):
                    model = load_weights(said.model, load_config(said.model), said.dtype, said.task, said.placement)
            elif isinstance(said, Forward):
                model(*moved(said.inputs, ranks.device), **moved(said.options, ranks.device))
            elif isinstance(said, Gather):
                whole_by_name(model, said.name)
    dist.destroy_process_group()
