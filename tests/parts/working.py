"""Work for other processes; light to import."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from logitstore.errors import BadInput


def doubled(refused: int = -1, killed: int = -1, interrupted: int = -1) -> Callable[[int], tuple[int, int]]:
    """Return what doubles numbers and says which process did it. It refuses one number, or dies of one, or is interrupted."""

    def work(number: int) -> tuple[int, int]:
        if number == refused:
            raise BadInput(f"{number}: it is seven.")
        if number in (killed, interrupted):
            os.kill(os.getpid(), signal.SIGKILL if number == killed else signal.SIGINT)
        return 2 * number, os.getpid()

    return work
