"""The types that pass between the layers: plain frozen values with NumPy arrays.

Axes: N rows, K kept entries, T tokens of one sample.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy.typing as npt

Array = npt.NDArray[Any]


ChosenBy = Literal["gold", "confidence", "entropy"]
"""What decides from which of several caches a row is taken: the largest logprob of the gold token, the largest probability of
the most probable token, or the smallest entropy."""


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """The place of a model: a local folder or hub name, and the name of a GGUF file in it, if any.

    `folder::file.gguf` names a GGUF file in a folder (or hub repository).

    Attributes:
        name: the folder or hub name.
        gguf: the GGUF file.
        trust_remote_code: True if the user who names the model also lets the Python code run that comes with it.
        in_cache: True for what lies in a cache. Code is never run there, whoever made it.
        called: what messages call it, where that is not its name.
        adapter: folder or hub name of the adapter that is put on it, if any.
        loaded: the model itself, where a caller in Python has it.
        tokenizer: its tokenizer, where a caller gives that too.
    """

    name: str
    gguf: str | None = None
    trust_remote_code: bool = False
    in_cache: bool = False
    called: str | None = None
    adapter: str | None = None
    loaded: Any = field(default=None, compare=False, repr=False)
    tokenizer: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.in_cache and self.trust_remote_code:
            raise ValueError(f"{self.name}: the code of a cache is never run")

    @classmethod
    def parse(cls, text: str, *, trust_remote_code: bool = False) -> ModelRef:
        # a folder may have the two colons in its name
        name, _, gguf = (text, "", "") if Path(text).is_dir() else text.partition("::")
        return cls(name=name, gguf=gguf or None, trust_remote_code=trust_remote_code)

    def __str__(self) -> str:
        name = self.called or self.name
        return f"{name}::{self.gguf}" if self.gguf else name

    @property
    def pretrained(self) -> dict[str, Any]:
        """Keyword arguments for `from_pretrained` of transformers.

        Left to itself, transformers asks on the terminal whether to run the code that comes with a model.
        """
        return {"trust_remote_code": self.trust_remote_code} | ({"gguf_file": self.gguf} if self.gguf else {})


class Asked(Protocol):
    """A sample as it is put to a teacher, whatever the task."""

    @property
    def key(self) -> str:
        """What tells it from every other sample."""
        ...

    @property
    def length(self) -> int:
        """How many inputs it has: the tokens of a text, 1 for a view of an image."""
        ...

    @property
    def rows(self) -> int:
        """How many rows it has."""
        ...

    @property
    def gold_N(self) -> Array:
        """int64[N]: the gold token or label of each row; -1 where there is none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The teacher's answer about some rows: named arrays with N as first axis.

    A cache of top-k has `ids` [N, K], `logprobs` [N, K] (as stored, not normalised; -inf in an empty slot),
    `tail_logmass` [N], `gold_logprob` [N], `entropy` [N]; nats at temperature 1. docs/format.md names all of them.
    """

    fields: dict[str, Array] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return self.fields[name]


@dataclass(frozen=True, kw_only=True)
class CachedSample:
    """A sample with the teacher's answer about its rows; the arrays are views of the mapped files."""

    sample: Any
    answer: Answer


_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


def bytes_of(text: str) -> int:
    """Return the bytes of a text such as 64MB, 1.5 GB, 128MiB or 64000000.

    Raises:
        ValueError: it is no such text, or less than one byte.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", text)
    unit = None if found is None else _UNITS.get(found[2].lower())
    size = 0 if found is None or unit is None else int(float(found[1]) * unit)
    if size < 1:
        raise ValueError(f"{text!r:.40} is no size. Write a number of bytes with its unit, such as 64MB or 128MiB")
    return size
