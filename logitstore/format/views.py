"""The recipe of the views of images: transforms with their arguments, for the command line and the manifest.

docs/format.md, "Views of images", describes each transform.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictFloat, StrictInt, field_validator, model_serializer, model_validator

from logitstore.core.record import Record
from logitstore.core.registry import suggest
from logitstore.errors import BadInput

Number = Annotated[StrictInt, Field(ge=0, lt=1 << 31)] | StrictFloat

Argument = Number | tuple[Number, Number]

MOST_PIXELS = 4096
"""The longest edge of a view. The limit keeps a wrong size in a manifest from making a reader allocate much memory."""

_NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of a transform: a whole number, a number, or a range of numbers; the default has the type of the option.

    Attributes:
        default: the value if none is given.
        low, high: the bounds; both are allowed values.
    """

    default: Argument
    low: float
    high: float

    def checked(self, value: Any) -> Argument:
        """Return the value in the type of the default.

        Raises:
            ValueError: the value has another type, or is out of bounds.
        """
        numbers = value if isinstance(value, tuple) else (value,)
        kind = int if isinstance(self.default, int) else (int, float)
        if (
            len(numbers) != (2 if isinstance(self.default, tuple) else 1)
            or not all(isinstance(number, kind) for number in numbers)
            or not self.low <= numbers[0] <= numbers[-1] <= self.high
        ):
            raise ValueError(self.expected)
        if isinstance(self.default, tuple):
            return float(numbers[0]), float(numbers[1])
        return type(self.default)(numbers[0])

    def parsed(self, text: str) -> Argument:
        """Return the value that a text spells.

        Raises:
            ValueError: the text does not spell a value of this type, or the value is out of bounds.
        """
        if isinstance(self.default, tuple):
            ends = re.fullmatch(f"({_NUMBER})-({_NUMBER})", text)
            return self.checked(ends and (float(ends[1]), float(ends[2])))
        if isinstance(self.default, int):
            return self.checked(int(text) if re.fullmatch("[0-9]{1,9}", text) else None)
        return self.checked(float(text) if re.fullmatch(_NUMBER, text) else None)

    @property
    def expected(self) -> str:
        """Description of the allowed values, for a message."""
        bounds = f"{self.low:g} to {self.high:g}"
        if isinstance(self.default, tuple):
            return f"a range within {bounds}, the lower end first, such as {spelled(self.default)}"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"{kind} from {bounds}, such as {spelled(self.default)}"


def spelled(value: Argument) -> str:
    """Return a value in the spelling of the command line."""
    return "-".join(f"{number:g}" for number in (value if isinstance(value, tuple) else (value,)))


def _chance(default: float) -> Option:
    return Option(default=default, low=0, high=1)


OPTIONS: dict[str, dict[str, Option]] = {
    "whole": {},
    "center": {"share": Option(default=0.875, low=0.01, high=1)},
    "middle": {"share": Option(default=0.875, low=0.01, high=1)},
    "shortest": {"edge": Option(default=256, low=1, high=8192), "longest": Option(default=0, low=0, high=8192)},
    "squash": {"height": Option(default=256, low=1, high=8192), "width": Option(default=256, low=1, high=8192)},
    "native": {},
    "crop": {
        "scale": Option(default=(0.08, 1.0), low=0.001, high=1),
        "ratio": Option(default=(3 / 4, 4 / 3), low=0.01, high=100),
    },
    "flip": {"p": _chance(0.5)},
    "jitter": {
        "brightness": Option(default=0.4, low=0, high=1),
        "contrast": Option(default=0.4, low=0, high=1),
        "saturation": Option(default=0.4, low=0, high=1),
        "hue": Option(default=0.1, low=0, high=0.5),
        "p": _chance(1.0),
    },
    "grayscale": {"p": _chance(0.2)},
    "randaugment": {"n": Option(default=2, low=1, high=14), "m": Option(default=9.0, low=0, high=10)},
    "erase": {
        "p": _chance(0.25),
        "scale": Option(default=(0.02, 0.33), low=0.001, high=1),
        "ratio": Option(default=(0.3, 3.3), low=0.01, high=100),
    },
    "mask": {"share": Option(default=0.75, low=0, high=1), "grid": Option(default=14, low=1, high=128)},
    "mixup": {"alpha": Option(default=0.8, low=0.01, high=4), "p": _chance(1.0)},
    "cutmix": {"alpha": Option(default=1.0, low=0.01, high=4), "p": _chance(1.0)},
}
"""The options of each transform."""

FRAMING = ("whole", "center", "crop", "middle", "shortest", "squash", "native")
"""Transforms that choose the visible part of a picture; one of them must be the first transform."""

MIXING = ("mixup", "cutmix")
"""Transforms that mix in another image; they must be the last transforms."""

NEEDS_KORNIA = ("jitter", "randaugment")


class TransformInfo(Record):
    """A transform with all of its arguments.

    Attributes:
        name: a key of OPTIONS.
        arguments: every option of the transform; a range is (low, high).
    """

    name: str
    arguments: dict[str, Argument]

    @classmethod
    def of(cls, name: str, **arguments: Argument) -> Self:
        """Return a transform; options that are not given get their defaults.

        Raises:
            ValueError: there is no such transform or option, or a value is out of bounds.
        """
        defaults = {option: each.default for option, each in OPTIONS.get(name, {}).items()}
        return cls(name=name, arguments=defaults | arguments)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in OPTIONS:
            raise ValueError(_unknown_transform(name))
        return name

    @model_validator(mode="after")
    def _complete(self) -> Self:
        options = OPTIONS[self.name]
        for option in self.arguments:
            if option not in options:
                raise ValueError(_unknown_option(self.name, option))
        for option, each in options.items():
            if option not in self.arguments:
                raise ValueError(f"{self.name} lacks its option {option}")
            value = self.arguments[option]
            try:
                self.arguments[option] = each.checked(value)
            except ValueError as error:
                raise ValueError(f"{self.name}:{option}={spelled(value)}: must be {error}") from error
        return self


Side = Annotated[StrictInt, Field(ge=1, le=MOST_PIXELS)]
Centre = Annotated[float, Field(ge=-1e6, le=1e6)]
Spread = Annotated[float, Field(ge=1e-6, le=1e6)]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.!_-]{1,40}$")]
Interpolation = Literal["bilinear", "bicubic", "nearest", "box", "hamming", "lanczos"]
Channels = Literal["rgb", "bgr", "luma"]


class ViewInfo(Record):
    """Everything that decides the views of a data set's images.

    Attributes:
        size: height and width of a view, in pixels.
        transforms: the transforms, in the order of their application.
        interpolation: interpolation of the framing.
        mean, std: mean and deviation of the channels, in [0, 1] units; a model gets (view / 255 - mean) / std.
        channels: what a model gets of the levels: as they are, in the reverse order, or their luma alone. `mean` and `std` are
            those of the result.
        seed: seed of all random numbers.
        versions: versions of the libraries that can change a pixel, by name; see `libraries`.
    """

    size: tuple[Side, Side]
    transforms: tuple[TransformInfo, ...]
    interpolation: Interpolation = "bilinear"
    mean: tuple[Centre, Centre, Centre]
    std: tuple[Spread, Spread, Spread]
    channels: Channels = "rgb"
    seed: StrictInt = Field(0, ge=0, lt=1 << 63)
    versions: dict[str, Version]

    @model_serializer(mode="wrap")
    def _plain(self, plain_of: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leave `channels` out if they are as usual, so that such views keep the bytes of older versions."""
        plain = plain_of(self)
        if self.channels == "rgb":
            plain.pop("channels", None)
        return plain

    @property
    def spelled(self) -> str:
        """The transforms in the spelling of the command line, with the options that differ from the defaults."""
        spellings = []
        for transform in self.transforms:
            options = OPTIONS[transform.name]
            given = [
                f"{name}={spelled(value)}"
                for name, value in transform.arguments.items()
                if value != options[name].default
            ]
            spellings.append(":".join([transform.name, *given]))
        return ",".join(spellings)

    @property
    def mixes(self) -> bool:
        """True if a view may show two images."""
        return any(transform.name in MIXING for transform in self.transforms)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        check_order([transform.name for transform in self.transforms])
        if set(self.versions) != set(libraries(self.transforms)):
            wanted = ", ".join(libraries(self.transforms))
            raise ValueError(f"views of these transforms depend on the versions of {wanted}, and of nothing else")
        return self


def libraries(transforms: Sequence[TransformInfo]) -> list[str]:
    """Return the pip names of the libraries whose versions can change a pixel: for decoding, resizing, and some transforms."""
    always = ["torch", "pillow"]
    return [*always, "kornia"] if any(transform.name in NEEDS_KORNIA for transform in transforms) else always


def check_order(names: Sequence[str]) -> None:
    """Refuse transforms in a wrong order.

    Raises:
        ValueError: the first is not a framing, a framing or a mixing is at a wrong place, or a name is given twice.
    """
    framings, mixings = ", ".join(FRAMING), " and ".join(MIXING)
    if not names or names[0] not in FRAMING:
        first = f"the first is '{names[0]}'" if names else "there is none"
        raise ValueError(f"the first transform must be one of {framings}, but {first}. Put one of them first")
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"the transform '{name}' is named twice. Name it once")
        if place and name in FRAMING:
            raise ValueError(f"a picture is framed once, but both '{names[0]}' and '{name}' are named. Leave one out")
        if place and names[place - 1] in MIXING and name not in MIXING:
            raise ValueError(
                f"'{name}' comes after '{names[place - 1]}', but {mixings} mix finished views. Put '{name}' before"
            )


def parse_transforms(text: str, framing: TransformInfo | None = None) -> tuple[TransformInfo, ...]:
    """Return the transforms that a text spells, such as `crop:scale=0.2-1,flip,jitter:hue=0`.

    Args:
        text: names, separated by commas, each with its options after colons; a range is `low-high`.
        framing: the first transform if the text names no framing.

    Raises:
        BadInput: a name, option or value is unknown, missing or out of bounds, or the order is wrong.
    """
    try:
        transforms = [_parsed(item.strip()) for item in text.split(",")] if text.strip() else []
        if framing is not None and not any(transform.name in FRAMING for transform in transforms):
            transforms = [framing, *transforms]
        check_order([transform.name for transform in transforms])
    except ValueError as error:
        raise BadInput(f"transforms '{' '.join(text.split())}': {str(error).rstrip('.')}.") from error
    return tuple(transforms)


def _parsed(item: str) -> TransformInfo:
    name, *options = (piece.strip() for piece in item.split(":"))
    if not name:
        raise ValueError("a name is missing between two commas or at an end. Leave out the comma, or name a transform")
    if name not in OPTIONS:
        raise ValueError(_unknown_transform(name))
    arguments: dict[str, Argument] = {}
    for each in options:
        option, equals, value = (piece.strip() for piece in each.partition("="))
        if option not in OPTIONS[name]:
            raise ValueError(_unknown_option(name, option))
        if option in arguments:
            raise ValueError(f"{name}:{option} is given twice. Give it once")
        try:
            arguments[option] = OPTIONS[name][option].parsed(value)
        except ValueError as error:
            raise ValueError(f"{name}:{option}{equals}{value}: must be {error}") from error
    return TransformInfo.of(name, **arguments)


def _unknown_transform(name: str) -> str:
    return f"no transform named '{name[:40]}'. {suggest(name[:40], list(OPTIONS))}"


def _unknown_option(name: str, option: str) -> str:
    if not OPTIONS[name]:
        return f"{name} takes no options, so not '{option[:40]}'. Write only {name}"
    return f"{name} has no option '{option[:40]}'. {suggest(option[:40], list(OPTIONS[name]))}"
