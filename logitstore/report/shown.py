"""What a task shows a person; the fourth facet of a task, see `logitstore.core.tasks`. No torch."""

from __future__ import annotations

from typing import Any, Protocol

from logitstore.core.tasks import facet
from logitstore.core.types import CachedSample
from logitstore.format.manifest import Manifest
from logitstore.report.tokens import Listed, Spell, TokenView
from logitstore.store.cache import Cache


class Shown(Protocol):
    """What people see of the samples of one task.

    Attributes:
        answers: what the teacher's distributions are over, such as "tokens".
        gold: what is right, such as "gold token".
    """

    answers: str
    gold: str

    def tokens(
        self, cache: Cache, sample: CachedSample, listed: Listed, spell: Spell, tokens: int, top: int
    ) -> list[TokenView]:
        """Return one sample through the teacher's eyes.

        Args:
            cache: that the sample comes from.
            sample: with the stored answers about its rows.
            listed: the most probable ids of every row, with their logprobs.
            spell: gives the text of an id.
            tokens: most tokens to show, from the first one that a row is about and the one before it.
            top: alternatives to show for each.
        """
        ...

    def dry_run(self, manifest: Manifest) -> list[str]:
        """Describe teacher, data and samples of a dump that is prepared, one line each."""
        ...

    def sample_bytes(self, manifest: Manifest) -> int:
        """Return about how many bytes the samples of a complete cache take."""
        ...

    def typical_error(self, manifest: Manifest) -> str:
        """Say what is known about the error of a preset before a dump has measured it."""
        ...

    def summary(self, summary: dict[str, Any]) -> list[tuple[str, str]]:
        """Describe the data of a cache in pairs of a heading and a text, from what `summarise` gives."""
        ...

    def added(self, cache: Cache) -> str | None:
        """Say how many samples a cache has after `add`; None where that cannot change."""
        ...


def shown(task: str) -> Shown:
    """Return what a task shows a person."""
    found: Shown = facet(task, "shown")
    return found
