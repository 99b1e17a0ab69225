"""What a server answers to one prompt: texts, and of each token the logprobs; as a value, and as plain JSON that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Token:
    """A token as a server names it.

    Attributes:
        text: its text.
        logprob: nats; None where the server does not say.
        raw: its bytes, where they are given and are not those of the text.
        id: its id, where it is given.
    """

    text: str
    logprob: float | None
    raw: bytes | None = None
    id: int | None = None

    @property
    def bytes(self) -> bytes:
        """Its bytes, or those of its text."""
        return self.text.encode("utf-8", "surrogatepass") if self.raw is None else self.raw

    def plain(self) -> list[Any]:
        """Return it as JSON: as short as it can be, because a reply holds thousands."""
        values = [self.text, self.logprob, None if self.raw is None else self.raw.hex(), self.id]
        while values[-1] is None and len(values) > 2:
            values.pop()
        return values

    @classmethod
    def of(cls, plain: list[Any]) -> Token:
        text, logprob, raw, token = plain + [None] * (4 - len(plain))
        return cls(text, logprob, None if raw is None else bytes.fromhex(raw), token)


@dataclass(frozen=True, slots=True)
class Listed:
    """One token of an answer, and the most probable tokens in its place."""

    token: Token
    top: list[Token]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer.

    Attributes:
        text: the message.
        finish: why it ends, as the server says; None where it does not.
        besides: what the message holds besides a text, such as `tool_calls`; None for nothing.
        tokens: its tokens; none where the server gives no logprobs.
    """

    text: str
    finish: str | None
    besides: str | None
    tokens: list[Listed]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answers to one prompt.

    Attributes:
        model: the name of the model that answered.
        prompt_tokens, answer_tokens: what the server counted; None where it does not say.
        prompt_ids: the tokens of the prompt, where the server gives them.
        choices: the answers.
        refused: why there are none: the server refused this prompt alone.
    """

    model: str
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    prompt_ids: list[int] | None = None
    choices: list[Choice]
    refused: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "model": self.model,
            "usage": [self.prompt_tokens, self.answer_tokens],
            "prompt_ids": self.prompt_ids,
            "refused": self.refused,
            "choices": [
                {
                    "text": each.text,
                    "finish": each.finish,
                    "besides": each.besides,
                    "tokens": [[listed.token.plain(), [top.plain() for top in listed.top]] for listed in each.tokens],
                }
                for each in self.choices
            ],
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Reply:
        """Return what `plain` wrote. Raises KeyError, TypeError, ValueError: it was not written by it."""
        return cls(
            model=plain["model"],
            prompt_tokens=plain["usage"][0],
            answer_tokens=plain["usage"][1],
            prompt_ids=plain["prompt_ids"],
            refused=plain["refused"],
            choices=[
                Choice(
                    text=each["text"],
                    finish=each["finish"],
                    besides=each["besides"],
                    tokens=[Listed(Token.of(said), [Token.of(top) for top in tops]) for said, tops in each["tokens"]],
                )
                for each in plain["choices"]
            ],
        )
