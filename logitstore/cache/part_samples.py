"""What every part says of its samples, whether they are texts or views of images."""

from __future__ import annotations

from abc import ABC, abstractmethod

from logitstore.types import Array, Asked


class PartSamples(ABC):
    """The samples of one part.

    Attributes:
        lengths_S: int64, positions of each: tokens of a text, 1 of a view.
        row_start_S, row_count_S: the rows of each.
        document_S: int64, what it was made from: the document, or the image.
        nll_S: float32, mean negative logprob of its gold tokens or label, nats; NaN without any.
    """

    lengths_S: Array
    row_start_S: Array
    row_count_S: Array
    document_S: Array
    nll_S: Array

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> Asked:
        """Sample number `index` of the part."""

    @abstractmethod
    def keys(self) -> list[str]:
        """The key of each."""

    @abstractmethod
    def domains(self) -> list[str | None]:
        """Where each sample comes from, if the data say so."""
