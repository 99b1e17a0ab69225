"""Numbers in the records of a cache, forged and sealed again: no command asks for memory by them, hangs or crashes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from logitstore.errors import LogitstoreError
from logitstore.store.checks.verify import verify
from tests.parts.attacks import Attacks, told
from tests.parts.stranger import WHOLE, Target, reseal

pytestmark = [pytest.mark.slow, pytest.mark.attack]
VALUES: tuple[Any, ...] = (2**31 - 1, 2**63, -1, 0, 1.5, float("nan"), float("inf"), 10**30, "7", None, True)
LIKELY = (2**31 - 1, 0)
"""Values that a type alone does not refuse."""


def numbers_in(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of the numbers of a record; of a list the first alone, of seals none: they are made again."""
    if isinstance(content, dict):
        for name, value in content.items():
            if name not in ("files", "shared", "config"):
                yield from numbers_in(value, (*path, name))
    elif isinstance(content, list) and content:
        yield from numbers_in(content[0], (*path, 0))
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield path


def forge(path: Path, place: tuple[Any, ...], value: Any) -> None:
    content = json.loads(path.read_bytes())
    *steps, last = place
    at = content
    for step in steps:
        at = at[step]
    at[last] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("which", "share"), [("images", 61), *(pytest.param(which, 1, marks=pytest.mark.exhaustive) for which in WHOLE)]
)
def test_a_forged_number_is_refused_or_harmless(
    target: Callable[[str], Target], which: str, share: int, tmp_path: Path, attacks: Attacks
) -> None:
    attacked, number = target(which), 0
    for name in (name for name in attacked.files() if name.endswith(".json") and not name.startswith("shared/")):
        for place in numbers_in(json.loads((attacked.cache / name).read_bytes())):
            for value in VALUES:
                number += 1
                if number % share:
                    continue
                cache = Path(shutil.copytree(attacked.cache, tmp_path / "cache"))
                forge(cache / name, place, value)
                reseal(cache)
                readers = attacked.readers(cache, tmp_path / "out")
                at = f"{which}: {name}: {'.'.join(map(str, place))} = {value!r}"
                with attacks.of("forged numbers", at) as attack:
                    try:
                        attack.refused = bool(verify(cache))
                    except LogitstoreError:
                        attack.refused = True
                    except Exception as error:
                        raise AssertionError(f"verify: {error!r}") from error
                commands = ["train", "evaluate", "recode"] if value in LIKELY else []
                for command in commands if share == 1 else commands[number % 3 :][: number % 2]:
                    with attacks.of("forged numbers", f"{at}: {command}") as attack:
                        attack.refused = told(*readers[command]) != 0
                    shutil.rmtree(tmp_path / "out", ignore_errors=True)
                shutil.rmtree(cache)
    attacks.check()
