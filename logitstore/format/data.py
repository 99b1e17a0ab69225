"""What `cache.json` says about the teacher and the data: the texts or images that it was asked about, and the tokenizer; and
where rows come from that no teacher gave here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from logitstore.core.record import Count, Positive, Record
from logitstore.format.positions import CHOSEN, Share, share_of
from logitstore.format.tasks.masked import MaskedInfo
from logitstore.format.tasks.texts import ClassifiedInfo, EmbeddedInfo

SCORE, GROUP = "score:", "group"
"""What the data say of samples is kept in columns: of a score it begins the name, of groups it is the name."""


class Member(Record):
    """One of the caches that a merged one was made from: the identity of its plan, the name of its teacher, and its weight.

    The weights of all members of a mean sum to 1. There is none where each row is taken from one member.
    """

    plan: str
    teacher: str
    weight: float | None = Field(ge=0, le=1)


class ImportedInfo(Record):
    """What other software kept of its teacher.

    Attributes:
        format: what they were read from.
        gold: which rows know the logprob of their gold token.
        mass: whether the mass of the tokens that a row does not list is known.
    """

    format: str
    gold: Literal["all", "listed", "none"]
    mass: Literal["known", "unknown"]

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.mass == "unknown" and self.gold != "none":
            raise ValueError("the logprob of a gold token and a mass that is not known do not go together")
        return self


class SourceInfo(Record):
    """One source of text data.

    Attributes:
        documents: how many were taken.
        domain: of all of its documents; None if their own column says it, or nothing.
        share: the share of its documents that were taken.
        limit: the largest count of its first documents that were taken.
    """

    source: str
    split: str
    column: str
    documents: Positive
    domain: str | None = None
    share: float | None = Field(None, gt=0, lt=1)
    limit: Positive | None = None

    @model_serializer(mode="wrap")
    def _plain(self, plain_of: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {name: value for name, value in plain_of(self).items() if value is not None}


class ScoresInfo(Record):
    """What the data say of each text besides its words.

    Attributes:
        columns: names of the scores, as the data call them.
        group: the column that says which texts belong together.
        fingerprint: covers the scores and groups of all samples, in order.
    """

    columns: tuple[str, ...]
    group: str | None
    fingerprint: str = Field(pattern="^[0-9a-f]{32}$")

    @model_validator(mode="after")
    def _say_something(self) -> Self:
        if len(set(self.columns)) < len(self.columns) or not (self.columns or self.group is not None):
            raise ValueError("it names no column, or one twice")
        return self


class DataInfo(Record):
    """The text data.

    Attributes:
        fingerprint: covers place, domain, tokens and mask of the positions that the data ask about, of every sample, in order.
        chat_template: checksum of the chat template that was given in place of the tokenizer's own.
        template_args: what the template of every chat was given by name.
        sources: what was read, if it was more than one plain source.
        positions: which of the positions that the data ask about have a row; None where all have one.
        scores: the scores and groups of the samples; None without any.
    """

    source: str
    split: str
    kind: Literal["text", "chat"]
    column: str
    domain_column: str | None = None
    fingerprint: str
    documents: Count
    skipped: Count
    max_length: Positive
    overlap: Count
    chat_template: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    template_args: dict[str, Any] | None = Field(None, min_length=1)
    sources: tuple[SourceInfo, ...] | None = Field(None, min_length=1)
    positions: str | None = Field(None, pattern=CHOSEN)
    scores: ScoresInfo | None = None

    @property
    def share(self) -> Share | None:
        """The share of these positions that have a row; None where all have one."""
        return share_of(self.positions)

    @model_validator(mode="after")
    def _only_chats_have_templates(self) -> Self:
        if self.kind != "chat" and (self.chat_template is not None or self.template_args is not None):
            raise ValueError(f"a chat template and data of the kind '{self.kind}' do not go together")
        return self

    @model_validator(mode="after")
    def _sources_add_up(self) -> Self:
        if self.sources is not None and sum(each.documents for each in self.sources) != self.documents:
            raise ValueError(f"the sources do not have {self.documents} documents in all")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, plain_of: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leave out what was not given about a template, sources, positions or scores, so that such caches keep the bytes of
        older versions."""
        plain = plain_of(self)
        for name in ("chat_template", "template_args", "sources", "positions", "scores"):
            if getattr(self, name) is None:
                plain.pop(name, None)
        return plain


class ImagesInfo(Record):
    """The image data.

    Attributes:
        fingerprint: checksum of key and label of every image in the data, in order.
        classes: checksum of the names of the teacher's classes, in order.
        prompt: the text for each class, with `{}` for its name; only for a teacher that compares images with texts.
        unlabelled: count of images without a true label for the picture that the teacher saw.
        skipped: keys of the images that were left out because they could not be read or decoded.
    """

    source: str
    split: str
    kind: Literal["images"]
    column: str | None = None
    label_column: str | None = None
    key_column: str | None = None
    limit: int | None = None
    fingerprint: str
    classes: str
    prompt: str | None = None
    unlabelled: Count
    skipped: tuple[str, ...] = ()

    @model_serializer(mode="wrap")
    def _plain(self, plain_of: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Leave `skipped` out if it is empty, so that such caches keep the bytes of older versions."""
        plain = plain_of(self)
        if not self.skipped:
            plain.pop("skipped", None)
        return plain


class OtherData(Record):
    """What was asked, where the task is another package's. `kind` names it; the task may keep further entries."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    source: str
    kind: str
    fingerprint: str


OF_CLASSES = (ImagesInfo, ClassifiedInfo, EmbeddedInfo)
"""Descriptions of data whose vocabulary is none of tokens: one of classes, or of the one thing that a vector is about."""


def record_of(task: str) -> type[Record]:
    """Return the record that describes the data of a task; those of other packages have `OtherData`."""
    known: dict[str, type[Record]] = {
        "causal-lm": DataInfo,
        "image-classification": ImagesInfo,
        "text-classification": ClassifiedInfo,
        "masked-lm": MaskedInfo,
        "embedding": EmbeddedInfo,
    }
    return known.get(task, OtherData)


def _kind_of(data: Any) -> str:
    """Return which of the records describes some data."""
    kind = data.get("kind") if isinstance(data, dict) else getattr(data, "kind", None)
    known = {"text": "text", "chat": "text", "images": "images", "classified": "classified"}
    known |= {"masked": "masked", "embedded": "embedded"}
    return known.get(str(kind), "other")


AnyData = Annotated[
    Annotated[DataInfo, Tag("text")]
    | Annotated[ImagesInfo, Tag("images")]
    | Annotated[ClassifiedInfo, Tag("classified")]
    | Annotated[MaskedInfo, Tag("masked")]
    | Annotated[EmbeddedInfo, Tag("embedded")]
    | Annotated[OtherData, Tag("other")],
    Discriminator(_kind_of),
]
"""What was asked, whatever the task."""


class EngineInfo(Record):
    """The engine that answered in place of transformers. `version` is its own. `probes` are the logprobs, in nats, that it gave
    to the tokens of a few fixed texts before the first row; `noise` is the mean absolute difference between these and the ones
    that it gave when it was asked about all of them at once. Only `name` belongs to the identity of the plan."""

    name: str
    version: str | None = None
    probes: list[Annotated[float, Field(le=0, allow_inf_nan=False)]] = Field(default_factory=list)
    noise: float = Field(0.0, ge=0, allow_inf_nan=False)


class TeacherInfo(Record):
    """The teacher. `vocabulary` is the count of real token ids, without padding rows of the embedding. `width` is the count of
    channels of the final hidden state, if the configuration gives it. `quantization` says how its weights were packed while
    they were loaded. `engine` says what answered, where that was not transformers."""

    name: str
    revision: str | None = None
    fingerprint: str
    dtype: str
    vocabulary: int = Field(ge=1, le=1 << 32)
    width: Count | None = Field(None, ge=1)
    architecture: str
    config: dict[str, Any]
    quantization: str | None = None
    engine: EngineInfo | None = None

    @model_serializer(mode="wrap")
    def _plain(self, plain_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `quantization` and `engine` out if they are None, so that caches keep the bytes of older versions."""
        plain: dict[str, Any] = plain_of(self)
        for name in ("quantization", "engine"):
            if getattr(self, name) is None:
                plain.pop(name, None)
        return plain
