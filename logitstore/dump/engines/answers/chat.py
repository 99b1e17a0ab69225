"""Chat completions: how a server is asked for answers with logprobs, and how its answer is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from logitstore.dump.engines.answers.reply import Choice, Listed, Reply, Token
from logitstore.dump.engines.servers.address import KEY, Address
from logitstore.dump.engines.servers.api import whole
from logitstore.dump.engines.servers.wire import Wire
from logitstore.errors import BadInput, ModelError
from logitstore.settings.models.engine import EngineName

_ROUTE = "/v1/chat/completions"

MORE: Mapping[str, Mapping[str, Any]] = {
    "openai": {},
    "sglang": {},
    # the ids of tokens, without which halves of characters cannot be told apart
    "vllm": {"return_tokens_as_token_ids": True, "return_token_ids": True},
    "llamacpp": {"post_sampling_probs": False},
}
"""What a request also holds, by engine; a server that does not know a name passes over it."""

_BESIDES = ("tool_calls", "function_call", "refusal", "reasoning_content", "reasoning", "audio")
"""What a message may hold besides its text; their tokens would stand among those of the text, or be missing."""

_WAY_OUT = (
    "Check that --engine names what serves there, that the model is one that gives logprobs, and that its context has room for "
    "the prompt and --max-new-tokens."
)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn, and what is said of them.

    Attributes:
        max_new_tokens: most tokens of an answer.
        temperature: at which they are drawn.
        seed: of the first prompt; each later one has the next. None leaves it to the server.
        samples: answers to one prompt.
        entries: most probable tokens that are listed in each place.
    """

    max_new_tokens: int
    temperature: float
    seed: int | None
    samples: int
    entries: int

    def one(self) -> Sampling:
        """Return how the first token alone is asked for, at temperature 1."""
        return replace(self, max_new_tokens=1, temperature=1.0, samples=1)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt as a server takes it.

    Attributes:
        number: of the prompt.
        messages: of the chat.
        arguments: for the chat template, by name.
    """

    number: int
    messages: list[dict[str, Any]]
    arguments: Mapping[str, Any]


class ChatServer:
    """A server with chat completions. Any number of threads may ask at the same time."""

    def __init__(self, teacher: str, engine: str, connections: int, known: str | None = None) -> None:
        """Ask which model is served, where that is not known.

        Args:
            teacher: its address, with the name of the model behind '#' where it serves several.
            engine: a name of MORE.
            connections: most connections at the same time.
            known: the name of the model that was asked before; None where none was.

        Raises:
            BadInput: it is no address.
            ModelError: nobody answers there, or it does not serve one model of that name.
        """
        address = Address.parse(teacher)
        keys = (KEY, "OPENAI_API_KEY") if engine == "openai" else (KEY,)
        self._wire = Wire(address, connections=connections, keys=keys)
        self._more, self._where = MORE[engine], address.url
        try:
            self.model = address.model or known or self._only_model()
        except BaseException:
            self._wire.close()
            raise
        self.name = f"{address.url}#{self.model}"

    def _only_model(self) -> str:
        said = self._wire.get("/v1/models", optional=True) or {}
        given = said.get("data")
        names = [each["id"] for each in given if _has(each, "id", str)] if isinstance(given, list) else []
        if len(names) != 1:
            serves = f"it serves {len(names)} models" if names else "it does not say which models it serves"
            raise ModelError(f"{self._where}: {serves}. Name one: --teacher {self._where}#MODEL.")
        return str(names[0])

    def ask(self, question: Question, sampling: Sampling, *, is_first: bool = False) -> Reply:
        """Return the answers to a prompt; of one that the server refuses, a reply that says so.

        Args:
            is_first: whether nothing was asked before, so that a refusal is about the request and not about this prompt.

        Raises:
            ModelError: the server refuses, or is gone, or its answer cannot be read, or comes from another model.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": question.messages,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "logprobs": True,
            "top_logprobs": sampling.entries,
            **self._more,
        }
        if sampling.seed is not None:
            body["seed"] = (sampling.seed + question.number) % (1 << 31)
        if sampling.samples > 1:
            body["n"] = sampling.samples
        if question.arguments:
            body["chat_template_kwargs"] = dict(question.arguments)
        answer = self._wire.post(_ROUTE, body, optional=not is_first, way_out=_WAY_OUT)
        if answer is None:
            return Reply(model=self.model, choices=[], refused="the server refuses the prompt")
        reply = reply_of(answer, self.name)
        if not _is_named(reply.model, self.model):
            raise ModelError(
                f"{self.name}: another model answered, or one of another name. Give the name that the server answers with "
                "behind '#' in --teacher."
            )
        if len(reply.choices) != sampling.samples:
            raise ModelError(
                f"{self.name}: it gave {len(reply.choices)} answers to a prompt, and {sampling.samples} were asked for. Give "
                "--samples-per-prompt 1."
            )
        return reply

    def close(self) -> None:
        """End all requests."""
        self._wire.close()


def check_engine(teacher: str, engine: str) -> None:
    """Refuse a teacher that is no server, or an engine that is not known. Raises BadInput."""
    if not teacher.startswith(("http://", "https://")):
        raise BadInput(
            f"--teacher {teacher}: answers are generated by servers. Give http://HOST:PORT#MODEL, such as that of vLLM or "
            "llama.cpp on this machine."
        )
    if engine not in get_args(EngineName):
        raise BadInput(f"--engine {engine}: known are {', '.join(get_args(EngineName))}.")


def _is_named(answered: str, asked: str) -> bool:
    """Whether a name is the one that was asked for, or a dated version of it."""
    return answered == asked or (answered.startswith(f"{asked}-") and answered[len(asked) + 1 :][:4].isdecimal())


def reply_of(answer: Mapping[str, Any], server: str) -> Reply:
    """Return what a server answered.

    Args:
        answer: of chat completions.
        server: for messages.

    Raises:
        ModelError: it is no such answer.
    """
    choices, usage = answer.get("choices"), answer.get("usage")
    if not isinstance(choices, list) or not choices or not isinstance(answer.get("model"), str):
        raise ModelError(f"{server}: its answer holds no choices of a model. {_WAY_OUT}")
    counts = usage if isinstance(usage, dict) else {}
    prompt_ids = answer.get("prompt_token_ids")
    return Reply(
        model=answer["model"],
        prompt_tokens=whole(counts.get("prompt_tokens")),
        answer_tokens=whole(counts.get("completion_tokens")),
        prompt_ids=prompt_ids if _are_ids(prompt_ids) else None,
        choices=[_choice(each, server) for each in choices],
    )


def _choice(given: Any, server: str) -> Choice:
    message = given.get("message") if isinstance(given, dict) else None
    if not isinstance(message, dict) or not isinstance(message.get("content"), str | None):
        raise ModelError(f"{server}: an answer has no message with a text. {_WAY_OUT}")
    said = given.get("logprobs")
    tokens = said.get("content") if isinstance(said, dict) else None
    finish = given.get("finish_reason")
    try:
        listed = [_listed(each) for each in tokens or ()]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ModelError(
            f"{server}: its logprobs are not those of chat completions: an entry has a token, a logprob and bytes. {_WAY_OUT}"
        ) from None
    return Choice(
        text=message.get("content") or "",
        finish=finish if isinstance(finish, str) else None,
        besides=next((name for name in _BESIDES if message.get(name)), None),
        tokens=listed,
    )


def _listed(given: dict[str, Any]) -> Listed:
    return Listed(_token(given), [_token(each) for each in given.get("top_logprobs") or ()])


def _token(given: dict[str, Any]) -> Token:
    """Return a token. Raises KeyError, TypeError, ValueError, AttributeError: it is none."""
    text, logprob, raw, token = given["token"], given["logprob"], given.get("bytes"), given.get("id")
    if not isinstance(text, str) or not isinstance(logprob, int | float | None) or not isinstance(token, int | None):
        raise TypeError
    if (logprob is not None and math.isnan(logprob)) or not isinstance(raw, list | None):
        raise ValueError
    content = None if raw is None else bytes(raw)
    # -9999 and less stand for a logprob that is not said
    known = None if logprob is None or logprob <= UNSAID else float(logprob)
    return Token(text, known, None if content == text.encode("utf-8", "surrogatepass") else content, token)


UNSAID = -9998.0
"""What OpenAI and vLLM write for a token that is not among those listed, or for a probability of 0, is below this."""


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(whole(each) is not None for each in value)


def _has(value: Any, name: str, kind: type) -> bool:
    return isinstance(value, dict) and isinstance(value.get(name), kind)
