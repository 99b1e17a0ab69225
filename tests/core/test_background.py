"""Threads that work in the background: order, errors, and a Ctrl-C at any moment."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from logitstore.core.background import BackgroundThread, Workers, _end_all, to_the_end


def test_work_is_done_in_its_order_on_one_other_thread() -> None:
    done: list[tuple[int, int]] = []
    with BackgroundThread(3) as thread:
        for number in range(50):
            thread.submit(lambda number: done.append((number, threading.get_ident())), number)
    assert [number for number, _ in done] == list(range(50))
    assert len({ident for _, ident in done}) == 1
    assert done[0][1] != threading.get_ident()


def test_the_queue_is_bounded() -> None:
    gate, begun = threading.Event(), []
    with BackgroundThread(2) as thread:
        thread.submit(gate.wait)
        thread.submit(begun.append, 1)
        threading.Timer(0.05, gate.set).start()
        thread.submit(begun.append, 2)
        assert gate.is_set()


def test_an_error_is_raised_on_the_thread_that_gives_the_work_and_what_came_after_it_is_left_out() -> None:
    done: list[int] = []

    def fail() -> None:
        time.sleep(0.02)
        raise ValueError("a full disk")

    def give(depth: int) -> None:
        with BackgroundThread(depth) as thread:
            thread.submit(fail)
            thread.submit(done.append, depth)

    for depth in (4, 1):
        with pytest.raises(ValueError, match="a full disk"):
            give(depth)
    assert done == []


def test_results_and_errors_come_back_to_whoever_asks() -> None:
    workers = Workers(3)
    pending = [workers.submit(divmod, 7, number) for number in (2, 0, 3)]
    assert pending[0].result() == (3, 1)
    with pytest.raises(ZeroDivisionError):
        pending[1].result()
    assert pending[2].result() == (2, 1)
    workers.close()
    workers.wait()


def test_what_is_dropped_is_not_begun() -> None:
    done: list[int] = []
    gate = threading.Event()
    workers = Workers(1)
    workers.submit(gate.wait)
    workers.submit(done.append, 1).drop()
    workers.submit(done.append, 2)
    workers.close(drop=True)
    gate.set()
    workers.wait()
    assert done == []


def submit_some(interrupt_at: int) -> bool:
    """Give work with a Ctrl-C at one instruction; return whether there are so many."""
    instructions = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal instructions
        frame.f_trace_opcodes = True
        if event == "opcode":
            instructions += 1
            if instructions == interrupt_at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    with suppress(KeyboardInterrupt), BackgroundThread(2) as thread:
        sys.settrace(trace)
        for number in range(3):
            thread.submit(abs, number)
        sys.settrace(None)
    return instructions >= interrupt_at


@pytest.mark.attack
def test_a_ctrl_c_at_any_instruction_of_giving_work_leaves_no_thread_waiting() -> None:
    def hangs(number: int, frame: object) -> None:
        raise TimeoutError("a thread waits for ever")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(60)
    at = 1
    try:
        while submit_some(at):
            at += 1
        _end_all()
    finally:
        sys.settrace(None)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert at > 50


def test_an_interrupt_waits_for_work_that_must_not_be_cut_off() -> None:
    begun, steps = threading.Event(), []

    def work() -> None:
        begun.set()
        for step in range(20):
            time.sleep(0.005)
            steps.append(step)

    def interrupt() -> None:
        begun.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    # whoever runs the tests in the background has the signal ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    other = threading.Thread(target=interrupt)
    try:
        other.start()
        with pytest.raises(KeyboardInterrupt):
            to_the_end(work)
        other.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == list(range(20))
    assert to_the_end(max, 3, 4) == 4
    with pytest.raises(ZeroDivisionError):
        to_the_end(divmod, 1, 0)
