"""What is known of a teacher before its weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from logitstore.dump.teachers.teacher import Teacher
from logitstore.format.needs import Gives


@dataclass(frozen=True, kw_only=True)
class TeacherSource:
    """A teacher of texts that is not loaded yet.

    Attributes:
        name: what messages call it.
        gives: what it can be asked for, names of `logitstore.format.needs`.
        tokenizer: loads its tokenizer.
        vocabulary: rows of its output layer, padding included; token ids are below this.
        width: channels of its final hidden state, where they are known.
        architecture: what kind of model it is, for the manifest.
        config: its configuration as plain JSON, for the manifest; empty where it is not known.
        revision: the version of its weights, where there is one.
        pretrained: its configuration of transformers; an empty one for a teacher that gives no features.
        dtype: the number format that the manifest names, where it is not for the user to choose.
        engine: which engine answers; None for a model in this process.
        load: loads the weights, or connects to them, given the number format and the device.
    """

    name: str
    gives: Gives
    tokenizer: Callable[[], PreTrainedTokenizerBase]
    vocabulary: int
    width: int | None
    architecture: str
    config: Mapping[str, Any]
    revision: str | None = None
    pretrained: PretrainedConfig = field(default_factory=PretrainedConfig)
    dtype: str | None = None
    engine: str | None = None
    load: Callable[[str, str], Teacher]
