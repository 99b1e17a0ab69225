"""Recipes: YAML files with one section for each command. Flags override them; the result is validated."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from logitstore.core.record import Record
from logitstore.core.registry import suggest
from logitstore.errors import BadInput, one_line
from logitstore.settings import SETTINGS
from logitstore.settings.fields import SECRET, CommandLine, named_values

SECTIONS = tuple(SETTINGS)


ABOUT = "about"
"""The section that describes a recipe to people."""


LARGEST = 1 << 20
"""Most characters of a recipe."""


MOST_VALUES = 10_000
"""Most values of a recipe, its aliases written out."""


DEEPEST = 32
"""Most lists and sections inside each other in a recipe."""


LONGEST_NUMBER = 100
"""Most characters of a number in a recipe."""


RECIPES_FOR = "train"
"""The command that takes a recipe by name."""


NAMED = Path(__file__).with_name("recipes")
"""The folder with the named recipes."""


P = TypeVar("P", bound=Record)


def load(kind: type[P], section: str, config: Path | None, flags: dict[str, Any], named: str | None = None) -> P:
    """Return the settings of one command.

    Args:
        kind: the class of the settings.
        section: the name of the command and of the section of the recipe.
        config: the user's recipe, if there is one.
        flags: the values from the command line; None for an option that was not given.
        named: the name of one of our recipes. The user's recipe and then the flags override it.

    Raises:
        BadInput: the file does not exist or is no recipe, or a setting is unknown, missing or impossible.
    """
    settings = _section(named_recipe(named), section) if named is not None else {}
    settings |= _section(config, section) if config is not None else {}
    unknown = next((name for name in settings if name not in kind.model_fields), None)
    if unknown is not None:
        raise BadInput(
            f"{config}: {section}: no setting named '{unknown}'. {suggest(str(unknown), list(kind.model_fields))}"
        )
    if settings.get("trust_remote_code"):
        raise BadInput(
            f"{config}: {section}: trust_remote_code: whoever runs a recipe decides this, not the recipe. Leave it out, "
            "and give --trust-remote-code on the command line."
        )
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return kind.model_validate(_overridden(kind, settings, given))
    except ValidationError as error:
        first = error.errors()[0]
        name, *inside = first["loc"] or (section,)
        field = kind.model_fields.get(str(name))
        positional = field is not None and CommandLine.of(field).positional
        flag = str(name).upper() if positional else _flag(str(name), field)
        if inside and isinstance(inside[0], int):  # of a list, which no flag can give
            flag = ".".join(map(str, (name, *inside[:2])))
        if first["type"] == "missing":
            what = "" if inside else f": {kind.model_fields[str(name)].description}"
            raise BadInput(f"{section} needs {flag}{what or '.'}") from error
        reason = first["msg"].removeprefix("Value error, ").removesuffix(".")
        if first["type"] == SECRET:
            raise BadInput(f"{flag}: {reason}.") from None
        several = isinstance(first["input"], list) and all(isinstance(each, str) for each in first["input"])
        value = " ".join(first["input"]) if several else first["input"]
        raise BadInput(f"{flag} {value!s:.80}: {reason}.") from error


def _overridden(kind: type[Record], settings: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return settings with what the command line gives; values by name may be added to those of before."""
    joined: dict[str, Any] = {}
    for name in settings.keys() & given.keys():
        field = kind.model_fields[name]
        if CommandLine.of(field).adds:
            try:
                joined[name] = named_values(settings[name]) | named_values(given[name])
            except ValueError as error:
                raise BadInput(f"{_flag(name, field)}: {error}.") from error
    return settings | given | joined


def _flag(name: str, field: FieldInfo | None) -> str:
    """Return how the option of a setting is spelled."""
    spelled = CommandLine.of(field).flags if field is not None else ()
    return spelled[-1] if spelled else "--" + name.replace("_", "-")


def _section(path: Path, section: str) -> dict[str, Any]:
    yaml: Any = importlib.import_module("yaml")  # only here: most commands read no recipe
    try:
        with Path(os.path.expanduser(path)).open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
        _check_small(yaml, text, path)
        content = yaml.safe_load(text)
    except OSError as error:
        raise BadInput(f"--config {path}: cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # a number of thousands of digits is a ValueError, one of minutes and seconds an OverflowError
        raise BadInput(f"--config {path}: not valid YAML: {one_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise BadInput(f"--config {path}: a recipe has one section for each command: {', '.join(SECTIONS)}.")
    unknown = next((name for name in content if name not in (ABOUT, *SECTIONS)), None)
    if unknown is not None:
        raise BadInput(f"--config {path}: no section named '{unknown}'. {suggest(str(unknown), list(SECTIONS))}")
    return dict(content.get(section, {}))


def _check_small(yaml: Any, text: str, path: Path) -> None:
    """Refuse a recipe that is larger than people write, as it stands or with its aliases written out.

    The events of the parser are counted before anything is made of them.

    Raises:
        BadInput: it is too long, too deep, too large, has an alias inside of what it names, or a number of too many digits.
    """
    if len(text) > LARGEST:
        raise BadInput(f"--config {path}: longer than {LARGEST} characters, so it is no recipe.")
    sizes: dict[str, int] = {}  # of what has an anchor, with its aliases written out
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        kind = type(event).__name__
        if kind in ("MappingStartEvent", "SequenceStartEvent"):
            sizes.pop(event.anchor, None)
            open_nodes.append((event.anchor, total))
            total += 1
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif kind == "ScalarEvent":
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
            if (
                event.style is None
                and len(event.value) > LONGEST_NUMBER
                and not event.value.strip("0123456789abcdefx:_+-.")
            ):
                raise BadInput(
                    f"--config {path}: {event.value[:20]}...: a number of more than {LONGEST_NUMBER} characters. Shorten it."
                )
        elif kind == "AliasEvent":
            if event.anchor not in sizes:
                raise BadInput(
                    f"--config {path}: the alias *{event.anchor} names nothing above it, or what it stands in."
                )
            total += sizes[event.anchor]
        if total > MOST_VALUES or len(open_nodes) > DEEPEST:
            what = f"{MOST_VALUES} values" if total > MOST_VALUES else f"{DEEPEST} lists or sections inside each other"
            raise BadInput(
                f"--config {path}: more than {what}, so it is no recipe. Write what it needs without aliases."
            )


def recipe_names() -> list[str]:
    """Return the names of our recipes, sorted."""
    return sorted(path.stem for path in NAMED.glob("*.yaml"))


def named_recipe(name: str) -> Path:
    """Return the file of one of our recipes.

    Raises:
        BadInput: there is no recipe with that name.
    """
    if name not in recipe_names():
        raise BadInput(f"no recipe named '{name}'. {suggest(name, recipe_names())}")
    return NAMED / f"{name}.yaml"


def about(name: str) -> dict[str, str]:
    """Return the description of one of our recipes: `method`, `paper`, `needs`, `advice`."""
    yaml: Any = importlib.import_module("yaml")
    found: dict[str, str] = yaml.safe_load(named_recipe(name).read_text(encoding="utf-8"))[ABOUT]
    return found
