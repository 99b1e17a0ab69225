"""Tables of lists whose columns are named by what they hold. `export` writes them too.

Axes: R records, T tokens of all records, N rows of all records, K entries of a list, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from logitstore.core.registry import suggest
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.text.foreign.block import Block, Foreign, Lists
from logitstore.text.foreign.lists import MOST_MASS
from logitstore.text.foreign.records import About, Records
from logitstore.text.foreign.tables import Tables, files_in, flat, inner, lengths_of
from logitstore.text.foreign.whole import entries_of, listed
from logitstore.text.sample import counted

ENDINGS = (".parquet", ".arrow", ".jsonl", ".json", ".ndjson", ".npz")

VALUES = ("logprobs", "logits", "probabilities")

OF_ROWS = ("gold", "tail_logmass", "entropy")

ROLES = ("tokens", "ids", *VALUES, *OF_ROWS, "mask", "samples")

FIELDS = {"gold": "gold_N", "tail_logmass": "tail_logmass_N", "entropy": "entropy_N"}

FIRST = 64
"""Records whose lists say how many entries a row has, where nobody says it."""


def open_source(settings: ConvertSettings) -> Foreign:
    """Open a source whose columns are named.

    Raises:
        BadInput: there are no files, a column is missing, or the values cannot be brought to temperature 1.
    """
    tables = Tables.of(files_in(settings.source, ENDINGS, settings.split), watched=("ids", *OF_ROWS, "mask", "samples"))
    columns = roles_of(settings, tables.schema.names)
    kind = next(name for name in VALUES if name in columns)
    is_whole = "ids" not in columns
    temperature = settings.source_temperature
    if temperature != 1 and kind != "logits" and not is_whole:
        raise BadInput(
            f"--source-temperature {temperature:g}: {kind} of lists cannot be brought to temperature 1, because the "
            "mass outside of "
            "them is not known there. Only logits, or whole distributions, can."
        )
    reader = _Reader(
        tables=tables, columns=columns, kind=kind, is_whole=is_whole, temperature=temperature, about=settings.rows_about
    )
    knows_mass = is_whole or kind != "logits"
    longest = reader.entries()
    entries = entries_of(longest, settings.k) if is_whole else longest
    reader = replace(reader, kept=entries)
    return Foreign(
        format="generic",
        files=[table.path for table in tables.tables],
        said=f"{sorted(columns.items())} {settings.rows_about} {temperature}",
        gold="all" if is_whole or "gold" in columns else "listed" if knows_mass else "none",
        mass="known" if knows_mass else "unknown",
        entries=entries,
        vocabulary=longest if is_whole else None,
        column=columns["tokens"],
        is_partial="mask" in columns,
        records=tables.records,
        blocks=reader,
        pilot=replace(reader, has_rest=True) if is_whole else None,
    )


def roles_of(settings: ConvertSettings, names: list[str]) -> dict[str, str]:
    """Return the column of each role that the source has.

    Raises:
        BadInput: a role is unknown, missing or named twice, a column is given for two roles, or there is no such column.
    """
    given: dict[str, str] = {}
    for pair in (settings.columns or "").split(",") if settings.columns else []:
        role, sign, name = (text.strip() for text in pair.partition("="))
        if not sign or role not in ROLES:
            raise BadInput(f"--columns {pair}: write ROLE=COLUMN. {suggest(role, list(ROLES))}")
        if role in given:
            raise BadInput(f"--columns: '{role}' is named twice. Name it once.")
        if name not in names:
            raise BadInput(f"--columns {pair}: there is no such column. The source has {', '.join(names)}.")
        if name in given.values():
            raise BadInput(f"--columns {pair}: this column is given for another role, too. A column has one role.")
        given[role] = name
    is_value_given = any(role in given for role in VALUES)
    free = set(names) - set(given.values())
    columns = {
        role: role for role in ROLES if role in free and role not in given and not (role in VALUES and is_value_given)
    } | given
    values = [role for role in VALUES if role in columns]
    idle = next(
        (
            role
            for role in ("gold", "tail_logmass", "entropy")
            if role in columns and values == ["logits"] and "ids" in columns
        ),
        None,
    )
    if idle is not None:
        raise BadInput(
            f"{settings.source}: '{columns[idle]}' says nothing about lists of logits. Leave it out of the source."
        )
    if "tokens" not in columns or len(values) != 1:
        what = "tokens" if "tokens" not in columns else f"one of {', '.join(VALUES)}"
        raise BadInput(
            f"{settings.source}: which column holds {what}? Name it: --columns "
            "tokens=COLUMN,ids=COLUMN,logprobs=COLUMN. The source "
            f"has {', '.join(names)}."
        )
    return columns


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reader:
    """Reads the records; see `logitstore.text.foreign.block.Blocks`.

    Attributes:
        tables: the records.
        columns: the name of the column of each role.
        kind: what the values are.
        kept: entries that are listed of a whole distribution.
        is_whole: a row has a value for every token of the vocabulary, in the order of the ids, and no list of ids.
        temperature: of the values.
        about: what a row is about.
        has_rest: of whole distributions the mass of the unlisted tokens is added up.
    """

    tables: Tables
    columns: dict[str, str]
    kind: str
    is_whole: bool
    temperature: float
    about: About
    kept: int = 0
    has_rest: bool = False

    def __call__(self, record: int, *, with_lists: bool) -> Iterator[Block]:
        of_texts = [self.columns[role] for role in ("tokens", "mask", "samples") if role in self.columns]
        of_lists = [self.columns[role] for role in ("ids", self.kind, *OF_ROWS) if role in self.columns]
        for first, batch in self.tables.batches([*of_texts, *(of_lists if with_lists else ())], record):
            records = self._records(first, batch)
            block = records.block()
            if with_lists and len(block.lengths_S):
                block = replace(block, lists=self._lists(first, batch, records, block.gold_N))
            yield block

    def entries(self) -> int:
        """Return the entries of the longest list of the first records. Raises BadInput: there is none."""
        name, most = self.columns[self.kind], 0
        for first, batch in self.tables.batches([name]):
            lengths_N = inner_lengths(batch.column(name), name, first)
            most = max(most, int(lengths_N.max(initial=0)))
            if first + batch.num_rows >= FIRST and most:
                break
        if not most:
            raise BadInput(f"the column '{name}' holds no list.")
        return most

    def _column(self, role: str, batch: pa.RecordBatch) -> pa.Array | None:
        return batch.column(self.columns[role]) if role in self.columns else None

    def _records(self, first: int, batch: pa.RecordBatch) -> Records:
        tokens = batch.column(self.columns["tokens"])
        lengths_R = lengths_of(tokens, self.columns["tokens"], first)
        beside: dict[str, Array] = {}
        for role in ("mask", "samples"):
            if (column := self._column(role, batch)) is None:
                continue
            name = self.columns[role]
            if (differs_R := lengths_of(column, name, first) != lengths_R).any():
                number = first + int(differs_R.argmax())
                raise BadInput(f"record {number}: '{name}' has another length than the tokens.")
            beside[role] = flat(column, name, first, "biu").astype(np.int64)
            if role == "mask" and ((beside[role] != 0) & (beside[role] != 1)).any():
                raise BadInput(
                    f"record {first} or one behind it: '{name}' holds numbers other than 0 and 1. A mask says of every token "
                    "whether it is to be learned; labels are none."
                )
            if role == "samples" and beside[role].min(initial=0) < 0:
                raise BadInput(
                    f"record {first} or one behind it: '{name}' holds a negative number. Texts are numbered from 1, and "
                    "padding is 0."
                )
        plain(tokens.flatten(), self.columns["tokens"], 1)
        return Records(
            first=first,
            lengths_R=lengths_R,
            tokens_T=flat(tokens, self.columns["tokens"], first).astype(np.int64),
            sample_T=beside.get("samples"),
            learned_T=beside["mask"] != 0 if "mask" in beside else None,
        )

    def _lists(self, first: int, batch: pa.RecordBatch, records: Records, gold_N: Array) -> Lists:
        values = batch.column(self.columns[self.kind])
        rows_R = lengths_of(values, self.columns[self.kind], first)
        taken = records.rows_N(rows_R, self.about)
        values_NK = even(
            values, self.columns[self.kind], first, "fiu", -np.inf if self.kind != "probabilities" else 0.0
        )[taken]
        logprobs_NK = self._logprobs(values_NK)
        told = {
            FIELDS[role]: self._of_rows(role, first, batch, rows_R, taken) for role in OF_ROWS if role in self.columns
        }
        if self.is_whole:
            if gold_N.max(initial=0) >= logprobs_NK.shape[1]:
                raise BadInput(
                    f"record {first} or one behind it: a row has fewer values than its gold token's id says."
                )
            whole = listed(logprobs_NK, gold_N, self.kept, has_rest=self.has_rest)
            return replace(whole, **told)
        ids = batch.column(self.columns["ids"])
        if (differs_R := lengths_of(ids, self.columns["ids"], first) != rows_R).any():
            raise BadInput(f"record {first + int(differs_R.argmax())}: ids and values have different counts of rows.")
        lengths_N = inner_lengths(values, self.columns[self.kind], first)
        if (differs_N := inner_lengths(ids, self.columns["ids"], first) != lengths_N).any():
            number = first + int(np.repeat(np.arange(len(rows_R)), rows_R)[differs_N.argmax()])
            raise BadInput(f"record {number}: a row has other counts of ids and of values.")
        return Lists(ids_NK=even(ids, self.columns["ids"], first, "iu", 0)[taken], logprobs_NK=logprobs_NK, **told)

    def _logprobs(self, values_NK: Array) -> Array:
        """Return float32[N, K], nats at temperature 1; of logits of lists up to a number of each row."""
        if self.kind == "probabilities":
            if (values_NK < 0).any():
                raise BadInput("a probability is negative. Are the values logprobs or logits (--columns)?")
            with np.errstate(divide="ignore"):
                values_NK = np.log(values_NK.astype(np.float64))
        logits_NK = values_NK.astype(np.float64) * self.temperature
        if self.is_whole and self.kind != "logits":
            self._refuse_parts(values_NK)
        if self.is_whole and (self.kind == "logits" or self.temperature != 1):
            with np.errstate(invalid="ignore"):  # NaN and infinity are refused with the place of the row
                logits_NK -= logits_NK.max(1, keepdims=True)
                logits_NK -= np.log(np.exp(logits_NK).sum(1, keepdims=True))
        return logits_NK.astype(np.float32)

    def _refuse_parts(self, logprobs_NV: Array) -> None:
        """Refuse whole distributions that do not sum to 1; NaN stays for the reader of lists, which names the row."""
        with np.errstate(over="ignore"):
            mass_N = np.exp(logprobs_NV.astype(np.float64)).sum(1)
        if (is_bad_N := (mass_N > 0) & (np.abs(mass_N - 1) > MOST_MASS - 1)).any():
            raise BadInput(
                f"the column '{self.columns[self.kind]}' has a value for every token, and the probabilities of a row sum to "
                f"{float(mass_N[is_bad_N][0]):.3g}, not 1. Are they logits, or of another base than e? Logits are named so: "
                "--columns logits=COLUMN."
            )

    def _of_rows(self, role: str, first: int, batch: pa.RecordBatch, rows_R: Array, taken: Array) -> Array:
        """Return one number for each row, float32[N]."""
        name = self.columns[role]
        column = batch.column(name)
        if (differs_R := lengths_of(column, name, first) != rows_R).any():
            raise BadInput(f"record {first + int(differs_R.argmax())}: '{name}' has another length than the rows.")
        # of rows about their own token the first has none, which becomes NaN
        numbers_N: Array = column.flatten().to_numpy(zero_copy_only=False)
        if numbers_N.dtype.kind not in "fiu":
            raise BadInput(f"the column '{name}' holds {column.type}, where lists of numbers are needed.")
        return np.asarray(numbers_N[taken], np.float32)


def inner_lengths(column: pa.Array, name: str, first: int) -> Array:
    """Return int64[N], the length of every inner list of a column; 0 for one that is null, as of a first token."""
    lists = inner(column, name, first)
    if pa.types.is_null(lists.type):
        return np.zeros(len(lists), np.int64)
    if not lists.null_count:
        return lengths_of(lists, name, first)
    return np.asarray(pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def plain(entries: pa.Array, name: str, axes: int) -> None:
    """Raises BadInput: a column has more axes than a record of it has."""
    if not pa.types.is_primitive(entries.type) and not pa.types.is_null(entries.type):
        wanted = "a list of numbers" if axes == 1 else "a list of lists of numbers"
        raise BadInput(f"the column '{name}' holds {entries.type} inside, where a record has {wanted}.")


def even(column: pa.Array, name: str, first: int, kinds: str, empty: float) -> Array:
    """Return [N, K], the inner lists of a column, all as long as the longest; `empty` fills those that are shorter."""
    lengths_N = inner_lengths(column, name, first)
    lists = inner(column, name, first)
    if pa.types.is_null(lists.type):
        return np.zeros((len(lists), 0))
    # flattening leaves out what is null
    entries = lists.flatten()
    plain(entries, name, 2)
    numbers = flat(entries, name, first, kinds)
    longest = int(lengths_N.max(initial=0))
    if (lengths_N == longest).all():
        return numbers.reshape(len(lengths_N), longest)
    filled = np.full((len(lengths_N), longest), empty, np.float64 if "f" in kinds else np.int64)
    filled[np.repeat(np.arange(len(lengths_N)), lengths_N), counted(lengths_N)] = numbers
    return filled
