"""The classes of labelled data: their numbers, and which class of the teacher each of them is.

Axes: N samples.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from logitstore.core.types import Array
from logitstore.errors import BadInput

SHOWN = 20
"""Most pairs of classes that are shown; of more the first three and the last."""

_NUMBER = re.compile(r"(?:LABEL_)?([0-9]{1,9})")


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The teacher's class of each class of the data.

    Attributes:
        numbers: the number of the teacher's class, by the number of the data's.
        rule: how they were found, in words.
    """

    numbers: Mapping[int, int]
    rule: str


def labels_for(labels: Array, own: Sequence[str] | None, names: Sequence[str], teacher: str) -> tuple[Array, str]:
    """Return the teacher's number of the class of each sample, int64[N], -1 without one; and say which class is which.

    The text is empty if no sample has a class. See `match` for the rules.

    Args:
        labels: int64[N], numbers of the data's classes, or -1.
        own: names of the data's classes; None if they have numbers only.
        names: names of the teacher's classes.
        teacher: what the teacher is called.

    Raises:
        BadInput: a class of the data has no class of the teacher, or it is not clear which.
    """
    used = sorted({int(label) for label in labels} - {-1})
    if not used:
        return labels, ""
    matched = match(own, used, names, teacher)
    table = np.full(max(used[-1], len(own or ())) + 2, -1, np.int64)
    for number, of_teacher in matched.numbers.items():
        table[number] = of_teacher
    shown = list(matched.numbers.items())
    if len(shown) > SHOWN:
        shown = [*shown[:3], shown[-1]]
    pairs = [f"{repr(own[number]) if own else number} is {found} ({names[found]})" for number, found in shown]
    if len(matched.numbers) > SHOWN:
        pairs.insert(3, "...")
    return table[labels], f"{matched.rule}: {', '.join(pairs)}"


def match(own: Sequence[str] | None, used: Sequence[int], names: Sequence[str], teacher: str) -> Matched:
    """Find the teacher's class of each class of the data.

    Args:
        own: names of the data's classes; None if they have numbers only.
        used: numbers of the data's classes that images have; counts where there are no names.
        names: names of the teacher's classes.
        teacher: what the teacher is called.

    Classes are matched by name, else by name but for case, spaces and punctuation, where one of several names of a class that
    are separated by commas is enough. If no name of the data is one of the teacher's, names that are numbers (`7`, `LABEL_7`)
    are the numbers of the teacher's classes, and other names are matched in their order, if there are as many of them as of
    the teacher's and their order is clear.

    Raises:
        BadInput: a class of the data has no class of the teacher, or it is not clear which.
    """
    if own is None:
        _refuse_too_many(None, used[-1] + 1, names, teacher)
        return Matched(
            numbers={number: number for number in used}, rule="classes of the data are numbers of the teacher's"
        )
    if list(own) == list(names):
        return Matched(numbers=dict(enumerate(range(len(own)))), rule="classes of the data have the teacher's names")
    if set(own) <= set(names):
        _refuse_twice(own, names, teacher)
        return Matched(
            numbers={number: names.index(name) for number, name in enumerate(own)},
            rule="classes of the data have names of the teacher's",
        )
    _refuse_too_many(own, len(own), names, teacher)
    if (spelled := _by_spelling(own, names, teacher)) is not None:
        return spelled
    if any(map(_NUMBER.fullmatch, own)):
        return _by_number(own, names, teacher)
    if len(own) < len(names):
        # with different counts of classes, class 3 of the data is not class 3 of the teacher
        raise BadInput(
            f"{teacher}: of the {len(own)} classes of the data ({_first(own)}) the teacher knows none by name, and it has "
            f"{len(names)} ({_first(names)}). {_WAY_OUT}"
        )
    natural = sorted(own, key=_natural)
    if list(own) == sorted(own) != natural:
        first, second = next((a, b) for a, b in zip(own, natural, strict=True) if a != b)
        raise BadInput(
            f"{teacher}: it knows none of the classes of the data ({_first(own)}) by name, and their order is not clear: as "
            f"text '{first}' comes before '{second}', by their numbers after it. {_WAY_OUT}"
        )
    return Matched(
        numbers=dict(enumerate(range(len(own)))),
        rule="classes of the data have no names of the teacher's and are matched in their order",
    )


_WAY_OUT = "Name the classes as the teacher does, or leave the labels out with --no-labels."


def _by_spelling(own: Sequence[str], names: Sequence[str], teacher: str) -> Matched | None:
    """Match names that are equal but for case, spaces and punctuation; None if there are none.

    With some names in common, numbers and order are no match: class 3 of the data may have the name of class 5 of the teacher.
    """
    places: dict[str, set[int]] = {}
    for place, name in enumerate(names):
        for each in {_alike(name), *map(_alike, name.split(","))} - {""}:
            places.setdefault(each, set()).add(place)
    found = {name: sorted(places.get(_alike(name), ())) for name in own}
    if not any(found.values()):
        return None
    for name, of_name in found.items():
        if not of_name:
            known = next(each for each in own if found[each])
            raise BadInput(
                f"{teacher}: the data have the class '{name}', which the teacher does not have, and '{known}', which it "
                f"has. {_WAY_OUT}"
            )
        twice = next((each for each in own if each != name and found[each] == of_name), None)
        if len(of_name) > 1 or twice is not None:
            whose = (
                f"its classes {of_name[0]} and {of_name[1]}" if twice is None else f"the class '{twice}' of the data"
            )
            raise BadInput(f"{teacher}: the class '{name}' of the data is spelled like {whose}. {_WAY_OUT}")
    return Matched(
        numbers={number: found[name][0] for number, name in enumerate(own)},
        rule="classes of the data have names of the teacher's, but for their spelling",
    )


def _alike(name: str) -> str:
    """Return a name without case, spaces and punctuation."""
    return re.sub(r"[\W_]+", "", name.casefold())


def _by_number(own: Sequence[str], names: Sequence[str], teacher: str) -> Matched:
    """Take names that are numbers for the numbers of the teacher's classes.

    Where the teacher's classes have names, all of its numbers must be there, lest they count something else.
    """
    numbers: dict[int, int] = {}
    is_numbered = all(map(_NUMBER.fullmatch, names))
    for place, name in enumerate(own):
        found = _NUMBER.fullmatch(name)
        if found is None:
            other = next(each for each in own if _NUMBER.fullmatch(each))
            raise BadInput(
                f"{teacher}: of the classes of the data '{other}' is a number and '{name}' is none, and the teacher "
                f"({_first(names)}) knows neither by name. {_WAY_OUT}"
            )
        number = int(found[1])
        if number >= len(names):
            raise BadInput(
                f"{teacher}: the data have the class '{name}', the teacher the classes 0 to {len(names) - 1} "
                f"({_first(names)}). {_WAY_OUT}"
            )
        if number in numbers.values():
            twice = next(own[each] for each, same in numbers.items() if same == number)
            raise BadInput(
                f"{teacher}: the classes '{twice}' and '{name}' of the data are both number {number}. {_WAY_OUT}"
            )
        numbers[place] = number
    if len(numbers) < len(names) and not is_numbered:
        raise BadInput(
            f"{teacher}: the {len(own)} classes of the data ({_first(own)}) are numbers, but not those of all {len(names)} "
            f"classes of the teacher ({_first(names)}), so they may count something else. {_WAY_OUT}"
        )
    return Matched(numbers=numbers, rule="names of the data's classes are numbers of the teacher's")


def _refuse_too_many(own: Sequence[str] | None, count: int, names: Sequence[str], teacher: str) -> None:
    """Refuse data with more classes than the teacher. Raises BadInput."""
    if count > len(names):
        what = f"the data have {count} classes" + (f" ({_first(own)})" if own else "")
        raise BadInput(
            f"{teacher}: {what}, the teacher {len(names)} ({_first(names)}). Give a teacher of these classes, or leave the "
            "labels out with --no-labels."
        )


def _refuse_twice(own: Sequence[str], names: Sequence[str], teacher: str) -> None:
    """Refuse a class whose name two classes of the teacher have. Raises BadInput."""
    for name in own:
        places = [place for place, each in enumerate(names) if each == name]
        if len(places) > 1:
            raise BadInput(
                f"{teacher}: '{name}' is the name of its classes {places[0]} and {places[1]}, so it is not clear which one "
                "the data mean. Name the folders by the numbers of the classes, or leave the labels out with --no-labels."
            )


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])


def _natural(name: str) -> str:
    """Return a key by which the numbers within names are compared as numbers: with as many digits each."""
    return re.sub("[0-9]+", lambda found: found[0].zfill(20), name)


def numbered(labels: Sequence[object], names: list[str] | None) -> tuple[Array, list[str] | None]:
    """Return class numbers, int64[N], with -1 for None, and the names of the numbers, if known.

    Raises:
        BadInput: the labels are neither all numbers nor all names.
    """
    given = [label for label in labels if label is not None]
    if given and all(isinstance(label, str) for label in given):
        names = sorted({str(label) for label in given})
        numbers = {name: number for number, name in enumerate(names)}
        return np.array([-1 if label is None else numbers[str(label)] for label in labels], np.int64), names
    wrong = next((label for label in given if not (type(label) is int and -1 <= label < 2**31)), None)
    if wrong is not None:
        raise BadInput(
            f"--label-column: {wrong!r:.80} is not a class number, but the others are. "
            "Give class numbers from 0 (-1 for none) throughout, or class names throughout."
        )
    return np.array([-1 if label is None else label for label in labels], np.int64), names
