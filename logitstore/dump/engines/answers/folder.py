"""The folder of answers: what was asked, what the server said, and the same in token ids.

    plan.yaml                    what was asked, and of whom
    asked/00000.journal          what the server said: a line for each prompt, as it came; .gz when all prompts are answered
    data/train-00000.arrow       the answers in token ids, made of the journal alone, for the library `datasets` and for `dump`
    .tokenizer/                  the files of the tokenizer

Axes: T tokens of a prompt with its answer, N rows, K entries of a list.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import xxhash
import yaml
from pydantic import ValidationError

from logitstore.core.place import below, matching
from logitstore.core.record import Positive, Record
from logitstore.dump.engines.answers.reply import Reply
from logitstore.errors import BadInput, CacheDamaged, CacheMismatch, storage_errors
from logitstore.format.tasks.texts import TokenizerInfo
from logitstore.store.local_disk import write_whole
from logitstore.store.staged.leases import first_in_turn

PLAN, TOKENIZER = "plan.yaml", ".tokenizer"

MADE_OF = b"logitstore.made_of"
"""Key in the metadata of a file of data: what it was made of, so that it is not made again."""

VOCABULARY = b"logitstore.vocabulary"
"""Key of the fingerprint of the vocabulary."""

COUNTS = b"logitstore.counts"
"""Key of the counts of what was made, as JSON."""

DIGEST = b"logitstore.digest"
"""Key of the checksum of what a file of data holds, xxh3-128 in hex, over the columns of DIGESTED."""

DIGESTED = ("input_ids", "completion_mask", "ids", "logprobs", "gold_logprobs")

SCHEMA = pa.schema(
    {
        "number": pa.int64(),
        "sample": pa.int32(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "answer": pa.string(),
        "finish_reason": pa.string(),
        "domain": pa.string(),
        "input_ids": pa.list_(pa.int32()),
        "completion_mask": pa.list_(pa.int8()),
        "ids": pa.list_(pa.list_(pa.int32())),
        "logprobs": pa.list_(pa.list_(pa.float32())),
        "gold_logprobs": pa.list_(pa.float32()),
    }
)
"""Columns of the data. `input_ids` int[T] is the prompt with the answer; `completion_mask` is 1 for the N tokens that have a
row. Of these, in order: `ids` [N, K] and `logprobs` [N, K], falling, nats at temperature 1; `gold_logprobs` [N] of the tokens
themselves."""


class AnswersPlan(Record):
    """What was asked, and of whom. No key is in it."""

    format: Literal["logitstore-answers"] = "logitstore-answers"
    version: Literal[1] = 1
    created_by: dict[str, str]
    teacher: str
    model: str
    engine: str
    max_new_tokens: Positive
    temperature: float
    seed: int | None
    samples_per_prompt: Positive
    top_logprobs: Positive
    template_args: dict[str, Any]
    prompts_per_shard: Positive
    data: str
    tokenizer: TokenizerInfo
    chat_template: str


_ASKED = ("model", "max_new_tokens", "temperature", "seed", "samples_per_prompt", "top_logprobs", "template_args")
"""What the answers follow from. The tokenizer is not: answers that are there can be read with another one."""


class Answers:
    """A folder of answers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[int, IO[bytes]] = {}
        self._synced = 0.0

    def plan(self) -> AnswersPlan | None:
        """Return the plan; None where there is none yet.

        Raises:
            BadInput: something else lies there, or the plan is none.
        """
        place = self.path / PLAN
        try:
            return AnswersPlan(**yaml.safe_load(place.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (ValidationError, yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
            raise BadInput(f"{place}: no plan of answers that this version reads. Give another folder.") from error

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder, which is made where there is none; one process writes it at a time.

        Raises:
            BadInput: another process does, or something else lies there.
        """
        with storage_errors(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise BadInput(f"--out {self.path}: it is a file. Give a folder.")
            if self.plan() is None and any(each.name != _LOCK for each in matching(self.path, "*")):
                raise BadInput(f"--out {self.path}: it holds other things than answers. Give a new folder.")
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not first_in_turn(descriptor):
                raise BadInput(f"--out {self.path}: another process generates answers there. Wait until it has ended.")
            yield
        finally:
            for each in self._files.values():
                each.close()
            self._files.clear()
            os.close(descriptor)

    def compared(self, plan: AnswersPlan) -> AnswersPlan:
        """Compare a plan with the one that is there. Return it with the size of the shards of the folder.

        Raises:
            CacheMismatch: the folder was begun with another plan.
        """
        there = self.plan()
        if there is None:
            return plan
        differs = next((name for name in _ASKED if getattr(there, name) != getattr(plan, name)), None)
        if differs is not None:
            raise CacheMismatch(
                f"{self.path}: it was begun with {differs} {getattr(there, differs)}, and now it is "
                f"{getattr(plan, differs)}. Give the same, or another --out."
            )
        return plan.model_copy(update={"prompts_per_shard": there.prompts_per_shard})

    def begin(self, plan: AnswersPlan, tokenizer: dict[str, bytes]) -> None:
        """Write the plan and the tokenizer, where they are not there."""
        there = self.plan()
        with storage_errors(self.path):
            if there is None or there.tokenizer != plan.tokenizer or not (self.path / TOKENIZER).is_dir():
                for each in list(below(self.path / TOKENIZER)):
                    if each.is_file():
                        each.unlink()
                for name, content in tokenizer.items():
                    write_whole(self.path / TOKENIZER / name, content)
            if there != plan:
                text = yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
                write_whole(self.path / PLAN, text.encode())

    def journal(self, shard: int) -> Iterator[tuple[int, str, Reply]]:
        """Yield what was said: the number of a prompt, its check, and the reply. A line that was cut at the end is left out.

        Raises:
            CacheDamaged: another line cannot be read.
        """
        plain, packed = self._journal(shard)
        with storage_errors(self.path):
            try:
                content = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
            except FileNotFoundError:
                return
            except (EOFError, gzip.BadGzipFile) as error:
                raise CacheDamaged(f"{packed}: it is damaged. Remove it; its prompts are asked again.") from error
        lines = content.split(b"\n")
        for place, line in enumerate(lines[:-1], 1):
            try:
                found = json.loads(line)
                yield found["number"], found["check"], Reply.of(found["reply"])
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                file = packed if packed.exists() else plain
                raise CacheDamaged(
                    f"{file}: line {place} cannot be read. Remove the line, and its prompt is asked again."
                ) from error

    def note(self, shard: int, number: int, check: str, reply: Reply) -> None:
        """Add a reply to the journal; it is in the hands of the system when this returns, and soon on the disk."""
        line = json.dumps({"number": number, "check": check, "reply": reply.plain()}, separators=(",", ":"))
        with storage_errors(self.path):
            file = self._files.get(shard)
            if file is None:
                file = self._files[shard] = self._opened(shard)
            file.write(line.encode() + b"\n")
            file.flush()
            if time.monotonic() - self._synced > 1.0:
                self.sync()

    def sync(self) -> None:
        """Have the journals on the disk."""
        for each in self._files.values():
            os.fsync(each.fileno())
        self._synced = time.monotonic()

    def _opened(self, shard: int) -> IO[bytes]:
        """Open a journal to add to it, without the line that a kill has cut."""
        plain, packed = self._journal(shard)
        plain.parent.mkdir(exist_ok=True)
        if packed.exists():
            write_whole(plain, gzip.decompress(packed.read_bytes()))
            packed.unlink()
        file = plain.open("r+b" if plain.exists() else "w+b")
        content = file.read()
        whole = content.rfind(b"\n") + 1
        file.seek(whole)
        file.truncate()
        return file

    def pack(self, shard: int) -> None:
        """Pack the journal of a shard whose prompts are all answered."""
        plain, packed = self._journal(shard)
        if (file := self._files.pop(shard, None)) is not None:
            file.close()
        with storage_errors(self.path):
            if plain.exists() and not packed.exists():
                write_whole(packed, gzip.compress(plain.read_bytes(), 6, mtime=0))
            plain.unlink(missing_ok=True)

    def _journal(self, shard: int) -> tuple[Path, Path]:
        name = self.path / "asked" / f"{shard:05d}.journal"
        return name, name.with_suffix(".journal.gz")

    def made(self, shard: int) -> tuple[str, dict[str, Any]] | None:
        """Return what the data of a shard were made of, and their counts; None where there are none, or damaged ones."""
        try:
            with pa.memory_map(str(self.table(shard))) as source:
                file = pa.ipc.open_file(source)
                metadata = file.schema.metadata or {}
                digest = digest_of(file.get_batch(number) for number in range(file.num_record_batches))
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return None
        made = metadata.get(MADE_OF)
        if made is None or metadata.get(DIGEST) != digest.encode():
            return None
        return made.decode(), json.loads(metadata[COUNTS])

    def table(self, shard: int) -> Path:
        """Return the file of data of a shard."""
        return self.path / "data" / f"train-{shard:05d}.arrow"

    def write(
        self, shard: int, rows: list[dict[str, Any]], made_of: str, vocabulary: str, counts: dict[str, Any]
    ) -> None:
        """Write the data of a shard whole; rows are values by the names of SCHEMA."""
        batches = [
            pa.RecordBatch.from_pylist(rows[first : first + _BATCH], schema=SCHEMA)
            for first in range(0, len(rows), _BATCH)
        ]
        known = {MADE_OF: made_of.encode(), VOCABULARY: vocabulary.encode(), COUNTS: json.dumps(counts).encode()}
        schema = SCHEMA.with_metadata(known | {DIGEST: digest_of(batches).encode()})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))
        with storage_errors(self.path):
            write_whole(self.table(shard), sink.getvalue().to_pybytes())


def digest_of(batches: Iterable[pa.RecordBatch]) -> str:
    """Return the checksum of data: xxh3-128 in hex over the lengths and the values of DIGESTED, batch by batch.

    Raises:
        KeyError, ValueError, pyarrow.ArrowException: they are not data of answers.
    """
    digest = xxhash.xxh3_128()
    for batch in batches:
        for name in DIGESTED:
            column = batch.column(name)
            while pa.types.is_list(column.type):
                digest.update(column.value_lengths().to_numpy(zero_copy_only=False).tobytes())
                column = column.flatten()
            digest.update(column.to_numpy(zero_copy_only=False).tobytes())
    return str(digest.hexdigest())


_LOCK = ".lock"

_BATCH = 64
"""Answers in a batch of a file of data."""
