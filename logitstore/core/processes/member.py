"""A process that does pieces of work: they come through its standard input, and what comes of them goes to its standard output.

It is started with a command of its own, and not forked: whoever starts it has threads, and perhaps a main module that must not
run again.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from logitstore.errors import LogitstoreError


def serve() -> None:
    """Answer until the input ends. A message is (number, what makes the work or None, job); an answer is (result, error)."""
    # a Ctrl-C is for the process that gives the jobs; this one ends with its input
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # what a library prints is no answer
    os.dup2(2, 1)
    works: dict[int, Callable[[Any], Any]] = {}
    while (message := _next(given)) is not None:
        try:
            pickle.dump(_answer(works, *message), answers, protocol=5)
            answers.flush()
        except BrokenPipeError:
            return


def _next(given: BinaryIO) -> Any:
    try:
        return pickle.load(given)
    except (EOFError, pickle.UnpicklingError):
        return None  # whoever gave the jobs is gone


def _answer(works: dict[int, Callable[[Any], Any]], number: int, make: bytes | None, job: bytes) -> tuple[Any, Any]:
    try:
        if make is not None:
            works[number] = pickle.loads(make)()
        return works[number](pickle.loads(job)), None
    except Exception as error:
        return None, portable(error)


def portable(error: BaseException) -> BaseException:
    """Return an error that can be pickled, itself or another with its text. What is no refusal says where it was raised."""
    if not isinstance(error, LogitstoreError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except (pickle.PickleError, TypeError, AttributeError, ValueError):
        other = RuntimeError(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            other.add_note(note)
        return other
    return error
