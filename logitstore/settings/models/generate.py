"""The settings of `generate`."""

from __future__ import annotations

from pydantic import Field

from logitstore.core.record import Record
from logitstore.settings.fields import FilePath, Model, NamedValues
from logitstore.settings.models.engine import EngineName
from logitstore.settings.sources import Sources


class GenerateSettings(Record):
    """The settings of `generate`."""

    teacher: Model = Field(
        description="The server that answers, as http://HOST:PORT#MODEL or https://HOST/v1#MODEL. A key is taken from the "
        "environment variable LOGITSTORE_API_KEY, with --engine openai else from OPENAI_API_KEY."
    )
    engine: EngineName = Field(
        "openai",
        description="What serves there: vllm, sglang, llamacpp, or openai for any server with chat completions that give "
        "logprobs.",
    )
    tokenizer: Model = Field(
        description="The tokenizer of the model that answers: a folder, a hub name, or folder::file.gguf. Its chat template is "
        "compared with the server's before the first answer is kept."
    )
    data: Sources = Field(
        description="Prompts: a file (json, jsonl, parquet, csv, txt), a glob, a folder or a hub data set; may be given "
        "several times, each with options behind it (limit, domain, split, column). Chats are answered after their last turn "
        "that is not the assistant's; a text is what the user says."
    )
    split: str = Field("train", description="Split of the data set.")
    column: str | None = Field(
        None,
        description="Column with the chats or texts. Default: the first that is there of 'messages', 'conversations', "
        "'prompt', 'instruction', 'question' and 'text'.",
    )
    domain_column: str | None = Field(
        None, description="Column that names the domain (source) of each prompt, which is kept with the answers."
    )
    limit: int | None = Field(None, ge=1, description="Use only the first N prompts. A later run may give more.")
    chat_template: FilePath | None = Field(
        None,
        description="Render prompts with this template in place of the tokenizer's own, as the server does: a Jinja file, or "
        "the chat_template.json of a model.",
    )
    template_arg: NamedValues | None = Field(
        None,
        examples=["NAME=VALUE"],
        description="Give this to the chat template, here and on the server, such as enable_thinking=false; may be given "
        "several times. The value is read as JSON; what is not JSON is taken as text. What a row of the data has in "
        "chat_template_kwargs overrides it.",
    )
    out: FilePath = Field(
        description="The folder of answers to write. An interrupted run of the same command is resumed."
    )
    max_new_tokens: int = Field(1024, ge=1, description="Maximum number of tokens in an answer.")
    temperature: float = Field(
        1.0,
        ge=0,
        le=2,
        description="Temperature at which answers are drawn. The logprobs that are kept are those at temperature 1.",
    )
    seed: int | None = Field(
        0,
        ge=0,
        lt=1 << 31,
        description="Seed of the first prompt; each later one has the next. A server may still answer otherwise the next time.",
    )
    samples_per_prompt: int = Field(1, ge=1, le=128, description="Answers to each prompt.")
    top_logprobs: int = Field(
        20,
        ge=1,
        le=100_000,
        description="Most probable tokens that are kept in each place. Hosted services give up to 20.",
    )
    concurrency: int = Field(32, ge=1, le=4096, description="Requests that the server works on at the same time.")
    price_in: float | None = Field(
        None,
        ge=0,
        description="Price of a million tokens of prompts, in any currency. The cost is shown before the first request.",
    )
    price_out: float | None = Field(None, ge=0, description="Price of a million tokens of answers.")
    prompts_per_shard: int = Field(
        512, ge=1, le=1 << 20, description="Prompts in a file of the folder. A folder that is there keeps its own."
    )
