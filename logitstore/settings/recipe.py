"""Recipes: a YAML file with one section a command, and flags that override it, become a validated plan."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from logitstore.core.record import Record
from logitstore.core.registry import suggest
from logitstore.errors import BadInput, one_line
from logitstore.settings import SETTINGS
from logitstore.settings.fields import CommandLine

SECTIONS = tuple(SETTINGS)


ABOUT = "about"
"""A section for people: what a recipe is for."""


RECIPES_FOR = "train"
"""The command that takes a recipe by name."""


NAMED = Path(__file__).with_name("recipes")
"""The folder of the recipes that have a name."""


P = TypeVar("P", bound=Record)


def load(kind: type[P], section: str, config: Path | None, flags: dict[str, Any], named: str | None = None) -> P:
    """The plan of one command.

    Args:
        kind: the plan's class.
        section: the command, and the section of the recipe that is read.
        config: the user's recipe, if there is one.
        flags: what the command line said; None where it said nothing.
        named: one of our recipes, which the user's and then the flags override.

    Raises:
        BadInput: no such file, not a recipe, an unknown or missing or impossible setting.
    """
    settings = _section(named_recipe(named), section) if named is not None else {}
    settings |= _section(config, section) if config is not None else {}
    unknown = next((name for name in settings if name not in kind.model_fields), None)
    if unknown is not None:
        raise BadInput(
            f"{config}: {section}: no setting named '{unknown}'. {suggest(str(unknown), list(kind.model_fields))}"
        )
    settings |= {name: value for name, value in flags.items() if value is not None}
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        name, *inside = first["loc"] or (section,)
        field = kind.model_fields.get(str(name))
        positional = field is not None and CommandLine.of(field).positional
        flag = str(name).upper() if positional else "--" + str(name).replace("_", "-")
        if inside and isinstance(inside[0], int):  # of a list, which no flag can give
            flag = ".".join(map(str, (name, *inside[:2])))
        if first["type"] == "missing":
            what = "" if inside else f": {kind.model_fields[str(name)].description}"
            raise BadInput(f"{section} needs {flag}{what or '.'}") from error
        said = first["msg"].removeprefix("Value error, ").removesuffix(".")
        raise BadInput(f"{flag} {first['input']!s:.80}: {said}.") from error


def _section(path: Path, section: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--config {path}: cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"--config {path}: not valid YAML: {one_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise BadInput(f"--config {path}: a recipe has one section a command: {', '.join(SECTIONS)}.")
    unknown = next((name for name in content if name not in (ABOUT, *SECTIONS)), None)
    if unknown is not None:
        raise BadInput(f"--config {path}: no section named '{unknown}'. {suggest(str(unknown), list(SECTIONS))}")
    return dict(content.get(section, {}))


def recipe_names() -> list[str]:
    """The recipes that have a name."""
    return sorted(path.stem for path in NAMED.glob("*.yaml"))


def named_recipe(name: str) -> Path:
    """The file of a recipe of ours.

    Raises:
        BadInput: there is none of that name.
    """
    if name not in recipe_names():
        raise BadInput(f"no recipe named '{name}'. {suggest(name, recipe_names())}")
    return NAMED / f"{name}.yaml"


def about(name: str) -> dict[str, str]:
    """What a recipe of ours is for: `method`, `paper`, `needs`, `advice`."""
    found: dict[str, str] = yaml.safe_load(named_recipe(name).read_text(encoding="utf-8"))[ABOUT]
    return found
