"""The settings of `push`, `pull` and `status`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from logitstore.core.record import Record
from logitstore.settings.fields import POSITIONAL, FilePath, Place


class CopySettings(Record):
    """What of a cache is copied."""

    parts: str | None = Field(
        None,
        coerce_numbers_to_str=True,
        description="Copy only these parts, such as 0-99,120. Other processes may copy the other parts at the same time.",
    )
    taps: str = Field(
        "all", description="Which features of the teacher are copied: all, none, or names such as hidden-8,final."
    )
    streams: int = Field(
        8, ge=1, le=64, description="Parts that are copied at a time. Each of them is in memory as a whole."
    )


class PushSettings(CopySettings):
    """The settings of `push`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to copy.")
    target: Annotated[Place, POSITIONAL] = Field(
        description="Where it shall lie, such as s3://bucket/name, or hf://user/name on the Hub. An interrupted copy goes on."
    )


class PullSettings(CopySettings):
    """The settings of `pull`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to copy, such as s3://bucket/name.")
    folder: Annotated[FilePath, POSITIONAL] = Field(
        description="Folder on the local disk in which it shall lie. An interrupted copy is resumed."
    )


class StatusSettings(Record):
    """The settings of `status`."""

    cache: Annotated[Place, POSITIONAL] = Field(description="The cache to look at; a dump may be running.")
