"""A teacher that has answered before: the lists in a folder that `logitstore generate` wrote, looked up by the tokens.

Axes: T tokens of a sample, N rows, K entries of a list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
import xxhash

from logitstore.core.place import matching
from logitstore.core.types import Array, ModelRef
from logitstore.dump.engines.answers.folder import DIGEST, TOKENIZER, VOCABULARY, Answers, AnswersPlan, digest_of
from logitstore.dump.teachers import Named
from logitstore.dump.teachers.source import TeacherSource
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import BadInput, ModelError
from logitstore.format.data import EngineInfo
from logitstore.format.needs import TOP_LOGPROBS, Gives, Wants
from logitstore.models.load import load_tokenizer
from logitstore.targets.rows import RowChunk, TopLogprobs


def source(named: Named) -> TeacherSource:
    """Return what is known of a folder of answers.

    Raises:
        BadInput: it is none, or has no answers yet.
        ModelError: its tokenizer cannot be loaded.
    """
    folder = Path(named.rest)
    plan = Answers(folder).plan()
    files = matching(folder / "data", "*.arrow")
    if plan is None or not files:
        what = "no folder of answers" if plan is None else "no answers are in it yet"
        raise BadInput(f"--teacher {named.name}: {what}. Give the folder that `logitstore generate` has written.")
    return TeacherSource(
        name=named.name,
        gives=RecordedTeacher.gives,
        tokenizer=partial(load_tokenizer, ModelRef(name=str(folder / TOKENIZER), called=f"the tokenizer of {folder}")),
        vocabulary=plan.tokenizer.size,
        width=None,
        architecture="answers",
        config={
            name: getattr(plan, name)
            for name in ("teacher", "engine", "temperature", "max_new_tokens", "top_logprobs", "seed")
        },
        dtype="as served",
        engine="recorded",
        load=lambda _dtype, _device: RecordedTeacher(named.name, plan, files),
    )


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an answer stands: the batch of a file, and its row there."""

    batch: int
    row: int


class RecordedTeacher(Teacher):
    """Answers about the samples that it was asked before, and about no others. The lists stay in mapped files."""

    gives: ClassVar[Gives] = frozenset({TOP_LOGPROBS})

    def __init__(self, name: str, plan: AnswersPlan, files: list[Path]) -> None:
        """Map the answers, and note where each stands.

        Raises:
            BadInput: a file is none of answers.
        """
        self._name, self._plan = name, plan
        self.device = torch.device("cpu")
        self._batches: list[pa.RecordBatch] = []
        self._places: dict[str, _Place] = {}
        self._digest, self._longest = xxhash.xxh3_128(), 0
        for file in files:
            try:
                table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
                known, batches = table.schema.metadata or {}, table.to_batches()
                if known.get(VOCABULARY) != plan.tokenizer.fingerprint.encode():
                    raise ValueError("another vocabulary")
                if known.get(DIGEST) != digest_of(batches).encode():
                    raise ValueError("other content than was written")
                self._digest.update(known[DIGEST])
                for batch in batches:
                    self._add(batch)
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                raise BadInput(
                    f"{file}: no answers in the tokens of its plan, or damaged ones. Run the `generate` that wrote it again, "
                    "which makes the file of what was said."
                ) from error

    def _add(self, batch: pa.RecordBatch) -> None:
        """Note the answers of a batch; of equal samples the first one is asked."""
        number = len(self._batches)
        self._batches.append(batch)
        lists = batch.column("input_ids")
        for row in range(batch.num_rows):
            tokens_T = _values(lists, row)
            self._longest = max(self._longest, len(tokens_T))
            # the key of a sample of texts
            key = xxhash.xxh3_128_hexdigest(tokens_T.astype("<u4").tobytes())
            self._places.setdefault(key, _Place(batch=number, row=row))

    @property
    def name(self) -> str:
        return self._name

    def rows(self, batch: TeacherBatch, wants: Wants) -> Iterator[RowChunk]:
        """Give the lists of each sample of the batch.

        Raises:
            ModelError: a sample was not asked about, or not all of its rows, or more entries are wanted than were recorded.
        """
        if wants.entries > self._plan.top_logprobs:
            raise ModelError(
                f"{self._name}: its lists have {self._plan.top_logprobs} tokens, and {wants.entries} are wanted. Give -k "
                f"{self._plan.top_logprobs} or less."
            )
        first = 0
        for sample in batch.samples:
            count = sample.rows
            top = self._lists(sample)
            yield RowChunk(span=slice(first, first + count), gold_n=batch.gold_N[first : first + count], top=top)
            first += count

    def _lists(self, sample: Any) -> TopLogprobs:
        place = self._places.get(sample.key)
        if place is None:
            raise ModelError(
                f"{self._name}: it was not asked about a text of {sample.length} tokens. Its texts have up to {self._longest} "
                f"tokens: give it as --data too, with --max-length {self._longest}, so that none is cut."
            )
        batch = self._batches[place.batch]
        asked_M = np.flatnonzero(_values(batch.column("completion_mask"), place.row)) - 1
        numbers_N = np.searchsorted(asked_M, sample.positions_N).clip(max=len(asked_M) - 1)
        if (asked_M[numbers_N] != sample.positions_N).any():
            raise ModelError(
                f"{self._name}: it has no logprobs of some tokens that the data ask about. Leave out --positions, and name no "
                "other column than input_ids."
            )
        ids, logprobs = batch.column("ids")[place.row].values, batch.column("logprobs")[place.row].values
        lengths_M = ids.value_lengths().to_numpy()
        slots_K = np.arange(lengths_M[numbers_N].max(initial=1))
        is_listed_NK = slots_K < lengths_M[numbers_N][:, None]
        places_NK = (np.cumsum(lengths_M) - lengths_M)[numbers_N][:, None] + slots_K
        ids_NK = np.zeros(is_listed_NK.shape, np.int64)
        ids_NK[is_listed_NK] = ids.flatten().to_numpy()[places_NK[is_listed_NK]]
        logprobs_NK = np.full(is_listed_NK.shape, -math.inf, np.float32)
        logprobs_NK[is_listed_NK] = logprobs.flatten().to_numpy()[places_NK[is_listed_NK]]
        gold_N = _values(batch.column("gold_logprobs"), place.row)[numbers_N]
        return TopLogprobs(
            ids_nK=torch.from_numpy(ids_NK),
            logprobs_nK=torch.from_numpy(logprobs_NK),
            gold_logprob_n=torch.from_numpy(gold_N),
        )

    def engine(self) -> EngineInfo:
        return EngineInfo(name="recorded")

    def fingerprint(self) -> str:
        """Return xxh3-128 over the checksums of all files, in order: those of tokens, masks and lists."""
        return str(self._digest.hexdigest())


def _values(lists: pa.ListArray, row: int) -> Array:
    """Return the numbers in one list of a column."""
    return np.asarray(lists[row].values.to_numpy())
