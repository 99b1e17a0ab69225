"""A real object store on this machine: moto's server, which honours conditional writes, and a bucket in it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

BUCKET = "bucket"


@contextmanager
def served() -> Iterator[str]:
    """Start a server with an empty bucket; gives its address."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _answers(f"{address}/moto-api/"):
            assert process.poll() is None, "the server of objects ended"
            assert time.monotonic() < deadline, "the server of objects hangs"
            time.sleep(0.05)
        urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"))
        yield address
    finally:
        process.kill()
        process.wait()


def _answers(address: str) -> bool:
    with suppress(OSError):
        urllib.request.urlopen(address, timeout=1).close()
        return True
    return False


def variables(address: str) -> dict[str, str]:
    """The variables that lead to the server."""
    return {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }
