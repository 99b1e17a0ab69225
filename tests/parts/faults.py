"""Commands of which the system refuses one call. Run as a program with the library of `faults.c` loaded before all others.

It reads one case a line, as JSON: the arguments and the variables of a command. It runs each in a process of its own, forked
from one that has the libraries loaded, and answers with the exit code and the error stream.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile

from tests.parts.warm import _become, _import_all, _run


def _answer(case: dict[str, object]) -> dict[str, object]:
    with tempfile.TemporaryFile("w+") as printed:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(0, 1)
            os.dup2(printed.fileno(), 2)
            arguments, variables = case["arguments"], case["variables"]
            _become(arguments, os.getcwd(), os.environ | variables)  # type: ignore[arg-type,operator]
            _run()
        _, status = os.waitpid(child, 0)
        printed.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "stderr": printed.read()}


if __name__ == "__main__":
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_all()
    gc.freeze()
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=out, flush=True)
