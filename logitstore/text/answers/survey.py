"""What there is to ask before anything is asked: how many prompts and tokens, which are answered already, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from logitstore.core.progress import Progress, Step
from logitstore.dump.engines.answers.folder import Answers
from logitstore.dump.engines.answers.matching import Asked, Matched, Unfit, matched
from logitstore.dump.engines.answers.reply import Reply
from logitstore.dump.engines.answers.spelling import Spelling
from logitstore.dump.engines.cost import money
from logitstore.errors import BadInput, CacheMismatch
from logitstore.settings.models.generate import GenerateSettings
from logitstore.text.answers.prompts import Prompt

LAYOUT = 1
"""Raise this when the same replies become other data."""


@dataclass
class Shard:
    """Some neighbouring prompts, whose answers lie in one file.

    Attributes:
        number: of the shard.
        prompts: count of them.
        tokens: of them.
        left: count of the prompts that are still to be asked.
        left_tokens: of these.
        is_made: whether its data are there already.
    """

    number: int
    prompts: int = 0
    tokens: int = 0
    left: int = 0
    left_tokens: int = 0
    is_made: bool = False
    checks: dict[int, tuple[str, int]] = field(default_factory=dict)
    digest: Any = field(default_factory=xxhash.xxh3_128)

    def add(self, prompt: Prompt) -> None:
        """Count a prompt."""
        self.prompts, self.tokens = self.prompts + 1, self.tokens + len(prompt.tokens_T)
        self.checks[prompt.question.number] = (prompt.check, len(prompt.tokens_T))
        self.digest.update(f"{prompt.question.number} {prompt.check} {prompt.domain}\0".encode())
        self.digest.update(np.array(prompt.tokens_T, "<u4").tobytes())

    @property
    def made_of(self) -> str:
        """What its data are made of, in hex: the prompts with their tokens, and the vocabulary."""
        return str(self.digest.hexdigest())


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All that is to be asked.

    Attributes:
        shards: by their numbers.
    """

    shards: dict[int, Shard]

    @classmethod
    def of(
        cls, prompts: Iterable[Prompt], per_shard: int, reading: Reading, folder: Answers | None, progress: Progress
    ) -> Survey:
        """Go through the prompts once.

        Args:
            prompts: all of them, in order.
            per_shard: rows of the data in a shard.
            reading: how replies become answers.
            folder: the folder that is there; None for none.
            progress: is told how many were read.

        Raises:
            BadInput: there are none.
            CacheMismatch: a prompt of the folder was another one.
        """
        shards: dict[int, Shard] = {}
        for count, prompt in enumerate(prompts, 1):
            number = prompt.question.number // per_shard
            shards.setdefault(number, Shard(number, digest=xxhash.xxh3_128(reading.identity))).add(prompt)
            progress(Step(stage="prompts", done=count, total=0))
        if not shards:
            raise BadInput("--data: it holds no prompts. Give a data set with at least one that is not empty.")
        for shard in shards.values():
            _look_up(shard, folder)
        return cls(shards=shards)

    @property
    def prompts(self) -> int:
        """Count of all prompts."""
        return sum(shard.prompts for shard in self.shards.values())

    @property
    def left(self) -> int:
        """Count of the prompts that are still to be asked."""
        return sum(shard.left for shard in self.shards.values())

    @property
    def left_tokens(self) -> int:
        """Count of their tokens."""
        return sum(shard.left_tokens for shard in self.shards.values())


def _look_up(shard: Shard, folder: Answers | None) -> None:
    """Find what of a shard is there. What a reply is worth is not looked at."""
    made = None if folder is None else folder.made(shard.number)
    shard.is_made = made is not None and made[0] == shard.made_of
    answered = set()
    if folder is not None and not shard.is_made:
        for number, check, _ in folder.journal(shard.number):
            if number not in shard.checks:
                continue  # of a larger --limit
            if shard.checks[number][0] != check:
                raise CacheMismatch(
                    f"{folder.path}: prompt {number} of the data, counted from 0, is another one than when the folder was "
                    "begun. Give the same data, or another --out."
                )
            answered.add(number)
    left = [tokens for number, (_, tokens) in shard.checks.items() if number not in answered]
    shard.left, shard.left_tokens = (0, 0) if shard.is_made else (len(left), sum(left))
    shard.checks = {}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How replies become answers in token ids.

    Attributes:
        spelling: of the vocabulary.
        max_new_tokens, entries: what was asked for.
    """

    spelling: Spelling
    max_new_tokens: int
    entries: int

    @property
    def identity(self) -> bytes:
        """What the same replies to the same prompts follow from."""
        return f"{LAYOUT} {self.spelling.fingerprint} {self.max_new_tokens} {self.entries}".encode()

    def read(self, reply: Reply, prompt: Prompt) -> list[Matched | Unfit]:
        """Return each answer in ids, or why it is left out."""
        asked = Asked(prompt_T=prompt.tokens_T, max_new_tokens=self.max_new_tokens, entries=self.entries)
        return matched(reply, asked, self.spelling)


def costs(settings: GenerateSettings, survey: Survey) -> str:
    """Return what is to be asked and what it may cost, for people."""
    prompts, tokens = survey.left, survey.left_tokens
    answers = prompts * settings.samples_per_prompt * settings.max_new_tokens
    there = (
        f" ({survey.prompts - prompts:,} of {survey.prompts:,} are answered already)"
        if prompts < survey.prompts
        else ""
    )
    line = f"{prompts:,} prompts of {tokens:,} tokens are to be asked{there}; at most {answers:,} tokens of answers"
    if settings.price_in is None and settings.price_out is None:
        return line
    into, out = tokens * (settings.price_in or 0) / 1e6, answers * (settings.price_out or 0) / 1e6
    return f"{line}; at most {money(into + out)}: {money(into)} for prompts and {money(out)} for answers"
