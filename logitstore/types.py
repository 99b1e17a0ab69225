"""The nouns that travel between the layers: plain frozen values over NumPy arrays.

Axes: N rows, K kept entries, T tokens of one sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """Where a model is: a local folder or hub name, and the GGUF file in it if there is one.

    `folder::file.gguf` names a GGUF file in a folder (or hub repository).
    """

    name: str
    gguf: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        name, _, gguf = text.partition("::")
        return cls(name=name, gguf=gguf or None)

    def __str__(self) -> str:
        return f"{self.name}::{self.gguf}" if self.gguf else self.name

    @property
    def pretrained(self) -> dict[str, str]:
        """Keyword arguments for transformers' `from_pretrained`."""
        return {"gguf_file": self.gguf} if self.gguf else {}


def key_of(tokens_T: Array) -> str:
    """The key of a sample: xxh3-128, in hex, of its tokens as little-endian uint32."""
    return xxhash.xxh3_128_hexdigest(tokens_T.astype("<u4").tobytes())


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One input of the data set, as it is put to the teacher.

    Attributes:
        key: hex digest of the tokens.
        tokens_T: token ids [T]; int64, or in the stored dtype where the sample was read from a cache.
        mask_T: bool[T]; True where the position has a row. The row at position t is about token t + 1, so the last
            entry is always False.
        document: index of the document in the data set.
        window: which window of the document this is, from 0.
        start: offset of the window's first token in its document.
        domain: where the document comes from, if the data says so.
    """

    key: str
    tokens_T: Array
    mask_T: Array
    document: int
    window: int = 0
    start: int = 0
    domain: str | None = None

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.tokens_T)

    @property
    def rows(self) -> int:
        return int(self.mask_T.sum())

    @property
    def positions_N(self) -> Array:
        """int64[N]: the positions that have a row."""
        return np.flatnonzero(self.mask_T)

    @property
    def gold_N(self) -> Array:
        """int64[N]: the token that follows each row's position."""
        return np.asarray(self.tokens_T[self.positions_N + 1], np.int64)


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of one image, as it is put to the teacher; its one row is about its class.

    Attributes:
        name: key of the image in the data set.
        image: its number there.
        view: number of the view, from 0.
        label: number of its class; -1 where the image has none, or shares the view with another.
        content: xxh3-64 of the image file; 0 until it was read.
        digest: of what the teacher saw; 0 until it was made.
    """

    name: str
    image: int
    view: int
    label: int = -1
    content: int = 0
    digest: int = 0

    @property
    def key(self) -> str:
        """xxh3-128, in hex, of the name and the number of the view."""
        return xxhash.xxh3_128_hexdigest(f"{self.name}\0{self.view}".encode("utf-8", "surrogatepass"))

    @property
    def length(self) -> int:
        return 1

    @property
    def rows(self) -> int:
        return 1

    @property
    def gold_N(self) -> Array:
        """int64[1]: the class, or -1."""
        return np.array([self.label], np.int64)


Asked = Sample | View
"""What a teacher is asked about."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the teacher said about some rows: named arrays with N as first axis.

    Of a cache of top-k: `ids` [N, K], `logprobs` [N, K] (as stored, not normalised; -inf in an empty slot),
    `tail_logmass` [N], `gold_logprob` [N], `entropy` [N]; nats at temperature 1. docs/format.md names all of them.
    """

    fields: dict[str, Array] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return self.fields[name]


@dataclass(frozen=True, kw_only=True)
class CachedSample:
    """A sample and what the teacher said about its rows; the arrays are views of the mapped files."""

    sample: Any
    answer: Answer


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far a long piece of work has come.

    Attributes:
        stage: what is being done, such as "tokenise" or "dump".
        done, total: in the stage's own unit.
        part: the part being written, where there is one.
        note: a figure worth watching, such as the loss.
    """

    stage: str
    done: int
    total: int
    part: int | None = None
    note: str = ""


class Progress(Protocol):
    """Receives the steps of long work; must be cheap, and may be called from any thread."""

    def __call__(self, step: Step) -> None: ...


def no_progress(step: Step) -> None:
    """The progress of those who do not look."""
