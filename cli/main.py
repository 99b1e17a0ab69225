"""The entry point: the commands, and the one place that turns an error into a line and an exit code.

Exit codes: 0 done, 1 a check or some parts failed, 2 the user's mistake, 130 interrupted, 143 ended by SIGTERM.
"""

from __future__ import annotations

import _thread
import inspect as reflection
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

import typer
from logitstore_cli.bus_error import tell_of_bus_errors
from logitstore_cli.convert import convert, export, merge, recode
from logitstore_cli.dump import add, dump
from logitstore_cli.evaluate import evaluate
from logitstore_cli.generate import generate
from logitstore_cli.inspect import inspect, sidecar
from logitstore_cli.plan import plan
from logitstore_cli.prepare import prepare
from logitstore_cli.push import pull, push, status
from logitstore_cli.rank import rank
from logitstore_cli.select import select
from logitstore_cli.show import errors
from logitstore_cli.train import recipes, train
from logitstore_cli.verify import verify
from typer.core import TyperCommand, TyperGroup

import logitstore
from logitstore.core.registry import resolve
from logitstore.errors import LogitstoreError, NoShare, PartsFailed, refusal_of, retold

COMMANDS = (
    plan, prepare, generate, dump, add, convert, export, recode, merge, inspect, verify, sidecar, select, rank, train, recipes,
    evaluate, push, pull, status,
)  # fmt: skip

_USAGE_ERROR: Any = typer.BadParameter.__base__
"""The class that typer raises for a wrong command line. It has moved between versions of typer."""


class _Command(TyperCommand):
    """A command whose options are made when it is given. The list of all commands needs none of them."""

    def __init__(self, function: Callable[..., None]) -> None:
        super().__init__(function.__name__, help=reflection.getdoc(function))
        self._function = function

    @cached_property
    def whole(self) -> Any:
        """The command with its options."""
        single = typer.Typer(add_completion=False)
        single.command(self.name)(resolve("logitstore_cli.options:with_options")(self._function))
        return typer.main.get_command(single)

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """Parse the arguments with the options, and run that command in the end."""
        return self.whole.make_context(*arguments, **named)


class _Commands(TyperGroup):
    """All commands, in the order in which they are listed."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes | {"commands": {each.__name__: _Command(each) for each in COMMANDS}})


app = typer.Typer(
    name="logitstore",
    cls=_Commands,
    help="Run a teacher once, keep what it said in a small exact cache, fit any number of students from it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"logitstore {logitstore.__version__}")
        raise typer.Exit()


def run() -> None:
    """Run the command line and exit."""
    _quiet_libraries()
    sys.unraisablehook = _interrupt_again
    tell_of_bus_errors()
    _interrupt_at_sigterm()
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(_interrupted() if code == 130 else code)  # 130: typer has caught the interrupt
    except BrokenPipeError:
        # whoever read the output has enough of it; what is left is not written at the end of the process either
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        # the event loop of zarr-python would complain about a write that nobody waits for; its folder is already removed
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        sys.exit(_interrupted())
    except Exception as error:
        line = _line_of(error)
        if line is None:
            raise
        if isinstance(error, NoShare):  # a job of an array for which nothing is left has not failed
            errors.print(f"note: {line}", highlight=False, markup=False, soft_wrap=True)
            sys.exit(0)
        if line:
            errors.print(f"error: {line}", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1 if isinstance(error, PartsFailed) else 2)


def _line_of(error: Exception) -> str | None:
    """Return the line that says what a user can mend: an error of logitstore's, or a refusal of the operating system,
    wherever it came from, or of typer's about the command line. None for a bug, which stays a traceback."""
    if isinstance(error, _USAGE_ERROR):
        usage: Any = error
        whose = usage.ctx.command_path if usage.ctx else "logitstore"
        said = " ".join(usage.format_message().split()).rstrip(".")
        # without a command the help was shown, and there is nothing to add
        return f"{said}. See `{whose} --help`." if said else ""
    refusal = refusal_of(error)
    if refusal is not None:
        is_named = refusal.filename is not None or not isinstance(error, LogitstoreError)
        error = retold(refusal, None if is_named else str(error).partition(": ")[0])
    return str(error).replace("\n", "\\n") if isinstance(error, LogitstoreError) else None


_sigterm_came: list[int] = []


def _interrupted() -> int:
    """Return the exit code of a command that Ctrl-C or SIGTERM ended."""
    return 128 + signal.SIGTERM if _sigterm_came else 130


def _interrupt_at_sigterm() -> None:
    """Let SIGTERM, which schedulers and `kill` send, do what Ctrl-C does. A second one ends the process at once."""

    def end(number: int, _: object) -> None:
        _sigterm_came.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    # the processes that torchrun starts ask for its signal themselves
    if os.environ.get("WORLD_SIZE", "1") == "1" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Raise a Ctrl-C again that came during a finaliser, where Python drops exceptions."""
    if isinstance(lost.exc_value, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def _quiet_libraries() -> None:
    """Turn off the bars and notices of libraries, which would break ours. A user who wants them sets these variables."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1"),
        ("ACCELERATE_LOG_LEVEL", "error"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("TQDM_DISABLE", "1"),
    ):
        os.environ.setdefault(name, value)
