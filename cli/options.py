"""The command line of a command, made from its settings, so that help, defaults and validation have one source."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from logitstore_cli.panels import panel_of, place_of
from pydantic.fields import FieldInfo
from typer.models import OptionInfo

from logitstore.core.record import Record
from logitstore.core.registry import resolve
from logitstore.settings import SETTINGS
from logitstore.settings.fields import CommandLine
from logitstore.settings.recipe import RECIPES_FOR, load

_CONFIG = typer.Option("--config", help="A recipe: a YAML file with one section for each command. Options override it.")
_PARTNERS = "logitstore.models.placing.follower:takes_part"
"""Joins the processes of a teacher that is split over several, and is True for those that do not lead."""

_LOCAL_CACHE = "logitstore.store.remote.settings:use_local_cache"

_RECIPE = typer.Option(
    "--recipe",
    metavar="NAME",
    help="A published method by name, with the settings of its paper; see `logitstore recipes`.",
)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return the function that typer makes a command of: it reads the settings, then calls the command with them.

    Args:
        command: a function of the settings, and of options that are no settings, which are annotated for typer. Its name is
            the command's. One without settings is returned as it is.
    """
    name = command.__name__
    if name not in SETTINGS:
        return command
    kind = SETTINGS[name]
    extras = list(inspect.signature(command, locals={kind.__name__: kind}, eval_str=True).parameters.values())[1:]

    def run(config: Path | None, recipe: str | None = None, **values: Any) -> None:
        given = {extra.name: values.pop(extra.name) for extra in extras}
        flags = {setting: None if value == [] else value for setting, value in values.items()}
        settings = load(kind, name, config, flags, named=recipe)
        if hasattr(settings, "local_cache") and (settings.local_cache or settings.local_cache_size):
            resolve(_LOCAL_CACHE)(settings.places, settings.local_cache, settings.local_cache_size)
        if getattr(settings, "tensor_parallel", 1) > 1 and resolve(_PARTNERS)(settings):
            return
        command(settings, **given)

    own = [*_parameters(name, kind), *(each.replace(kind=each.KEYWORD_ONLY) for each in extras)]
    parameters = sorted(own, key=lambda each: _order(name, each))
    for each in parameters:
        _info(each).rich_help_panel = panel_of(name, each.name)
    run.__name__, run.__doc__ = name, command.__doc__
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    return run


def _info(parameter: inspect.Parameter) -> Any:
    """Return what typer is told about a parameter."""
    return get_args(parameter.annotation)[1]


def _order(command: str, parameter: inspect.Parameter) -> tuple[bool, int]:
    """Return the place of a parameter: arguments as they are given, options as they are shown."""
    is_option = isinstance(_info(parameter), OptionInfo)
    return is_option, place_of(command, parameter.name) if is_option else 0


def _parameters(name: str, kind: type[Record]) -> Iterator[inspect.Parameter]:
    """Yield the arguments, the options that must be given, the files that settings come from, and the other options."""
    fields = {setting: kind.model_fields[setting] for setting in on_command_line(name, kind)}
    positional = {setting: field for setting, field in fields.items() if CommandLine.of(field).positional}
    options = {setting: field for setting, field in fields.items() if setting not in positional}
    required = [setting for setting, field in options.items() if field.is_required()]
    for setting, field in positional.items():
        info = typer.Argument(help=field.description, show_default=False)
        yield _parameter(setting, value_type(field.annotation), info)
    for setting in required:
        yield _parameter(setting, value_type(options[setting].annotation), _option(setting, options[setting]))
    yield _parameter("config", Path, _CONFIG)
    if name == RECIPES_FOR:
        yield _parameter("recipe", str, _RECIPE)
    for setting, field in options.items():
        if setting not in required:
            yield _parameter(setting, value_type(field.annotation), _option(setting, field))


def _parameter(name: str, kind: Any, info: Any) -> inspect.Parameter:
    """Return a parameter that is None where the command line does not give it."""
    annotation = Annotated[kind | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def on_command_line(name: str, kind: type[Record]) -> list[str]:
    """Return the settings that a command takes on its command line: its own ones, then those it shares with others."""
    ordered = dict.fromkeys(setting for each in kind.__mro__ for setting in inspect.get_annotations(each))
    fields = kind.model_fields
    return [setting for setting in ordered if setting in fields and CommandLine.of(fields[setting]).has(name)]


def _option(name: str, field: FieldInfo) -> Any:
    flag, default = f"--{name.replace('_', '-')}", field.default
    if default is True or (default is None and bool in _kinds(field.annotation)):
        flag += f"/--no-{name.replace('_', '-')}"
    choices = "|".join(choices_of(field))
    told = [] if len(choices) <= _WIDEST else [choices.replace("|", ", ")]
    if default not in (None, {}) and not isinstance(default, bool) and not field.is_required():
        told.append(f"default {default}")
    # in parentheses, because square brackets are markup to typer
    shown = f" ({'; '.join(told)})" if told else ""
    return typer.Option(
        *(CommandLine.of(field).flags or (flag,)),
        help=f"{field.description}{' (required)' if field.is_required() else shown}",
        show_default=False,
        metavar="NAME" if len(choices) > _WIDEST else choices or word_for(field.annotation),
    )


def choices_of(field: FieldInfo) -> list[str]:
    """Return the values that a setting may have, where they are few, or what its value looks like."""
    return list(_choices(field.annotation) or field.examples or ())


def word_for(annotation: Any) -> str | None:
    """Return the word that stands for a value in help texts; None for a flag, which has none."""
    kinds = list(_kinds(annotation))
    kinds += [each for kind in kinds if get_origin(kind) is list for each in _kinds(get_args(kind)[0])]
    return next((word for kind, word in _WORDS.items() if kind in kinds), None)


_WORDS = {bool: None, Path: "PATH", str: "TEXT", int: "N", float: "X"}

_WIDEST = 20
"""Characters of choices that stand beside an option. Wider ones would leave no room for its text, and stand in it."""


def value_type(annotation: Any) -> Any:
    """Return the type that typer reads: a list where several values are possible, and text where text is.

    Values by name are a list of texts NAME=VALUE.
    """
    kinds = list(_kinds(annotation))
    if any(get_origin(kind) is dict for kind in kinds):
        return list[str]
    several = next((kind for kind in kinds if get_origin(kind) is list), None)
    if several is not None:
        return list[value_type(get_args(several)[0])]  # type: ignore[misc]  # a type that is known at run time only
    return str if str in kinds or _choices(annotation) else kinds[0]


def _choices(annotation: Any) -> tuple[str, ...]:
    return next((get_args(kind) for kind in _kinds(annotation) if get_origin(kind) is Literal), ())


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, or the annotation itself; without None and without metadata."""
    if get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif get_origin(annotation) in (UnionType, Union):
        for kind in get_args(annotation):
            yield from _kinds(kind)
    elif annotation is not NoneType:
        yield annotation
