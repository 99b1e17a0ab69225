"""The pilot: some samples, spread over the data, from which everything that all rows share is fitted before the first part.

Axes: N rows, D channels, K listed, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
import xxhash
from pydantic import Field
from torch import Tensor

from logitstore.cache import layout
from logitstore.errors import CacheDamaged, ModelError, one_line
from logitstore.fields import RowInfo
from logitstore.head import Head
from logitstore.keep import sparsifier_of
from logitstore.manifest import Manifest
from logitstore.paths import RelativePath
from logitstore.presets import TYPICAL_KL
from logitstore.record import Record
from logitstore.score import Batches, RowChunk, ask
from logitstore.sealed import seal, unseal
from logitstore.sparsify.sketch import TailPilot
from logitstore.teachers.teacher import Teacher
from logitstore.types import Progress, Step

PILOT_NAME = "pilot.json"


def fit_tail(
    manifest: Manifest, samples: list[Any], batches: Batches, teacher: Teacher, progress: Progress
) -> dict[str, Tensor]:
    """The tensors of the shared file of the tail (docs/format.md); none for a tail that shares nothing.

    Args:
        manifest: of the cache to be.
        samples: the pilot's.
        batches: makes batches of them.
        teacher: is asked about them.
        progress: receives the steps.

    Raises:
        ModelError: the tail needs the head of a teacher whose head cannot be used.
    """
    shape, vocabulary = manifest.tail.shape, manifest.teacher.vocabulary
    if not manifest.tail.is_fitted:
        return {}
    head = teacher.head(vocabulary) if manifest.tail.needs_hidden else None
    chunks = _pilot_chunks(manifest, samples, batches, teacher, progress)
    if head is not None:
        first = next(chunks)
        head, chunks = _matching(manifest, teacher, head, first), chain([first], chunks)
    if head is not None and shape == "head":
        return whole_head(
            head, torch.cat([chunk.hidden_nD.float().cpu() for chunk in chunks if chunk.hidden_nD is not None])
        )
    pilot, sparsifier = TailPilot(vocabulary, head), sparsifier_of(manifest.row)
    for chunk in chunks:
        pilot.add(chunk.logits_nV, listed_by(sparsifier, chunk, vocabulary), chunk.hidden_nD)
    return fitted(pilot, manifest.row)


def _pilot_chunks(
    manifest: Manifest, samples: list[Any], batches: Batches, teacher: Teacher, progress: Progress
) -> Iterator[RowChunk]:
    """What the teacher says about the pilot samples."""
    rows = 0
    for batch in batches(samples):
        for chunk in ask(teacher, batch, manifest.tail.needs_hidden):
            rows += len(chunk.gold_n)
            yield chunk
        progress(Step(stage="pilot", done=rows, total=manifest.tail.pilot_rows))


def _matching(manifest: Manifest, teacher: Teacher, head: Head, chunk: RowChunk) -> Head:
    """The teacher's head, compared with its own logits of a few rows."""
    if chunk.hidden_nD is None:
        raise ValueError("this tail needs the teacher's hidden states")
    head = head.matching(teacher.name, chunk.hidden_nD, chunk.logits_nV)
    if manifest.tail.width not in (None, head.width):
        raise ModelError(
            f"{teacher.name}: its head takes {head.width} channels, its configuration says {manifest.tail.width}. "
            "Use --preset small or topk."
        )
    return head


def listed_by(sparsifier: Any, chunk: RowChunk, vocabulary: int) -> Tensor:
    """int64[N, K]: what a sparsifier lists of some rows; empty slots are the vocabulary."""
    kept = sparsifier(chunk.logits_nV, chunk.gold_n.clamp(min=0))
    listed_nK: Tensor = kept["ids"].masked_fill(torch.isneginf(kept["logprobs"]), vocabulary)
    return listed_nK


def fitted(pilot: TailPilot, row: RowInfo) -> dict[str, Tensor]:
    """The tensors of a sketch or a prior."""
    return pilot.sketch(row.tail.bytes or 0) if row.tail.shape == "sketch" else {"prior": pilot.prior()}


class PilotRecord(Record):
    """What `plan` fitted and measured, beside the cache to be: whose answers, on which data, how many rows, a file a tail, and
    for every kind of row tried its KL at temperatures 1 and 2 (nats)."""

    format: Literal["logitstore"] = "logitstore"
    version: Literal[1] = 1
    name: str
    teacher: str
    data: str
    rows: int
    files: dict[str, RelativePath] = Field(default_factory=dict)
    kl: dict[str, tuple[float, float]] = Field(default_factory=dict)


def _tail_of(row: RowInfo) -> str:
    """What a fit depends on, besides teacher and data."""
    tail = row.tail.model_copy(update={"file": None, "pilot_rows": 0})
    return f"{row.sparsifier.model_dump_json()} {tail.model_dump_json()}"


def keep_pilot(
    out: Path,
    record: PilotRecord,
    fits: list[tuple[RowInfo, dict[str, Tensor]]],
    kl: list[tuple[RowInfo, float, float]],
) -> None:
    """Write what was fitted and measured into the folder of the cache to be."""
    files = {}
    for row, shared in fits:
        if not shared:
            continue
        content = safetensors.torch.save(shared)
        name = f"{layout.PILOT}/tail-{xxhash.xxh3_64_hexdigest(content)}.safetensors"
        layout.write_whole(out / name, content)
        files[_tail_of(row)] = name
    layout.write_whole(
        out / layout.PILOT / PILOT_NAME,
        seal(record.model_copy(update={"files": files, "kl": {_row_key(row): (one, two) for row, one, two in kl}})),
    )


def _row_key(row: RowInfo) -> str:
    """What an error depends on, besides teacher and data."""
    codec = row.codec.model_copy(update={"layout": "mapped"})
    return f"{_tail_of(row)} {codec.model_dump_json()}"


def expected_error(out: Path, manifest: Manifest) -> str:
    """What is known of the error that a dump will have, before it is made."""
    if not manifest.sparsifier.keeps_rows:
        return "none: scores only, which students cannot be distilled from"
    path = out / layout.PILOT / PILOT_NAME
    if path.is_file():
        record = unseal(PilotRecord, path)
        found = record.kl.get(_row_key(manifest.row))
        if found is not None and (record.name, record.data) == (manifest.teacher.name, manifest.data.fingerprint):
            return (
                f"KL about {found[0]:.2g} nats at temperature 1 and {found[1]:.2g} at 2, by the pilot in {path.parent}"
            )
    typical = TYPICAL_KL.get(manifest.preset or "")
    if manifest.view is not None:
        return "unknown; every dump measures its own"
    if typical is None or manifest.row.sparsifier.is_estimate:
        return "unknown; `logitstore plan` measures it"
    return (
        f"KL about {typical[0]:.2g} nats at temperature 1 and {typical[1]:.2g} at 2 for the preset as it is, on SmolLM2-135M; "
        "`logitstore plan` measures this teacher"
    )


def kept_pilot(out: Path, manifest: Manifest) -> tuple[dict[str, Tensor], int] | None:
    """What `plan` fitted for this teacher, this data and this tail, and on how many rows; None where it did not."""
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
            raise CacheDamaged(f"{out / name}: its contents are not those its name says. Remove {path.parent}.")
        return safetensors.torch.load(content), record.rows
    except (OSError, safetensors.SafetensorError) as error:
        raise CacheDamaged(f"{out / name}: cannot be read: {one_line(error)}. Remove {path.parent}.") from error


def whole_head(head: Head, hidden_ND: Tensor) -> dict[str, Tensor]:
    """The tensors of a tail that decodes hidden states: the head, and the statistics of the channels."""
    weight_VD = head.weight_VD
    if head.multiplier != 1:
        weight_VD = weight_VD.float() * head.multiplier
    deviation_D = hidden_ND.std(0, correction=0)
    return {
        "weight": weight_VD.cpu().contiguous(),
        "base": head.base_V.float().cpu().contiguous(),
        "bias": torch.zeros(len(head.base_V)),
        "cap": torch.tensor([head.cap]),
        "mean": hidden_ND.mean(0),
        "std": floored(deviation_D),
    }


def floored(deviation_D: Tensor) -> Tensor:
    """Deviations of channels, none much below the others.

    A channel that hardly moves in the pilot may move later, and one scale serves the whole row.
    """
    return deviation_D.clamp(min=max(0.01 * float(deviation_D.square().mean().sqrt()), 1e-6))
