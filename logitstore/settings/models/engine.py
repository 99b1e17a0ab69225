"""The settings of every command that may ask a teacher which an engine serves, and not this process."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from logitstore.core.record import Record
from logitstore.settings.fields import Model, NamedValues

ENGINE_OPTIONS = ("engine", "tokenizer", "concurrency", "engine_arg")
"""The options of `ServingChoices`, which mean nothing to a model of transformers."""


EngineName = Literal["vllm", "sglang", "llamacpp", "openai"]
"""What serves a teacher over HTTP."""


class EngineChoices(Record):
    """Which engine answers, and how it is asked. None keeps what the engine needs."""

    engine: EngineName | None = Field(
        None,
        description="What serves the teacher at --teacher http://HOST:PORT#MODEL: vllm, sglang, llamacpp, or openai for any "
        "server that gives logprobs of a prompt by `echo`.",
    )
    tokenizer: Model | None = Field(
        None,
        description="The tokenizer of a teacher that an engine serves: a folder, a hub name, or folder::file.gguf. Default: "
        "that of the model.",
    )


class ServingChoices(EngineChoices):
    """How an engine is asked for answers."""

    concurrency: int | None = Field(
        None, ge=1, le=4096, description="Requests that a server works on at the same time. Default: 32."
    )
    engine_arg: NamedValues | None = Field(
        None,
        examples=["NAME=VALUE"],
        description="Give this to the engine of --teacher vllm:FOLDER, such as tensor_parallel_size=4; may be given several "
        "times. The value is read as JSON; what is not JSON is taken as text.",
    )

    def or_of(self, engine: str | None) -> ServingChoices:
        """Return the same, with the engine of a cache where none is named and it is one of those that are named."""
        if self.engine is not None or engine not in get_args(EngineName):
            return self
        return self.model_copy(update={"engine": engine})


class PriceChoice(Record):
    """What the answers of a server cost."""

    price: float | None = Field(
        None,
        ge=0,
        description="Price of a million tokens that a server reads, in any currency. The cost of the dump is shown before it "
        "starts.",
    )


def engine_options(choices: EngineChoices) -> dict[str, Any]:
    """Return the options of an engine that were given, by name."""
    values = {name: getattr(choices, name, None) for name in ENGINE_OPTIONS}
    return {name: value for name, value in values.items() if value is not None}
