"""Measure views of 21,841 classes: bytes on disk beside TinyViT's way, and the speed of reading them in random order.

TinyViT (Wu et al. 2022) keeps k = 100 classes as 16-bit numbers with 16-bit probabilities, and 4 bytes of seed, in one flat
file for an epoch; the mass of the other classes is spread evenly. No package has a classifier of so many classes, so the
answers are those of SmolLM2-135M-Instruct about the next token, as if its first 21,841 tokens were all. This is a real and
peaked distribution with a head of rank 576, but not that of an image classifier. The reading test uses invented answers;
only their shape matters there.

Axes: N rows, K listed, D channels, V classes.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import codec
from bench import at_least, at_most, found, in_turns, ratio
from demo import find_teacher
from digits import FOLDER
from logitstore.core.types import Array, ModelRef
from logitstore.dump.sparsify.fidelity import Truth, compare
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.format.presets import row_of
from logitstore.format.row import RowInfo, row_fields
from logitstore.image.dump import SAMPLES_PER_PART
from logitstore.models.load import load_config
from logitstore.store.cache import Cache
from logitstore.targets.targets import Targets
from logitstore.train.loader.loader import Loader
from synthetic import make_views

CLASSES, LISTED = 21841, 100
JUDGED = 6120
OF_VIEW = 24
"""Bytes of a view in `samples.arrow`: image, view, two checksums, the label's score."""

EIGHT_BIT = {"k": LISTED, "logprobs": "levels-8", "tail_mass": "log2-16"}
PRIOR = f"topk, k = {LISTED}, 8-bit logprobs, prior"
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    f"topk, k = {LISTED}, 8-bit logprobs, even tail": ("topk", EIGHT_BIT | {"tail": "uniform"}),
    PRIOR: ("topk", EIGHT_BIT),
    "topk": ("topk", {}),
    "small": ("small", {}),
    "faithful": ("faithful", {}),
}
"""Ways to keep a view: preset and settings."""

VIEWS, BATCH, ROUNDS, TARGET = 200_000, 256, 5, 20
SOUGHT, RAW = "seek and read", "one flat file mapped, gathered and cast"


def storage() -> list[dict[str, Any]]:
    """Return bytes and error of a view, TinyViT's way and ours; what all views share does not count."""
    reference = ModelRef.parse(find_teacher())
    teacher = CausalTeacher(reference, load_config(reference), "float32", "cpu")
    head = teacher.head(CLASSES)
    pilot_rows, judged = codec.read_rows(reference, teacher, JUDGED)
    for rows in (pilot_rows, judged):
        rows.gold_N %= CLASSES  # any class will do: the comparison does not use it
    pilots = codec.Pilots(pilot_rows, head, CLASSES)
    sizes = [4 * LISTED + 4]
    inputs = codec.Told(pilots, pilot_rows, judged, head, CLASSES)
    lines = [codec.Line("TinyViT's", sizes[0], tinyvit)]
    for name, (preset, settings) in OURS.items():
        lines.append(codec.preset_line(inputs, preset, settings, name))
        sizes.append(bytes_of(row_of(preset, settings, CLASSES, head.width)))
    for some in judged.chunks(CLASSES):
        hidden_nD, gold_n = judged.hidden_ND[some], judged.gold_N[some]
        question = codec.Question(head.logits(hidden_nD), gold_n, hidden_nD, torch.zeros(len(gold_n), 0))
        truth = Truth.of(question.logits_nV, CLASSES)
        for line in lines:
            line.found.append(compare(truth, *line.stored(question)))
    names = [f"TinyViT's, k = {LISTED}", *OURS]
    results = [line.result() for line in lines]
    figures = [
        found(f"bytes of a view of {CLASSES:,} classes: {name}", size, "B", kl_t1=kl["kl_t1"], kl_t2=kl["kl_t2"])
        for name, size, kl in zip(names, sizes, results, strict=True)
    ]
    compared = [
        at_most(f"{what} of {name}, to TinyViT's", 1, line[key] / figures[0][key])
        for name, line in zip(OURS, figures[1:], strict=True)
        if name in (PRIOR, "small")
        for what, key in (("bytes", "measured"), ("KL at T = 1", "kl_t1"))
    ]
    return [*figures, *compared]


def tinyvit(question: codec.Question) -> tuple[Tensor, Tensor]:
    """Return logprobs [n, V] of 16-bit probabilities, where the other classes share the rest evenly; and the most probable
    class."""
    ids_nK, listed_nK = question.top(LISTED)
    probs_nK = listed_nK.exp().half().float()
    left_n1 = (1 - probs_nK.sum(-1, keepdim=True)).clamp(min=1e-12) / (CLASSES - LISTED)
    return left_n1.expand(-1, CLASSES).scatter(1, ids_nK, probs_nK.clamp(min=1e-12)).log(), ids_nK[:, 0]


def bytes_of(row: RowInfo) -> int:
    """Return the bytes of a view on disk, with what is kept to make it again."""
    fields = row_fields(row.sparsifier, row.tail, row.codec, row.vocabulary)
    return sum(info.bytes for info in fields.values()) + OF_VIEW


def reading() -> list[dict[str, Any]]:
    """Measure reading views in random order as tensors, batch by batch: the loader, and a flat file that is read view by
    view."""
    folder = FOLDER / "many"
    shutil.rmtree(folder, ignore_errors=True)
    options = {"views": VIEWS, "samples_per_part": SAMPLES_PER_PART, "k": LISTED, "tail": "uniform"}
    plain = make_views(folder / "16-bit", CLASSES, **options)
    packed = make_views(folder / "8-bit", CLASSES, **options | EIGHT_BIT)
    flat, order = folder / "flat.bin", np.random.default_rng(0).permutation(VIEWS)
    write_flat(flat, plain)
    ways = {
        SOUGHT: lambda: sought(flat, order),
        RAW: lambda: raw(flat, order),
        "loader, 16-bit layout": lambda: ours(plain),
        "loader, 16-bit layout, no thread that reads ahead": lambda: ours(plain, workers=0),
        "loader, 16-bit layout, as stored": lambda: ours(plain, decoded=False),
        "loader, 8-bit logprobs": lambda: ours(packed),
    }
    seconds = in_turns({name: partial(run_through, way) for name, way in ways.items()}, ROUNDS)
    lines = [found("views read by seek and read", VIEWS / statistics.median(seconds[SOUGHT]) / 1e6, "million views/s")]
    for name in list(ways)[1:]:
        label, rate = f"views/s to those of seek and read: {name}", ratio(seconds, SOUGHT, name)
        lines.append(at_least(label, TARGET, rate) if name == "loader, 16-bit layout" else found(label, rate))
    return lines


def run_through(way: Any) -> None:
    count = sum(len(ids_BK) for ids_BK, _ in way())
    if count != VIEWS:
        raise ValueError(f"{count} views were read, not {VIEWS}")


def write_flat(path: Path, cache: Cache) -> None:
    """Write TinyViT's file: 4 bytes of seed, k numbers of classes and k probabilities of 16 bits, view after view."""
    with path.open("wb") as file:
        for number in cache.part_numbers:
            fields = cache.part(number).fields
            row = np.zeros((len(fields["ids"]), 4 + 4 * LISTED), np.uint8)
            row[:, 4 : 4 + 2 * LISTED] = fields["ids"].astype(np.int16).view(np.uint8)
            row[:, 4 + 2 * LISTED :] = np.exp(fields["logprobs"]).view(np.uint8)
            file.write(row.tobytes())


def sought(path: Path, order: Array) -> Iterator[tuple[Tensor, Tensor]]:
    """Read as a data set does: seek a view, read it, and make two tensors; a batch stacks those."""
    size = 4 + 4 * LISTED
    with path.open("rb") as file:
        for first in range(0, VIEWS, BATCH):
            ids, probs = [], []
            for number in order[first : first + BATCH].tolist():
                file.seek(number * size)
                content = bytearray(file.read(size))
                ids.append(torch.frombuffer(content, dtype=torch.int16, count=LISTED, offset=4))
                probs.append(torch.frombuffer(content, dtype=torch.float16, count=LISTED, offset=4 + 2 * LISTED))
            yield torch.stack(ids).long(), torch.stack(probs).float()


def raw(path: Path, order: Array) -> Iterator[tuple[Tensor, Tensor]]:
    """Read as fast as NumPy can, where there is nothing but one file and nothing to decode."""
    rows = np.memmap(path, np.uint8, "r").reshape(VIEWS, -1)
    for first in range(0, VIEWS, BATCH):
        some = torch.from_numpy(rows[order[first : first + BATCH], 4:])
        ids, probs = some[:, : 2 * LISTED].contiguous(), some[:, 2 * LISTED :].contiguous()
        yield ids.view(torch.int16).long(), probs.view(torch.float16).float()


def ours(cache: Cache, workers: int = 1, decoded: bool = True) -> Iterator[tuple[Any, Any]]:
    loader = Loader(cache, batch_size=BATCH, workers=workers, with_images=False)
    for batch in loader:
        targets = loader.targets(batch) if decoded else None
        if isinstance(targets, Targets):
            yield targets.ids_NK, targets.logprobs_NK
        else:
            yield batch.answer["ids"], batch.answer["logprobs"]
