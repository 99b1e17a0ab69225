"""An `add` that is killed at many moments ends byte-identical."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.settings.dump import AddSettings
from logitstore.store.checks.verify import verify
from tests.parts.attacks import Attacks
from tests.parts.files import tree
from tests.parts.tasks import Start
from tests.parts.texts import plan_for

pytestmark = pytest.mark.attack


@pytest.mark.slow
@pytest.mark.parametrize(
    "shares", [[0.3], pytest.param([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], marks=pytest.mark.exhaustive)]
)
def test_an_add_killed_at_many_moments_ends_byte_identical(
    start: Start, teacher: Path, texts: Path, tmp_path: Path, attacks: Attacks, shares: list[float]
) -> None:
    plan = plan_for(teacher, texts, tmp_path / "cache", samples_per_part=6, limit=None if len(shares) > 1 else 6)
    cache = dump(plan).path
    whole = Path(shutil.copytree(cache, tmp_path / "whole"))
    adding = AddSettings(cache=cache, hidden="all", tap_codec="int8", device="cpu")
    add(adding.model_copy(update={"cache": whole}))
    bare, expected = tree(cache), tree(whole)
    parts = len(parts_of_taps(whole))
    for share in shares:
        process = start(adding)
        while process.poll() is None and len(parts_of_taps(cache)) < max(1, share * parts):
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the add was over before it was killed"
        assert verify(cache) == []
        there = tree(cache)
        assert {name: there[name] for name in bare} == bare
        written = [f"{part.parent.relative_to(cache)}/" for part in parts_of_taps(cache)]
        assert all(there[name] == expected[name] for name in there if name.startswith(tuple(written)))
        attacks.survived("kills")
    last = start(adding)
    _, stderr = last.communicate()
    assert last.returncode == 0, stderr
    assert tree(cache) == expected
    attacks.survived("caches resumed to the same bytes")


def parts_of_taps(cache: Path) -> list[Path]:
    """The records of all parts of taps that are whole."""
    return list(cache.glob("taps/*/parts/?????/part.json"))
