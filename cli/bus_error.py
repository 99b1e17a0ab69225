"""Say in one line that a mapped file was cut off, or can no longer be read, while it was in use: the system sends SIGBUS then.

A handler of Python's own would never run, because the instruction that failed would be tried again first. The handler here is
called by the C library, on the thread that reads the file; it prints its line and ends the process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import Any

_SA_SIGINFO = 4
_ADDRESS_AT = 16
"""Where the address of the fault stands in `siginfo_t`, on 64-bit Linux."""

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    """`struct sigaction` of 64-bit Linux with the GNU library."""

    _fields_ = (
        ("handler", _HANDLER),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_installed: list[Any] = []
"""The handler: the system calls it as long as the process lives."""


def tell_of_bus_errors() -> None:
    """Install the handler, once, on the systems whose structures are known; others end by the signal itself."""
    if _installed or not sys.platform.startswith("linux") or sys.maxsize < 2**32:
        return
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        if not hasattr(library, "gnu_get_libc_version"):
            return
        handler = _HANDLER(_end)
        action = _Action(handler=handler, flags=_SA_SIGINFO)
        if library.sigaction(int(signal.SIGBUS), ctypes.byref(action), None) == 0:
            _installed.append(handler)


def _end(number: int, info: int, context: int) -> None:
    try:
        address = ctypes.c_uint64.from_address(info + _ADDRESS_AT).value
        file = _mapped_at(address) or "a mapped file"
        line = (
            f"error: {file}: it was cut off, or its disk failed, while it was read. "
            "Run `logitstore verify` on the cache, and the same command again.\n"
        )
        os.write(2, line.encode(errors="backslashreplace"))
    finally:
        os._exit(2)


def _mapped_at(address: int) -> str | None:
    """Return the file that is mapped where an address lies."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            span, _, rest = line.partition(" ")
            first, _, last = span.partition("-")
            if int(first, 16) <= address < int(last, 16):
                pieces = rest.split(None, 4)
                return pieces[4].rstrip("\n") if len(pieces) > 4 else None
    return None
