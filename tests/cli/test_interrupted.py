"""Ctrl-C ends a command in one line."""

from __future__ import annotations

import subprocess
import sys


def test_ctrl_c_within_a_write_of_zarr_python_says_nothing_of_its_event_loop() -> None:
    code = """
import asyncio, threading
from zarr.core import sync
from logitstore_cli import main

begun = threading.Event()

async def write():
    begun.set()
    await asyncio.sleep(60)

def interrupted(**options):
    asyncio.run_coroutine_threadsafe(sync._runner(write()), sync._get_loop())
    assert begun.wait(60)
    raise KeyboardInterrupt

main.app = interrupted
main.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
