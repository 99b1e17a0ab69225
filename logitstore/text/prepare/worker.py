"""A process that tokenises: it reads rows from its standard input, and writes tokens to its standard output.

It is started with a command of its own, and not forked: the process that prepares has threads, of torch among others.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from typing import Any, BinaryIO

import pyarrow as pa

from logitstore.errors import LogitstoreError
from logitstore.text.prepare.encoded import Encoded, Job, Rows, encoded


def packed(batch: pa.RecordBatch) -> bytes:
    """Return a record batch as bytes: of a slice, nothing but the slice."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def unpacked(content: bytes) -> pa.RecordBatch:
    """Return the record batch that `packed` was given."""
    return pa.ipc.open_stream(content).read_next_batch()


def serve() -> None:
    """Answer until the input ends. A message is (job or None, rows); an answer is (tokens or None, notices, error or None)."""
    # a Ctrl-C is for the process that prepares; this one ends with its input
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # what a library prints is no answer
    os.dup2(2, 1)
    jobs: dict[int, Job] = {}
    while (message := _next(given)) is not None:
        number, job, values, documents_D, numbers_D = message
        pickle.dump(_answer(jobs, number, job, values, documents_D, numbers_D), answers, protocol=5)
        answers.flush()


def _next(given: BinaryIO) -> Any:
    try:
        return pickle.load(given)
    except EOFError:
        return None


def _answer(jobs: dict[int, Job], number: int, job: bytes | None, values: Any, *places: Any) -> tuple[Any, ...]:
    try:
        if job is not None:
            jobs[number] = pickle.loads(job)
        rows = values if isinstance(values, dict) else unpacked(values)
        found: Encoded = encoded(jobs[number], Rows(values=rows, documents_D=places[0], numbers_D=places[1]))
    except Exception as error:
        return None, [], _told(error)
    return packed(found.pairs), found.notices, None


def _told(error: Exception) -> Exception:
    """Return an error that another process can raise, with the place where it came from if it is a bug."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    if not isinstance(error, LogitstoreError):
        error.add_note("".join(traceback.format_exception(error)))
    return error
