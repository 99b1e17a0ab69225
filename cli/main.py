"""The entry point: the commands, and the one place where an error becomes a line and an exit code.

Exit codes: 0 done, 1 a check failed, 2 the user's mistake, 130 interrupted.
"""

from __future__ import annotations

import _thread
import logging
import os
import sys
import threading
from importlib.metadata import version as installed
from typing import Any

import typer
from logitstore_cli.add import add
from logitstore_cli.dump import dump
from logitstore_cli.evaluate import evaluate
from logitstore_cli.inspect import inspect
from logitstore_cli.merge import merge
from logitstore_cli.plan import plan
from logitstore_cli.recipes import recipes
from logitstore_cli.recode import recode
from logitstore_cli.select import select
from logitstore_cli.show import errors
from logitstore_cli.sidecar import sidecar
from logitstore_cli.train import train
from logitstore_cli.verify import verify

from logitstore.errors import LogitstoreError

_USAGE_ERROR: Any = typer.BadParameter.__base__
"""Whatever typer raises for a wrong command line; the class has moved between its versions."""

app = typer.Typer(
    name="logitstore",
    help="Run a teacher once, keep what it said in a small exact cache, fit any number of students from it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (plan, dump, add, recode, merge, inspect, verify, sidecar, select, train, recipes, evaluate):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"logitstore {installed('logitstore')}")
        raise typer.Exit()


def run() -> None:
    """Run the command line and exit."""
    _quiet_libraries()
    sys.unraisablehook = _interrupt_again
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except LogitstoreError as error:
        line = str(error).replace("\n", "\\n")
        errors.print(f"error: {line}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        # zarr-python's event loop would complain of a write that nobody waits for any more; its folder is gone already
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        sys.exit(130)
    except _USAGE_ERROR as error:
        error.show()
        sys.exit(2)


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Ctrl-C that came while Python ran a finaliser, which drops exceptions: let it come once more, outside of it."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def _quiet_libraries() -> None:
    """The libraries' own bars and notices would break ours; whoever wants them sets these variables."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TQDM_DISABLE", "1"),
    ):
        os.environ.setdefault(name, value)
