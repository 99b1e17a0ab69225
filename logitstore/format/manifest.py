"""The contents of `cache.json` and `part.json`. docs/format.md describes every entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import xxhash
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from logitstore.core.record import Count, NotKnownHere, Positive, Record, SharedPath
from logitstore.core.tasks import is_task
from logitstore.core.types import Array, ChosenBy
from logitstore.errors import BadInput, CacheDamaged
from logitstore.format.data import (
    OF_CLASSES,
    AnyData,
    DataInfo,
    ImagesInfo,
    ImportedInfo,
    Member,
    TeacherInfo,
    record_of,
)
from logitstore.format.row import (
    SCORES,
    CodecInfo,
    FieldInfo,
    RowInfo,
    SparsifierInfo,
    TailInfo,
    row_fields,
    token_dtype,
)
from logitstore.format.sealed import FileSeal
from logitstore.format.tasks.masked import MaskedInfo
from logitstore.format.tasks.texts import TokenizerInfo
from logitstore.format.views import ViewInfo

MANIFEST_NAME = "cache.json"


class Manifest(Record):
    """The plan of a cache, written before its first part. Only the count of views can change later: it can grow.

    `samples`, `rows` and `tokens` count one view of the data. A cache of text has one view. One of images or of masked
    texts has `views` views: all parts of one view, then all parts of the next.
    """

    format: Literal["logitstore"] = "logitstore"
    version: Literal[1] = 1
    created_by: dict[str, str]
    recoded_from: str | None = None
    origin: str | None = None
    merged_from: list[Member] | None = Field(None, min_length=2)
    chosen_by: ChosenBy | None = None
    imported: ImportedInfo | None = None
    task: str = "causal-lm"
    teacher: TeacherInfo
    tokenizer: TokenizerInfo | None = None
    data: AnyData
    views: Positive = 1
    view: ViewInfo | None = None
    samples: Positive
    rows: Positive
    tokens: Positive
    samples_per_part: Positive
    batch_tokens: Positive
    packed: bool = Field(False, strict=True)
    fidelity_rows: Count = 0
    preset: str | None = None
    sparsifier: SparsifierInfo
    tail: TailInfo
    codec: CodecInfo
    fields: dict[str, FieldInfo]
    shared: dict[SharedPath, FileSeal]

    @field_validator("task")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if not is_task(name):
            what = f"the task '{name}' of this cache is not known here"
            raise NotKnownHere(f"{what}; install the package that provides it")
        return name

    @model_validator(mode="after")
    def _known_fields(self) -> Self:
        """Refuse fields that are not of this version, because field names become paths."""
        row = self.row
        is_text, is_images = isinstance(self.data, DataInfo), isinstance(self.data, ImagesInfo)
        of_classes, is_masked = isinstance(self.data, OF_CLASSES), isinstance(self.data, MaskedInfo)
        if (
            not isinstance(self.data, record_of(self.task))
            or ((is_text or is_masked) and self.tokenizer is None)
            or (self.tokenizer is not None and of_classes)
            or (self.view is not None) != is_images
            or (self.views > 1 and not (is_images or is_masked))
            or (self.packed and (of_classes or is_masked))
            or (self.imported is not None and not is_text)
        ):
            raise ValueError(f"data, tokenizer, view, packed and the task '{self.task}' do not go together")
        if isinstance(self.data, MaskedInfo) and self.tokenizer is not None:
            self.data.check_tokens(self.tokenizer.size)
        # a plan that is still being worked out has no shared files yet
        if self.shared and (self.tail.file is None) == self.tail.is_fitted:
            raise ValueError(f"a tail '{self.tail.shape}' and the file {self.tail.file} do not go together")
        if self.imported is not None and self.imported.mass == "unknown" and self.tail.shape != "none":
            raise ValueError(f"a tail of the shape '{self.tail.shape}' needs the mass of the unlisted tokens")
        if self.tail.file is not None and self.shared and self.tail.file not in self.shared:
            raise ValueError(f"the file of the tail, {self.tail.file}, is not among the shared files")
        template = self.data.chat_template if isinstance(self.data, DataInfo) else None
        if template is not None and self.shared and not self._shares_template(template):
            raise ValueError("data.chat_template is not the checksum of the chat template among the shared files")
        if {member.weight is None for member in self.merged_from or ()} - {self.chosen_by is not None} or (
            self.chosen_by and not self.merged_from
        ):
            raise ValueError("merged_from, its weights and chosen_by do not go together")
        expected = row_fields(row.sparsifier, row.tail, row.codec, row.vocabulary)
        for name in expected.keys() | self.fields.keys():
            if self.fields.get(name) != expected.get(name):
                raise ValueError(f"the field '{name}' is not the one of these targets")
        return self

    def _shares_template(self, fingerprint: str) -> bool:
        """Return True if the shared tokenizer has the chat template with this checksum."""
        files = [name for name in self.shared if name.startswith("shared/tokenizer-")]
        return any(self.shared[name].xxh3_128 == fingerprint for name in files if name.endswith("/chat_template.jinja"))

    @model_serializer(mode="wrap")
    def _plain(self, plain_of: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what says nothing, and is of a later version, so that caches keep the bytes of older versions."""
        plain: dict[str, Any] = plain_of(self)
        if not self.packed:
            plain.pop("packed", None)
        for name in ("origin", "merged_from", "chosen_by", "imported"):
            if getattr(self, name) is None:
                plain.pop(name, None)
        return plain

    @property
    def row(self) -> RowInfo:
        """The description of a row."""
        return RowInfo(sparsifier=self.sparsifier, tail=self.tail, codec=self.codec, vocabulary=self.teacher.vocabulary)

    @property
    def is_derived(self) -> bool:
        """True if the rows were made from other caches, and not from a teacher's answers."""
        return self.recoded_from is not None or self.merged_from is not None

    @property
    def knows_gold(self) -> bool:
        """True if every row with a gold token knows its logprob."""
        return self.imported is None or self.imported.gold == "all"

    def check_nll(self, path: object) -> None:
        """Refuse a cache whose samples have no nll. Raises BadInput."""
        if not self.knows_gold:
            raise BadInput(
                f"{path}: it was imported from lists that do not tell the logprob of every gold token, so its samples have no "
                "nll. Choose another score, such as entropy, or dump the teacher."
            )

    @property
    def made_from(self) -> list[tuple[str, float | None]]:
        """The caches that the rows were made from: the identity of the plan of each, and its weight, None where each row is
        taken from one of them. Empty for a dump."""
        if self.recoded_from is not None:
            return [(self.recoded_from, 1.0)]
        return [(member.plan, member.weight) for member in self.merged_from or []]

    @property
    def layout(self) -> str:
        """Layout of the arrays on disk: "mapped" or "archive"."""
        return self.codec.layout

    @property
    def parts_of_view(self) -> int:
        """Count of parts that hold one view of the data."""
        return -(-self.samples // self.samples_per_part)

    @property
    def parts(self) -> int:
        return self.views * self.parts_of_view

    def span(self, part: int) -> slice:
        """Return the samples that part number `part` holds, among the samples of all views, ordered view after view."""
        view, block = divmod(part, self.parts_of_view)
        first = block * self.samples_per_part
        last = min(first + self.samples_per_part, self.samples)
        return slice(view * self.samples + first, view * self.samples + last)

    def place(self, sample: int) -> tuple[int, int]:
        """Return the part that holds a sample, and the sample's number in it; the inverse of `span`."""
        view, number = divmod(sample, self.samples)
        block, place = divmod(number, self.samples_per_part)
        return view * self.parts_of_view + block, place

    def samples_in(self, part: int) -> int:
        """Return the count of samples in part number `part`."""
        span = self.span(part)
        return int(span.stop - span.start)

    def samples_below(self, part: int) -> int:
        """Return the count of samples in all parts with smaller numbers."""
        view, block = divmod(part, self.parts_of_view)
        return view * self.samples + min(block * self.samples_per_part, self.samples)

    def sample_counts(self, parts_P: Array) -> Array:
        """Return int64[P]: the counts of samples in some parts."""
        first_P = parts_P.astype(np.int64) % self.parts_of_view * self.samples_per_part
        return np.asarray(np.minimum(self.samples - first_P, self.samples_per_part))

    def shared_file(self, what: str) -> str:
        """Return the path of a shared file or folder of shared files; `what` is its kind: vocabulary, tokenizer, tail, ...

        Raises:
            CacheDamaged: the manifest names no such file.
        """
        name = next((name for name in self.shared if name.startswith(f"shared/{what}-")), None)
        if name is None:
            raise CacheDamaged(f"the manifest names no shared file for '{what}'")
        return "/".join(name.split("/")[:2])

    @property
    def bytes_per_row(self) -> int:
        """Count of bytes per row in `rows.zarr`, before compression."""
        return sum(info.bytes for info in self.fields.values())

    @property
    def target_bytes_per_row(self) -> int:
        """Count of bytes per row of the targets, that is, without the scores."""
        return sum(info.bytes for name, info in self.fields.items() if name not in SCORES)

    @property
    def text(self) -> tuple[TokenizerInfo, DataInfo]:
        """The tokenizer and the data of a cache of text.

        Raises:
            BadInput: it is a cache of images.
        """
        if self.tokenizer is None or not isinstance(self.data, DataInfo):
            raise BadInput(f"a cache of the task '{self.task}' holds no text.")
        return self.tokenizer, self.data

    @property
    def images(self) -> tuple[ImagesInfo, ViewInfo]:
        """The data and the making of the views of a cache of images.

        Raises:
            BadInput: it holds no images.
        """
        if self.view is None or not isinstance(self.data, ImagesInfo):
            raise BadInput(f"a cache of the task '{self.task}' holds no images.")
        return self.data, self.view

    @property
    def token_dtype(self) -> str:
        """The dtype of token ids in `samples.arrow`."""
        return token_dtype(self.teacher.vocabulary)

    def identity_fields(self) -> dict[str, Any]:
        """Return every entry that decides the contents of the parts; names, paths and versions are left out.

        `origin` stands for `recoded_from`, and the fingerprint of the teacher of a mean for `merged_from`.
        """
        plan = self.model_dump(
            mode="json",
            exclude={"created_by": True, "recoded_from": True, "merged_from": True, "teacher": {"name", "revision"}},
        )
        for name in ("source", "limit", "sources"):
            plan["data"].pop(name, None)
        if (engine := plan["teacher"].get("engine")) is not None:
            plan["teacher"]["engine"] = {"name": engine["name"]}
        # the count of views can grow without a change of the identity
        del plan["views"]
        if self.view is None:
            del plan["view"]
        return plan

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy like that of every record, but without the cached identity of the original."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("identity", None)
        return copied

    @cached_property
    def identity(self) -> str:
        """xxh3-128 of the canonical JSON of the identity_fields; each part carries the identity of its plan."""
        text = json.dumps(self.identity_fields(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return xxhash.xxh3_128_hexdigest(text.encode())
