"""Options made from the plans, so that help, defaults and validation have one source."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from logitstore.core.record import Record

Config = Annotated[
    Path | None, typer.Option("--config", help="A recipe: YAML with one section a command. Flags override it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def option(plan: type[Record], name: str, *flags: str) -> Any:
    """A typer option for a plan's setting, with its description and default."""
    setting = plan.model_fields[name]
    default = setting.default
    # in parentheses, because square brackets are markup to typer
    shown = "" if default is None or isinstance(default, bool) else f" (default {default})"
    if setting.is_required():
        shown = " (required)"
    literals = (get_args(kind) for kind in _alternatives(setting.annotation) if get_origin(kind) is Literal)
    choices = next(literals, setting.examples or ())
    return typer.Option(
        *(flags or (f"--{name.replace('_', '-')}",)),
        help=f"{setting.description}{shown}",
        show_default=False,
        metavar="|".join(choices) or None,
    )


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def argument(plan: type[Record], name: str) -> Any:
    """A typer argument for a plan's setting."""
    return typer.Argument(help=plan.model_fields[name].description, show_default=False)
