"""Make caches of any size without a teacher: valid files, whose rows are a few thousand invented ones over and over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from logitstore.core.types import Answer, Array
from logitstore.dump.sparsify.sketch import allocate
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.codecs.codebook import normal_codebook
from logitstore.format.data import DataInfo, ImagesInfo, TeacherInfo
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import RECORD_NAME, Fidelity, PartRecord
from logitstore.format.presets import row_of
from logitstore.format.row import RowInfo
from logitstore.format.sealed import seal, seal_of_bytes, unseal
from logitstore.format.tasks.texts import TokenizerInfo
from logitstore.format.views import TransformInfo, ViewInfo
from logitstore.image.stored import images_arrow
from logitstore.image.view import View
from logitstore.image.views.proof import versions
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.local_disk import LocalDisk
from logitstore.store.writer import PartWriter
from logitstore.text.sample import Sample

VOCABULARY, WIDTH, INVENTED = 49152, 576, 4096


def make_cache(
    folder: Path,
    preset: str,
    *,
    samples: int,
    rows: int,
    samples_per_part: int = 1024,
    linked: bool = False,
    **changes: Any,
) -> Cache:
    """Write a cache of `samples` windows of `rows` rows each.

    Args:
        preset: gives the targets, with `changes` applied.
        linked: make one part only, and give the other parts the same files by hard links.
    """
    row = row_of(preset, changes, VOCABULARY, WIDTH)
    tensors = sketch_tensors(row) if row.tail.shape == "sketch" else {}
    content = safetensors.torch.save(tensors) if tensors else b""
    tail, shared = row.tail, {}
    if tensors:
        name = layout.shared_name("tail", content, ".safetensors")
        tail, shared = tail.model_copy(update={"file": name, "pilot_rows": 1}), {name: seal_of_bytes(content)}
    manifest = manifest_of(row, tail, shared, samples, rows, samples_per_part)
    (folder / layout.SHARED).mkdir(parents=True)
    for name in shared:
        (folder / name).write_bytes(content)
    (folder / MANIFEST_NAME).write_bytes(seal(manifest))
    codec = RowCodec(
        row=row, shared={name: value.numpy() for name, value in tensors.items() if name in ("widths", "levels")}
    )
    invented = codec.encode(invented_answer(row, len(tensors["widths"]) if tensors else 0))
    for part in range(1 if linked else manifest.parts):
        write_part(folder, manifest, part, rows, invented)
    for part in range(1, manifest.parts if linked else 1):
        link_part(folder, manifest, part)
    return Cache(folder)


def manifest_of(
    row: RowInfo, tail: Any, shared: Any, samples: int, rows: int, samples_per_part: int, **entries: Any
) -> Manifest:
    """Return the manifest of a cache of texts, all with as many rows; `entries` replace or add some of its own."""
    usual: dict[str, Any] = {
        "created_by": {"benchmark": "synthetic"},
        "teacher": teacher_of(row.vocabulary),
        "tokenizer": TokenizerInfo(fingerprint="0" * 32, size=row.vocabulary, spelling="plain"),
        "data": DataInfo(
            source="none", split="train", kind="text", column="text", fingerprint="0" * 32, documents=samples, skipped=0,
            max_length=rows + 1, overlap=0,
        ),
        "samples": samples, "rows": samples * rows, "tokens": samples * (rows + 1),
        "samples_per_part": samples_per_part, "batch_tokens": 1, "sparsifier": row.sparsifier, "tail": tail,
        "codec": row.codec, "fields": RowCodec(row=row).fields, "shared": shared,
    }  # fmt: skip
    return Manifest(**usual | entries)


def teacher_of(vocabulary: int) -> TeacherInfo:
    return TeacherInfo(
        name="none", fingerprint="0" * 32, dtype="float32", vocabulary=vocabulary, width=WIDTH, architecture="none",
        config={},
    )  # fmt: skip


def make_views(folder: Path, classes: int, *, views: int, samples_per_part: int, **changes: Any) -> Cache:
    """Write a cache of one view of each of `views` images; only the names of the images exist.

    Args:
        changes: changes of the preset topk.
    """
    row = row_of("topk", changes, classes, None)
    names = [f"{number:07d}.jpg" for number in range(views)]
    content = images_arrow(names, np.full(views, -1))
    name = layout.shared_name("images", content, ".arrow")
    crop = (TransformInfo.of("crop"),)
    info = ViewInfo(size=(224, 224), transforms=crop, mean=(0.5,) * 3, std=(0.5,) * 3, versions=versions(crop))
    manifest = Manifest(
        created_by={"benchmark": "synthetic"}, task="image-classification", teacher=teacher_of(classes),
        data=ImagesInfo(
            source="none", split="train", kind="images", fingerprint="0" * 32, classes="0" * 32, unlabelled=views
        ),
        view=info, samples=views, rows=views, tokens=views, samples_per_part=samples_per_part, batch_tokens=1,
        sparsifier=row.sparsifier, tail=row.tail, codec=row.codec, fields=RowCodec(row=row).fields,
        shared={name: seal_of_bytes(content)},
    )  # fmt: skip
    (folder / layout.SHARED).mkdir(parents=True)
    (folder / name).write_bytes(content)
    (folder / MANIFEST_NAME).write_bytes(seal(manifest))
    invented = RowCodec(row=row).encode(invented_answer(row, 0))
    for part in range(manifest.parts):
        span = manifest.span(part)
        made = [View(name=names[image], image=image, view=0, label=-1) for image in range(span.start, span.stop)]
        with PartWriter(LocalDisk(folder), manifest, part, made) as writer:
            for number in range(len(made)):
                place = (span.start + number) % INVENTED
                fields = {name: value[place : place + 1] for name, value in invented.items()}
                writer.write(number, Answer(fields=fields))
            writer.commit(Fidelity(rows=0, unbounded=0, sums={}))
    return Cache(folder)


def invented_answer(row: RowInfo, coefficients: int) -> dict[str, Array]:
    draw = np.random.default_rng(0)
    k = row.sparsifier.k
    logits = np.sort(draw.normal(size=(INVENTED, k)) * 2, 1)[:, ::-1]
    mass = draw.uniform(0.5, 0.99, (INVENTED, 1))
    probs = np.exp(logits)
    probs *= mass / probs.sum(1, keepdims=True)
    ids = np.stack([draw.choice(row.vocabulary, k, replace=False) for _ in range(INVENTED)])
    return {
        "ids": ids,
        "logprobs": np.log(probs).astype(np.float32),
        "tail_logmass": np.log1p(-mass[:, 0]).astype(np.float32),
        "gold_logprob": np.full(INVENTED, -2.0, np.float32),
        "entropy": np.full(INVENTED, 2.0, np.float32),
        "latent": draw.normal(size=(INVENTED, coefficients)).astype(np.float32),
    }


def sketch_tensors(row: RowInfo, width: int = WIDTH) -> dict[str, torch.Tensor]:
    widths = allocate([2.0 ** (-place / 12) for place in range(width)], 8 * (row.tail.bytes or 0))
    count, vocabulary = len(widths), row.vocabulary
    return {
        "widths": torch.tensor(widths, dtype=torch.uint8),
        "levels": torch.from_numpy(normal_codebook(widths).levels_RL),
        "prior": torch.ones(vocabulary),
        "weight": torch.randn(vocabulary, count).half(),
        "base": torch.zeros(vocabulary),
        "bias": torch.zeros(vocabulary),
        "cap": torch.zeros(1),
        "mean": torch.zeros(width),
        "projection": torch.zeros(width, count),
    }


def write_part(folder: Path, manifest: Manifest, part: int, rows: int, invented: dict[str, Array]) -> None:
    mask = np.ones(rows + 1, np.bool_)
    mask[-1] = False
    first = part * manifest.samples_per_part
    made = [
        Sample(
            key=f"{first + number:032x}",
            tokens_T=np.arange(rows + 1) % VOCABULARY,
            mask_T=mask,
            document=first + number,
        )
        for number in range(manifest.samples_in(part))
    ]
    with PartWriter(LocalDisk(folder), manifest, part, made) as writer:
        for number in range(len(made)):
            places = (np.arange(rows) + number * rows) % INVENTED
            writer.write(number, Answer(fields={name: value[places] for name, value in invented.items()}))
        writer.commit(Fidelity(rows=0, unbounded=0, sums={}))


def link_part(folder: Path, manifest: Manifest, part: int) -> None:
    source, target = (layout.part_folder(folder, number) for number in (0, part))
    record = unseal(PartRecord, source / RECORD_NAME)
    for name in record.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(source / name, target / name)
    (target / RECORD_NAME).write_bytes(seal(record.model_copy(update={"part": part})))
