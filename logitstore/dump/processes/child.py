"""A process that writes parts for the one that started it: parts to write come through a pipe, what comes of them goes back.

Whoever is gone has closed its end of a pipe. A process that reads the end of its pipe drops the part that it has begun, after
the batch in work, and ends; one that writes none is interrupted, as by Ctrl-C.
"""

from __future__ import annotations

import _thread
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue

import torch

from logitstore.core.processes.member import portable
from logitstore.core.progress import Progress, Step
from logitstore.dump.parts import PartsWriter
from logitstore.dump.processes.messages import END, GRACE_SECONDS, Done, Failed, Rows
from logitstore.dump.processes.workers import THREADS

Open = Callable[[Progress], PartsWriter]
"""Begins what is written where nobody has begun it, and returns what writes its parts."""

Opening = Callable[[Progress], Open]
"""Loads the teacher. It can be pickled, and called in any process."""


def main(asked: int, told: int) -> None:
    """Serve as a process of its own; end with 130 after an interrupt.

    Args:
        asked, told: descriptors of the pipes that are read and written.
    """
    # whoever runs commands in the background may have had the signal ignored, or blocked, and what they start inherits that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    torch.set_num_threads(int(os.environ[THREADS].partition(",")[0]))
    try:
        serve(Connection(asked, writable=False), Connection(told, readable=False))
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)


def serve(asked: Connection, told: Connection) -> None:
    """Load the teacher, then write parts until there are no more. The first message is the opening, the others are jobs.

    Raises:
        BrokenPipeError: nobody listens any more.
    """
    messages: SimpleQueue[bytes] = SimpleQueue()
    is_gone, is_writing = threading.Event(), threading.Event()
    _thread.start_new_thread(_listen, (asked, messages, is_gone, is_writing))

    def progress(step: Step) -> None:
        told.send(step)

    def report_rows(rows: int) -> None:
        if is_gone.is_set():
            raise KeyboardInterrupt
        told.send(Rows(rows))

    opened: Open | None = None
    writer: PartsWriter | None = None
    while message := messages.get():
        try:
            value = pickle.loads(message)
            if opened is None:
                opened = value(progress)
            else:
                writer = writer or opened(progress)
                if value.part is not None:
                    is_writing.set()
                    writer.write(value.part, value.names, report_rows)
                    is_writing.clear()
        except Exception as error:
            told.send(Failed(portable(error), error.__cause__ and portable(error.__cause__)))
            return
        told.send(Done())


def _listen(
    asked: Connection, messages: SimpleQueue[bytes], is_gone: threading.Event, is_writing: threading.Event
) -> None:
    """Pass messages on; end the main thread's work when whoever sends them is gone.

    A part that is being written ends after the batch in work: an interrupt at any moment can leave some of it behind.
    """
    try:
        while message := asked.recv_bytes():
            messages.put(message)
        messages.put(END)
    except (EOFError, OSError):
        messages.put(END)
        is_gone.set()
        if not is_writing.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(GRACE_SECONDS)
        os._exit(130)
