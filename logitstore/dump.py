"""`dump`: run the teacher once over the data, and keep what it said. Reads top to bottom.

documents -> samples -> plan (cache.json) -> pilot (shared/) -> part by part: teacher -> sparsifier -> codec -> part writer
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from logitstore.behind import Behind
from logitstore.cache import layout
from logitstore.cache.part_sums import FACTS
from logitstore.cache.part_writer import PartTaken, PartWriter
from logitstore.cache.reader import Cache
from logitstore.cache.verify import shared_problems
from logitstore.codecs.answer import AnswerCodec
from logitstore.data.samples import Samples
from logitstore.decode import Decoder, load_shared
from logitstore.draft import draft
from logitstore.errors import BadInput, storage_errors
from logitstore.establish import establish, existing_manifest
from logitstore.fidelity import FidelityCheck
from logitstore.keep import Keep
from logitstore.manifest import MANIFEST_NAME, Fidelity, Manifest
from logitstore.plans import DumpPlan
from logitstore.score import TeacherBatch, score, split
from logitstore.stopwatch import OFF, Stopwatch
from logitstore.teachers.causal_lm import CausalTeacher
from logitstore.types import Array, ModelRef, Progress, Step, no_progress

QUEUE_DEPTH = 4


def dump(plan: DumpPlan, progress: Progress = no_progress, watch: Stopwatch = OFF) -> Cache:
    """Write the cache that `plan` describes, or what is missing of it.

    Args:
        plan: what to do.
        progress: receives the steps.
        watch: times the stages of the parts.

    Raises:
        BadInput: data or options that cannot be used.
        ModelError: a teacher that cannot be loaded or gives NaN.
        CacheMismatch: `plan.out` is a cache of another plan.
        StorageError: the disk is full or the folder cannot be written; what is committed stays.
    """
    is_new = not plan.out.exists()
    check_target(plan)
    try:
        drafted = draft(plan, progress)
    except BaseException:
        if is_new:
            with suppress(OSError):
                plan.out.rmdir()
        raise
    manifest = existing_manifest(plan, drafted.manifest)
    todo = _parts_to_do(plan, drafted.manifest)
    if manifest is None or todo or shared_problems(plan.out, manifest):
        progress(Step(stage="load the teacher", done=0, total=1))
        teacher = CausalTeacher(ModelRef.parse(plan.teacher), drafted.config, plan.dtype, plan.device)
        manifest = establish(plan, drafted, manifest, teacher, progress)
        write_parts(plan, manifest, drafted.samples, todo, teacher, progress, watch)
    cache = Cache(plan.out)
    cache.check_sizes()  # parts left over from another plan are refused here, not when a student is trained
    if cache.complete:
        with storage_errors(plan.out):
            layout.sweep(plan.out)
    return cache


def check_target(plan: DumpPlan) -> None:
    """Refuse, before any work, a target that cannot become or is not this cache."""
    if plan.out.exists() and not plan.out.is_dir():
        raise BadInput(f"--out {plan.out}: a file stands there. Choose another folder.")
    with storage_errors(plan.out):
        plan.out.mkdir(parents=True, exist_ok=True)
        names = {name for name in os.listdir(plan.out) if not name.startswith(".")}
        (probe := plan.out / f".probe.{os.getpid()}").touch()
        probe.unlink(missing_ok=True)
    if MANIFEST_NAME in names:
        if not plan.resume:
            raise BadInput(
                f"--out {plan.out}: a cache is there already. Choose another folder, or leave out --no-resume."
            )
    elif names - {layout.PARTS, layout.SHARED, layout.PILOT, "lost+found"}:
        raise BadInput(f"--out {plan.out}: the folder holds other files. Choose an empty or new one.")


def _parts_to_do(plan: DumpPlan, manifest: Manifest) -> list[int]:
    wanted = layout.parse_parts(plan.parts, manifest.parts) if plan.parts is not None else range(manifest.parts)
    done = set(layout.committed_parts(plan.out))
    return [part for part in wanted if part not in done]


def write_parts(
    plan: DumpPlan,
    manifest: Manifest,
    samples: Samples,
    todo: list[int],
    teacher: CausalTeacher,
    progress: Progress,
    watch: Stopwatch = OFF,
) -> None:
    """Part after part: the teacher answers here, encoding and writing happen on the thread behind."""
    shared = load_shared(plan.out, manifest)
    decoder = Decoder(manifest.row, shared)
    check = FidelityCheck(decoder, manifest.fidelity_rows / manifest.rows)
    keep = Keep.of(manifest.row, shared, check, watch)
    if watch is not OFF and teacher.device.type == "cuda":
        watch.settle = partial(torch.cuda.synchronize, teacher.device)
    bounds = {part: part * manifest.samples_per_part for part in todo}
    total = sum(int(samples.rows_S[first : first + manifest.samples_per_part].sum()) for first in bounds.values())
    done = 0
    size = f"{manifest.bytes_per_row} B/row"
    for part, first in bounds.items():
        asked = samples[first : first + manifest.samples_per_part]
        with suppress(PartTaken), PartWriter(plan.out, manifest, part, asked) as writer, Behind(QUEUE_DEPTH) as behind:
            for batch, targets in score(teacher, keep, asked, manifest.batch_tokens, manifest.tail.needs_hidden, watch):
                with watch("wait for the writer"):
                    behind.submit(_store, writer, batch, targets, decoder.codec, watch)
                done += len(batch.rows_N)
                progress(Step(stage="dump", done=done, total=total, part=part, note=size))
            behind.submit(_commit, writer, check.take(), watch)


def _store(writer: PartWriter, batch: TeacherBatch, targets: Any, codec: AnswerCodec, watch: Stopwatch) -> None:
    """Encode, and hand each sample's rows to the part."""
    with watch("copy to the host"):
        kept: dict[str, Array] = targets()
    with watch("encode"):
        encoded = codec.encode(kept)
    with watch("write"):
        facts = dict(split(batch, {name: kept[name] for name in FACTS if name in kept}))
        for index, answer in split(batch, encoded):
            writer.write(index, answer, facts[index])


def _commit(writer: PartWriter, fidelity: Fidelity, watch: Stopwatch) -> None:
    with watch("commit"):
        writer.commit(fidelity)


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk that will hold `folder`."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
