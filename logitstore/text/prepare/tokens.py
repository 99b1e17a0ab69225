"""The tokens of prepared documents: those of mapped shards, or made again where they are not kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from logitstore.core.memo import Budget, Memo
from logitstore.core.types import Array
from logitstore.errors import LogitstoreError, StorageError
from logitstore.text.prepare.cutting import Shard
from logitstore.text.prepare.folder import Folder
from logitstore.text.prepare.shards import ShardInfo, mapped
from logitstore.text.scored.columns import Told, told
from logitstore.text.scored.said import Said

_MAPPED = 16
"""Shards that are mapped at the same time."""

BLOCK = 256
"""Documents whose tokens are made again together."""

_BLOCKS = 16


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Pairs that lie in one record batch.

    Attributes:
        tokens_T: uint32, the tokens of all of them.
        ends: where each begins in `tokens_T`, and where the last ends.
        said: the flags of all of them, as Arrow keeps them; None if every token may have a row.
        domains: the domain of each.
        batch: the record batch.
    """

    tokens_T: Array
    ends: Array
    said: Any
    domains: Any
    batch: pa.RecordBatch

    @classmethod
    def of(cls, pairs: pa.RecordBatch) -> Pairs:
        tokens = pairs.column("tokens")
        has_said = "said" in pairs.schema.names
        return cls(
            tokens_T=tokens.values.to_numpy(),
            ends=tokens.offsets.to_numpy(),
            said=pairs.column("said").values if has_said else None,
            domains=pairs.column("domain"),
            batch=pairs,
        )

    def window(self, pair: int, start: int, stop: int) -> tuple[Array, str | None]:
        """Return int64[T], a copy of some tokens of a pair, and its domain."""
        begins = int(self.ends[pair])
        # only the window is copied; a view would keep all of a long document in memory
        return self.tokens_T[begins + start : begins + stop].astype(np.int64), self.domains[pair].as_py()

    def told(self, pair: int, said: Said) -> Told:
        """Return the scores and the group of a pair."""
        return told(said, self.batch, pair)

    def flags(self, pair: int, start: int, stop: int) -> Array | bool:
        """Return bool[T] of some tokens of a pair: True if a row may be about the token; True if all may."""
        if self.said is None:
            return True
        begins = int(self.ends[pair])
        flags: Array = self.said[begins + start : begins + stop].to_numpy(zero_copy_only=False)
        return flags


class Tokens(Protocol):
    """The tokens of all pairs."""

    def find(self, entry: Any) -> tuple[Pairs, int]:
        """Return the pairs among which the pair of an entry of `WINDOW` lies, and its number among them."""
        ...

    def wrong(self, entry: Any) -> LogitstoreError:
        """Return what to raise where the tokens of an entry are not those that were prepared; what is stored is forgotten."""
        ...


class KeptTokens:
    """The tokens in the shards of a folder, which are mapped when they are needed."""

    def __init__(self, folder: Folder, shards: Sequence[ShardInfo]) -> None:
        self._folder = folder
        self._ends = np.array(list(accumulate(each.pairs for each in shards)), np.int64)
        self._mapped: Memo[int, Pairs] = Memo(Budget(_MAPPED))

    def find(self, entry: Any) -> tuple[Pairs, int]:
        """Return the pairs of a shard, and the number among them. Raises StorageError: the shard is gone."""
        number = self._number(entry)
        pairs = self._mapped.get(number, lambda: self._open(number))
        return pairs, int(entry["row"]) - (int(self._ends[number - 1]) if number else 0)

    def _number(self, entry: Any) -> int:
        return int(np.searchsorted(self._ends, int(entry["row"]), "right"))

    def wrong(self, entry: Any) -> LogitstoreError:
        return self._damaged(self._number(entry))

    def _damaged(self, number: int) -> StorageError:
        self._folder.forget(number)
        return StorageError(
            f"{self._folder.shard(number)}: what was prepared is gone or damaged. Run the same command again, which prepares "
            "it anew."
        )

    def _open(self, number: int) -> Pairs:
        try:
            return Pairs.of(mapped(self._folder.shard(number)))
        except (FileNotFoundError, ValueError, pa.ArrowException) as error:
            raise self._damaged(number) from error


class RemadeTokens:
    """Tokens that are made again from the data, in blocks of documents, of which those used last are in memory."""

    def __init__(self, folder: Folder, make: Callable[[int], pa.RecordBatch]) -> None:
        """Make nothing yet.

        Args:
            folder: where the places of the samples are stored.
            make: gives the pairs of the block with a number.
        """
        self._folder, self._make = folder, make
        self._blocks: Memo[int, tuple[Pairs, Array]] = Memo(Budget(_BLOCKS))

    def find(self, entry: Any) -> tuple[Pairs, int]:
        document = int(entry["document"])
        pairs, documents_P = self._blocks.get(document // BLOCK, lambda: self._open(document // BLOCK))
        return pairs, int(np.searchsorted(documents_P, document)) + int(entry["pair"])

    def wrong(self, entry: Any) -> LogitstoreError:
        self._folder.forget()
        return StorageError(
            f"{self._folder.windows}: what was prepared does not fit the data any more, or is damaged. Run the same command "
            "again, which prepares it anew."
        )

    def _open(self, number: int) -> tuple[Pairs, Array]:
        batch = self._make(number)
        return Pairs.of(batch), Shard.of(batch).documents_P
