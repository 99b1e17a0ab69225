"""The command line in a process of its own, without the seconds that importing torch and transformers takes.

A server imports everything once. For each command it forks a child, which then runs `logitstore` as a fresh process would:
its own process id, environment, output and end. A child can be killed like any process.
"""

from __future__ import annotations

import atexit
import faulthandler
import functools
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.parts.places import ROOT

PACKAGES = ("logitstore", "logitstore_cli")
LIBRARY = "faults.so"
MODELS = ("llama.modeling_llama", "vit.modeling_vit", "vit.image_processing_vit", "vit.image_processing_pil_vit")


class WarmProcess:
    """A command that runs, with the methods of `subprocess.Popen` that the tests need.

    What it prints goes to files: to those that are given, or to others that `communicate` reads.
    """

    def __init__(self, *arguments: object, stderr: IO[str] | None = None, **variables: str) -> None:
        self.stdout = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process runs
        self.stderr = stderr or tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._ask(
            [self.stdout.fileno(), self.stderr.fileno()], os.environ | variables, arguments=[*map(str, arguments)]
        )

    def _ask(self, files: Sequence[int], variables: Mapping[str, str], **asked: Any) -> None:
        self.returncode: int | None = None
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(_server())
        asked |= {"folder": os.getcwd(), "variables": dict(variables)}
        socket.send_fds(self._server, [b"files"], files)
        self._server.sendall(json.dumps(asked).encode() + b"\n")
        self._answers = self._server.makefile()
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        """The exit code, or None as long as it runs."""
        if self.returncode is None and select.select([self._server], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """The exit code, once it has ended; the number of a signal that ended it, negative."""
        if self.returncode is None:
            if not select.select([self._server], [], [], timeout)[0]:
                raise TimeoutError(f"the command still runs after {timeout} seconds")
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._server.close()
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What it printed, once it has ended."""
        self.wait(timeout)
        printed = []
        for file in (self.stdout, self.stderr):
            file.seek(0)
            printed.append(file.read())
            file.close()
        return printed[0], printed[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End it, if it still runs."""
        self.kill()
        self.wait()
        self.stdout.close()
        self.stderr.close()


class WarmMember(WarmProcess):
    """One of several processes that write parts; see `logitstore.dump.processes.workers.launch`."""

    def __init__(self, pipes: tuple[int, int], printed: IO[bytes], variables: Mapping[str, str]) -> None:
        self._ask([printed.fileno(), printed.fileno(), *pipes], variables, arguments=[])

    def close(self) -> None:
        """End it, if it still runs."""
        self.kill()
        self.wait()


def free_port() -> int:
    """A port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


SERVER = "LOGITSTORE_WARM_SERVER"
"""The variable that names the address of a server that other processes may use too."""


def serve_all() -> None:
    """Start a server that the processes that are started from now on use together; it ends with this process."""
    os.environ[SERVER] = _started()


def can_refuse() -> bool:
    """Say whether calls of a command can be refused here, by the variables of `faults.c`."""
    return shutil.which("cc") is not None and sys.platform.startswith("linux")


def _library(folder: Path) -> Path | None:
    """Make the library that refuses calls; it is loaded before all others, and does nothing without its variables."""
    if not can_refuse():
        return None
    source = ROOT / "tests" / "parts" / "faults.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", folder / LIBRARY, source, "-ldl"], check=True)
    return folder / LIBRARY


@functools.cache
def _server() -> str:
    """The address of a server that is ready."""
    address = os.environ.get(SERVER) or _started()
    deadline = time.monotonic() + 300
    while not Path(address).exists():
        assert Path(address).parent.exists(), "the server of warm processes ended"
        assert time.monotonic() < deadline, "the server of warm processes hangs"
        time.sleep(0.01)
    return address


def _started() -> str:
    """Start a server that ends with this process; return the address at which it will be."""
    address = str(Path(tempfile.mkdtemp(prefix="warm-")) / "server")
    library = _library(Path(address).parent)
    # a shell starts its background jobs with SIGINT ignored, and what they start would inherit that
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, address],
        cwd=ROOT,
        env=os.environ | ({"LD_PRELOAD": str(library)} if library else {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )

    def end() -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        shutil.rmtree(Path(address).parent, ignore_errors=True)

    atexit.register(end)
    return address


def _import_all() -> None:
    """Import what a command may need; none of it may start a thread."""
    from logitstore_cli import main  # noqa: PLC0415 - the variables must be set before the libraries load

    main._quiet_libraries()
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in MODELS:
        importlib.import_module(f"transformers.models.{name}")
    for name in ("accelerate", "zarr", "tokenizers"):
        importlib.import_module(name)


def _serve(address: str) -> dict[str, Any]:
    """Answer until whoever started this is gone; comes back in a child alone, with what it is asked to run."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{address}.new")
    server.listen(64)
    os.rename(f"{address}.new", address)
    while True:
        ready, _, _ = select.select([server, sys.stdin], [], [], 1)
        # children that have ended
        while _reaped():
            pass
        if sys.stdin in ready:
            os._exit(0)
        if server in ready:
            asker, _ = server.accept()
            if os.fork() == 0:
                server.close()
                return _run_beside(asker)
            asker.close()


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _run_beside(asker: socket.socket) -> dict[str, Any]:
    """Fork once more: the child goes on, this process tells its number and its end."""
    _, files, _, _ = socket.recv_fds(asker, 5, 4)
    with asker.makefile() as lines:
        asked: dict[str, Any] = json.loads(lines.readline())
    child = os.fork()
    if child:
        asker.sendall(f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        asker.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    asker.close()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    for file in files[:2]:
        os.close(file)
    return asked | {"pipes": files[2:]}


def _become(arguments: list[str], folder: str, variables: Mapping[str, str], pipes: Sequence[int]) -> None:
    """Make this process what a fresh one would be, whose own processes are as warm."""
    import datasets  # noqa: PLC0415

    from logitstore.dump.processes import workers  # noqa: PLC0415

    workers.launch = WarmMember
    variables = {SERVER: sys.argv[1], **variables}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _limit(variables)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    datasets.config.HF_DATASETS_CACHE = Path(variables["HF_DATASETS_CACHE"])
    sys.argv = ["logitstore", *arguments]
    # after the folder of the script, as Python does at its start
    sys.path[1:1] = [path for path in variables.get("PYTHONPATH", "").split(os.pathsep) if path]
    # by this the help knows the name of the command
    sys.modules["__main__"].__package__ = None


def _limit(variables: Mapping[str, str]) -> None:
    """End this process after some seconds, with the stacks of its threads, and refuse it more than some further bytes."""
    if seconds := variables.get("ATTACK_SECONDS"):
        faulthandler.dump_traceback_later(int(seconds), exit=True, file=sys.__stderr__)
    if memory := variables.get("ATTACK_MEMORY"):
        with open("/proc/self/status") as status:
            sizes = dict(line.split(":", 1) for line in status)
        most = (int(sizes["VmData"].split()[0]) << 10) + int(memory)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _run(pipes: Sequence[int]) -> None:
    """Run the command line, or write parts, and end as a process does, but for taking apart every module."""
    from logitstore_cli.main import run  # noqa: PLC0415

    from logitstore.dump.processes.child import main  # noqa: PLC0415

    code: Any = 1
    try:
        main(*pipes) if pipes else run()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        _import_all()
    except BaseException:
        # by this those who wait for it know that it ended
        shutil.rmtree(Path(sys.argv[1]).parent)
        raise
    gc.freeze()
    asked = _serve(sys.argv[1])
    _become(**asked)
    _run(asked["pipes"])
