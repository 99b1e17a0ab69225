"""What `plan` fitted and measured, kept beside the cache to be, so that the dump does not fit it again."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import xxhash
from pydantic import Field
from torch import Tensor

from logitstore.core.record import Record, RelativePath
from logitstore.errors import CacheDamaged, one_line
from logitstore.format.manifest import Manifest
from logitstore.format.row import RowInfo
from logitstore.format.sealed import seal, unseal
from logitstore.store import layout, storage

PILOT_NAME = "pilot.json"


class PilotRecord(Record):
    """The record of the fits and measurements of `plan`, stored in the folder of the future cache.

    Attributes:
        name: name of the teacher.
        teacher: fingerprint of the teacher's weights.
        data: fingerprint of the data.
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


def _tail_of(row: RowInfo) -> str:
    """Return the key of a fitted tail: everything that the fit depends on, besides teacher and data."""
    tail = row.tail.model_copy(update={"file": None, "pilot_rows": 0})
    return f"{row.sparsifier.model_dump_json()} {tail.model_dump_json()}"


def keep_pilot(
    out: Path,
    record: PilotRecord,
    fits: list[tuple[RowInfo, dict[str, Tensor]]],
    kl: list[tuple[RowInfo, float, float]],
) -> None:
    """Write the fitted tails and the measured KL into the folder of the future cache."""
    files = {}
    for row, shared in fits:
        if not shared:
            continue
        content = safetensors.torch.save(shared)
        name = f"{layout.PILOT}/tail-{xxhash.xxh3_64_hexdigest(content)}.safetensors"
        storage.write_whole(out / name, content)
        files[_tail_of(row)] = name
    storage.write_whole(
        out / layout.PILOT / PILOT_NAME,
        seal(record.model_copy(update={"files": files, "kl": {_row_key(row): (one, two) for row, one, two in kl}})),
    )


def _row_key(row: RowInfo) -> str:
    """Return the key of a measured KL: everything that it depends on, besides teacher and data."""
    codec = row.codec.model_copy(update={"layout": "mapped"})
    return f"{_tail_of(row)} {codec.model_dump_json()}"


def expected_error(out: Path, manifest: Manifest) -> str | None:
    """Say which error the pilot of this teacher and these data promises for a dump; None where there was none.

    Args:
        out: folder of the cache to be.
        manifest: that of the dump that is prepared.
    """
    if not manifest.sparsifier.keeps_rows:
        return "none: scores only, which students cannot be distilled from"
    path = out / layout.PILOT / PILOT_NAME
    if not path.is_file():
        return None
    record = unseal(PilotRecord, path)
    kl = record.kl.get(_row_key(manifest.row))
    if kl is None or (record.name, record.data) != (manifest.teacher.name, manifest.data.fingerprint):
        return None
    return f"KL about {kl[0]:.2g} nats at temperature 1 and {kl[1]:.2g} at 2, by the pilot in {path.parent}"


def kept_pilot(out: Path, manifest: Manifest) -> tuple[dict[str, Tensor], int] | None:
    """Return the tail that `plan` fitted for this teacher and data, and the count of rows it used; None without such a fit.

    Raises:
        CacheDamaged: the file of the fit cannot be read, or its contents have changed.
    """
    path = out / layout.PILOT / PILOT_NAME
    if not path.is_file():
        return None
    record = unseal(PilotRecord, path)
    name = record.files.get(_tail_of(manifest.row))
    if name is None or (record.teacher, record.data) != (manifest.teacher.fingerprint, manifest.data.fingerprint):
        return None
    try:
        content = layout.inside(out, name).read_bytes()
        if xxhash.xxh3_64_hexdigest(content) not in name:
            raise CacheDamaged(
                f"{out / name}: its contents do not match the checksum in its name. Remove {path.parent}."
            )
        return safetensors.torch.load(content), record.rows
    except (OSError, safetensors.SafetensorError) as error:
        raise CacheDamaged(f"{out / name}: cannot be read: {one_line(error)}. Remove {path.parent}.") from error
