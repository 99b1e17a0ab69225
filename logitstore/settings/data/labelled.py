"""Settings of `dump` about the labels of the data, and about texts that a classifier is shown."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from logitstore.core.record import Record


class LabelChoices(Record):
    """The settings about labels."""

    label_column: str | None = Field(
        None,
        description="Column with the classes, if it is not found automatically. In a folder of images, the subfolders are the "
        "classes.",
    )
    labels: bool = Field(True, description="Keep the labels of the data. --no-labels leaves them out.")


class PoolingChoices(Record):
    """The settings about the vectors of an encoder."""

    pooling: Literal["first", "mean", "last"] | None = Field(
        None,
        description="How the teacher's hidden states become the vector of a text: that of its first or last token, or the "
        "mean. Default: what a folder of sentence-transformers says, else mean for encoders and last for decoders.",
    )
    normalise: bool | None = Field(
        None,
        description="Whether vectors get length 1. Default: what a folder of sentence-transformers says, else not.",
    )


class PairChoices(Record):
    """The settings about texts to classify."""

    pair_column: str | None = Field(
        None,
        description="Column with the second text of each pair, for classifiers of pairs. Default: as columns are "
        "usually called (sentence1 and sentence2, premise and hypothesis, question1 and question2, question and "
        "sentence, text and text_pair), where --column is not given either.",
    )
    texts: bool = Field(
        True,
        description="Keep the texts beside their tokens, so that students with other tokenizers can be trained. --no-texts "
        "leaves them out.",
    )
