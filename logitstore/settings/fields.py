"""The kinds of values that settings have: paths, models, numbers that may follow a schedule."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidatorFunctionWrapHandler, WrapValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from logitstore.core.place import is_utf8, looks_like_address, split_scheme
from logitstore.core.record import is_nested
from logitstore.core.schedule import RowRule, Schedule, scheduled
from logitstore.core.tasks import check_task
from logitstore.core.types import bytes_of
from logitstore.errors import BadInput
from logitstore.format.positions import checked
from logitstore.format.row_kinds import check_sparsifier


@dataclass(frozen=True)
class CommandLine:
    """How the command line takes a setting. Metadata of a field, where the plain rules do not decide it.

    The plain rules: every setting is an option of each command that has it, and is spelled like its name. A flag that is on,
    or may be on, by default is also spelled with --no-.

    Attributes:
        flags: the spellings of the option.
        positional: True for an argument, which has no spelling.
        commands: the commands that have the option. All others read the setting from a recipe only.
        adds: True where values by name are added to those of a recipe, and do not replace all of them.
    """

    flags: tuple[str, ...] = ()
    positional: bool = False
    commands: tuple[str, ...] | None = None
    adds: bool = False

    @classmethod
    def of(cls, field: FieldInfo) -> CommandLine:
        """Return what the field says, or the plain rules."""
        return next((each for each in field.metadata if isinstance(each, cls)), cls())

    def has(self, command: str) -> bool:
        """Return True when the command takes the setting on its command line."""
        return self.commands is None or command in self.commands


POSITIONAL = CommandLine(positional=True)


RECIPE_ONLY = CommandLine(commands=())


ASKING = CommandLine(commands=("dump", "plan"))
"""An option of `dump` and `plan`. The other commands that have the setting read it from a recipe only."""


def _scheduled(value: Any) -> Any:
    """Return a number as a number, also where it comes as text, and a schedule as its text."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return value
    try:
        schedule = Schedule.of(value)
    except BadInput as error:
        raise ValueError(str(error)) from error
    return schedule.first if schedule.shape == "constant" else value


def _scheduled_or_balanced(value: Any) -> Any:
    return value if value == "balanced" else _scheduled(value)


def _a_share(value: float | str) -> float | str:
    low, high = Schedule.of(value).span
    if low < 0 or high > 1:
        raise ValueError("must be from 0 to 1")
    return value


def _scheduled_or_by_row(value: Any) -> Any:
    return value if RowRule.of(value) is not None else _scheduled(value)


def _above_zero(value: float | str) -> float | str:
    if scheduled(value).span[0] <= 0:
        raise ValueError("must be above 0")
    return value


def _not_negative(value: float | str) -> float | str:
    if value != "balanced" and Schedule.of(value).span[0] < 0:
        raise ValueError("must not be below 0")
    return value


Share = Annotated[float | str, BeforeValidator(_scheduled), AfterValidator(_a_share)]


Temperature = Annotated[float | str, BeforeValidator(_scheduled_or_by_row), AfterValidator(_above_zero)]


Weight = Annotated[float | str, BeforeValidator(_scheduled_or_balanced), AfterValidator(_not_negative)]
"""Numbers, or schedules by which they change during the run. A weight may also be "balanced"."""


def _local(place: object) -> object:
    if isinstance(place, str | Path) and looks_like_address(place):
        raise ValueError("only a cache can lie in another storage; give a path on the local disk")
    return place


def _file_path(path: Path) -> Path:
    if not is_utf8(path):
        raise ValueError(f"{str(path)!a} is not UTF-8, which Arrow cannot open; give another path")
    if looks_like_address(path):
        raise ValueError(
            f"'{path}' is no address of a storage. Write one in small letters and with two slashes, such as s3://bucket/name; "
            "of a folder that is called so write the whole path"
        )
    return Path(os.path.expanduser(path))


FilePath = Annotated[Path, BeforeValidator(_local), AfterValidator(_file_path)]
"""A path on the local disk. A leading ~ means the home folder, also in a recipe and after --out=."""


def _placed(place: object, check: ValidatorFunctionWrapHandler) -> Path | str:
    """Keep the address of another storage as it is, and make a path of anything else."""
    if isinstance(place, str) and split_scheme(place)[0]:
        return place
    return _file_path(check(place))


def _a_size(text: str) -> str:
    bytes_of(text)
    return text


ByteSize = Annotated[str, AfterValidator(_a_size)]
"""A number of bytes as a text with a unit, such as 64MB; see `bytes_of`."""


LEAST_OF_A_PART = 1000


def _a_part(text: str) -> str:
    if bytes_of(text) < LEAST_OF_A_PART:
        raise ValueError(
            f"a part has a dozen files, so {LEAST_OF_A_PART:,} bytes are the least. Write a size with its unit, such as 64MB"
        )
    return text


PartSize = Annotated[ByteSize, AfterValidator(_a_part)]
"""The bytes of a part."""


Place = Annotated[Path | str, WrapValidator(_placed)]
"""Where a cache lies: a path as above, or a text `scheme://rest` of another storage, which is kept as it is."""


SECRET = "secret"
"""The type of an error of a value that no message may quote."""

_HOLDS_SECRET = re.compile(r":/+[^#]*[@?]")


def refuse_secrets(name: str) -> None:
    """Refuse the name of a model that is an address with a user, a password or a query: it would stand in errors and caches.

    Raises:
        PydanticCustomError: it is one; of the type SECRET, so that who shows the error does not quote the name.
    """
    if _HOLDS_SECRET.search(name):
        raise PydanticCustomError(
            SECRET,
            "a user, a password or a query in an address would be stored with the cache. Leave it out; a key belongs into the "
            "environment variable LOGITSTORE_API_KEY",
        )


def _model(name: str) -> str:
    refuse_secrets(name)
    return os.path.expanduser(name)


Model = Annotated[str, AfterValidator(_model)]
"""The folder of a model, with ~ as in Place, its hub name, or the address of a server, which holds no password."""


_DEEPEST_VALUE = 16
_NOT_JSON = {
    spelled: word
    for word, others in {
        "true": ("True", "TRUE"),
        "false": ("False", "FALSE"),
        "null": ("None", "Null", "NULL"),
    }.items()
    for spelled in others
}


def named_values(given: Any) -> Any:
    """Return values by name. Each of a list is a text NAME=VALUE, whose value is read as JSON; what is no JSON is text.

    Raises:
        ValueError: something else, a name that is given twice or is none, or a value that JSON cannot hold.
    """
    if isinstance(given, list | tuple):
        pairs = [_pair(text) for text in given]
        twice = next((name for place, (name, _) in enumerate(pairs) if name in dict(pairs[:place])), None)
        if twice is not None:
            raise ValueError(f"'{twice}' is given twice. Give it once")
        given = dict(pairs)
    if not isinstance(given, dict):
        raise ValueError("give NAME=VALUE, or in a recipe a section of values by name")
    for name, value in given.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{name!r:.40} is no name. Write NAME=VALUE, such as enable_thinking=false")
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
            is_plain = not is_nested(value, _DEEPEST_VALUE)
        except (TypeError, ValueError, RecursionError):
            is_plain = False
        if not is_plain:
            raise ValueError(
                f"{name} is {value!r:.40}, which JSON cannot hold. Put it in quotes, or give another value"
            )
    return given


def _pair(text: Any) -> tuple[str, Any]:
    name, sign, value = text.partition("=") if isinstance(text, str) else ("", "", "")
    if not sign:
        raise ValueError(f"{text!r:.40} names no value. Write NAME=VALUE, such as enable_thinking=false")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        spelled = _NOT_JSON.get(value.strip())
        if spelled is not None:
            raise ValueError(f"{value} is text. Write {name}={spelled}, or for the text {name}='\"{value}\"'") from None
        return name, value
    except (ValueError, RecursionError):
        raise ValueError(f"the value of {name} is too long a number, or too deep") from None


NamedValues = Annotated[dict[str, Any], BeforeValidator(named_values)]
"""Values by name. On the command line each is an option NAME=VALUE of its own."""


def _column_names(given: str) -> str:
    names = [name.strip() for name in given.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError("name each column once, with a comma between them, such as reward,correct")
    return ",".join(names)


ColumnNames = Annotated[str, AfterValidator(_column_names)]
"""Columns of data by name, with a comma between them."""


Sparsifier = Annotated[str, AfterValidator(check_sparsifier)]
"""A kind of row by name: one of ours, which the field's examples list, or of an installed package."""


Positions = Annotated[str, AfterValidator(checked)]
"""Which positions have a row: a word, or a share of them such as `entropy:0.2`."""


TaskName = Annotated[str, AfterValidator(check_task)]
"""A task by name: one of ours, which the field's examples list, or of an installed package."""
