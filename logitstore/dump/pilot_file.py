"""What `plan` fitted and measured, kept beside the cache to be, so that the dump does not fit it again."""

from __future__ import annotations

from typing import Literal

import safetensors.torch
import xxhash
from pydantic import Field
from torch import Tensor

from logitstore.core.place import Place
from logitstore.core.record import Record, RelativePath
from logitstore.errors import CacheDamaged, one_line
from logitstore.format.manifest import Manifest
from logitstore.format.row import RowInfo
from logitstore.format.sealed import seal
from logitstore.store import layout
from logitstore.store.storage import Storage, open_storage, read_sealed
from logitstore.store.taps import TENSOR_FILE_ERRORS

PILOT_NAME = "pilot.json"

_RECORD = f"{layout.PILOT}/{PILOT_NAME}"


class PilotRecord(Record):
    """The record of the fits and measurements of `plan`, stored in the folder of the future cache.

    Attributes:
        name: name of the teacher.
        teacher: fingerprint of the teacher's weights.
        data: fingerprint of the data, and which of their positions have a row; see `data_of`.
        rows: count of rows that the tails were fitted on.
        files: path of the shared file of each fitted tail.
        kl: KL at temperatures 1 and 2, in nats, of each kind of row that was tried.
    """

    format: Literal["logitstore"] = "logitstore"
    version: Literal[1] = 1
    name: str
    teacher: str
    data: str
    rows: int
    files: dict[str, RelativePath] = Field(default_factory=dict)
    kl: dict[str, tuple[float, float]] = Field(default_factory=dict)


def data_of(manifest: Manifest) -> str:
    """Return what tells the rows that a pilot is about from others: the data, and the choice among their positions."""
    positions = getattr(manifest.data, "positions", None)
    return manifest.data.fingerprint if positions is None else f"{manifest.data.fingerprint} {positions}"


def _tail_of(row: RowInfo) -> str:
    """Return the key of a fitted tail: everything that the fit depends on, besides teacher and data."""
    tail = row.tail.model_copy(update={"file": None, "pilot_rows": 0})
    return f"{row.sparsifier.model_dump_json()} {tail.model_dump_json()}"


def keep_pilot(
    out: Storage,
    record: PilotRecord,
    fits: list[tuple[RowInfo, dict[str, Tensor]]],
    kl: list[tuple[RowInfo, float, float]],
) -> None:
    """Write the fitted tails and the measured KL into the place of the future cache."""
    files = {}
    for row, shared in fits:
        if not shared:
            continue
        content = safetensors.torch.save(shared)
        name = f"{layout.PILOT}/tail-{xxhash.xxh3_64_hexdigest(content)}.safetensors"
        out.put(name, content)
        files[_tail_of(row)] = name
    out.put(
        _RECORD,
        seal(record.model_copy(update={"files": files, "kl": {kind_of(row): (one, two) for row, one, two in kl}})),
    )


def kind_of(row: RowInfo) -> str:
    """Return the key of a measured KL: everything that it depends on, besides teacher and data."""
    codec = row.codec.model_copy(update={"layout": "mapped"})
    return f"{_tail_of(row)} {codec.model_dump_json()}"


def expected_error(place: Place, manifest: Manifest) -> str | None:
    """Say which error the pilot of this teacher and these data promises for a dump; None where there was none.

    Args:
        place: where the cache is to lie.
        manifest: that of the dump that is prepared.
    """
    if not manifest.sparsifier.keeps_rows:
        return "none: scores only, which students cannot be distilled from"
    out = open_storage(place)
    if out.size(_RECORD) is None:
        return None
    record = read_sealed(PilotRecord, out, _RECORD)
    kl = record.kl.get(kind_of(manifest.row))
    if kl is None or (record.name, record.data) != (manifest.teacher.name, data_of(manifest)):
        return None
    return f"KL about {kl[0]:.2g} nats at temperature 1 and {kl[1]:.2g} at 2, by the pilot in {out}/{layout.PILOT}"


def kept_pilot(out: Storage, manifest: Manifest) -> tuple[dict[str, Tensor], int] | None:
    """Return the tail that `plan` fitted for this teacher and data, and the count of rows it used; None without such a fit.

    Raises:
        CacheDamaged: the file of the fit cannot be read, or its contents have changed.
    """
    if out.size(_RECORD) is None:
        return None
    record = read_sealed(PilotRecord, out, _RECORD)
    name = record.files.get(_tail_of(manifest.row))
    if name is None or (record.teacher, record.data) != (manifest.teacher.fingerprint, data_of(manifest)):
        return None
    try:
        content = out.read(name)
        if xxhash.xxh3_64_hexdigest(content) not in name:
            raise CacheDamaged(
                f"{out}/{name}: its contents do not match the checksum in its name. Remove {out}/{layout.PILOT}."
            )
        return safetensors.torch.load(content), record.rows
    except TENSOR_FILE_ERRORS as error:
        raise CacheDamaged(f"{out}/{name}: cannot be read: {one_line(error)}. Remove {out}/{layout.PILOT}.") from error
