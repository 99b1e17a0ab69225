"""Writes the golden cache of images anew: `python tests/golden/make_views.py`. Only for a change of the format that is meant.

Three images in two views, parts of two and one: two classes of three listed, one image without a label.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import xxhash

from logitstore.core.types import Answer, Array
from logitstore.format.data import ImagesInfo, TeacherInfo
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import Fidelity
from logitstore.format.row import CodecInfo, SparsifierInfo, TailInfo, row_fields
from logitstore.format.sealed import seal, seal_of_bytes
from logitstore.format.views import TransformInfo, ViewInfo
from logitstore.image.stored import images_arrow
from logitstore.image.view import View
from logitstore.store import layout
from logitstore.store.local_disk import LocalDisk, write_first, write_whole
from logitstore.store.vocabulary import Vocabulary
from logitstore.store.writer import PartWriter

CACHE = Path(__file__).parent / "views"
NAMES = ["a/1.png", "b/Grüße 2.png", "3.png"]
LABELS = [0, 1, -1]
CLASSES = ["cat", "dog", "你好"]
CONTENTS = [0x0123456789ABCDEF, 0xFFFFFFFFFFFFFFFF, 1]
DIGESTS = [[1, 2, 0xFFFFFFFF], [4, 5, 6]]
SAMPLES_PER_PART = 2

# one entry a view of an image
IDS = [[0, 1], [1, 2], [2, 0], [0, 2], [2, 1], [1, 0]]
PROBS = [[0.5, 0.25], [0.75, 0.125], [0.5, 0.5], [0.625, 0.25], [0.375, 0.3125], [0.9, 0.05]]
GOLD_PROBS = [0.5, 0.75, np.nan, 0.625, 0.3125, np.nan]
ENTROPIES = [1.0, 0.75, 0.693359375, 0.875, 1.0625, 0.5]


def fields() -> dict[str, Array]:
    """Every row of the cache, in the stored dtypes."""
    probs_NK = np.array(PROBS)
    with np.errstate(divide="ignore"):
        return {
            "ids": np.array(IDS, "<u2"),
            "logprobs": np.log(probs_NK).astype("<f2"),
            "tail_logmass": np.log(np.round(1 - probs_NK.sum(1), 12)).astype("<f4"),
            "gold_logprob": np.log(GOLD_PROBS).astype("<f2"),
            "entropy": np.array(ENTROPIES, "<f2"),
        }


def views() -> list[View]:
    """All samples of the cache: three images in one view, then in the next."""
    return [
        View(
            name=NAMES[image],
            image=image,
            view=view,
            label=LABELS[image],
            content=CONTENTS[image],
            digest=DIGESTS[view][image],
        )
        for view in range(2)
        for image in range(3)
    ]


def shared() -> dict[str, bytes]:
    """The shared files, by their paths."""
    classes, images = Vocabulary(pieces=CLASSES).arrow(), images_arrow(NAMES, np.array(LABELS))
    processor = b"{}\n"
    return {
        layout.shared_name("vocabulary", classes, ".arrow"): classes,
        layout.shared_name("images", images, ".arrow"): images,
        f"{layout.shared_name('processor', processor)}/preprocessor_config.json": processor,
    }


def manifest() -> Manifest:
    """The plan of the cache."""
    sparsifier, tail, codec = SparsifierInfo(name="topk", k=2), TailInfo(shape="uniform"), CodecInfo()
    digest = xxhash.xxh3_128()
    for label, name in zip(LABELS, NAMES, strict=True):
        digest.update(f"{label} {name}\0".encode())
    return Manifest(
        created_by={"logitstore": "0.1.0"},
        task="image-classification",
        teacher=TeacherInfo(
            name="a classifier by hand",
            fingerprint="00112233445566778899aabbccddeeff",
            dtype="float32",
            vocabulary=len(CLASSES),
            architecture="Nobody",
            config={"model_type": "none"},
        ),
        data=ImagesInfo(
            source="by hand",
            split="train",
            kind="images",
            fingerprint=digest.hexdigest(),
            classes=xxhash.xxh3_128_hexdigest("\0".join(CLASSES).encode()),
            unlabelled=1,
        ),
        views=2,
        view=ViewInfo(
            size=(4, 6),
            transforms=(TransformInfo.of("crop"), TransformInfo.of("flip")),
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            seed=7,
            versions={"torch": "2.13.0", "pillow": "13.0.0"},
        ),
        samples=3,
        rows=3,
        tokens=3,
        samples_per_part=SAMPLES_PER_PART,
        batch_tokens=32,
        sparsifier=sparsifier,
        tail=tail,
        codec=codec,
        fields=row_fields(sparsifier, tail, codec, len(CLASSES)),
        shared={name: seal_of_bytes(content) for name, content in shared().items()},
    )


def write(folder: Path) -> None:
    """Write the cache into `folder` as a dump would: shared files, plan, parts."""
    plan, asked, rows = manifest(), views(), fields()
    for name, content in shared().items():
        write_whole(folder / name, content)
    write_first(folder / MANIFEST_NAME, seal(plan))
    top1_N = np.array(IDS)[:, 0]
    listed_N = (np.array(IDS) == np.array([view.label for view in asked])[:, None]).any(1)
    for part in range(plan.parts):
        span = plan.span(part)
        with PartWriter(LocalDisk(folder), plan, part, asked[span]) as writer:
            for index, number in enumerate(range(span.start, span.stop)):
                own = slice(number, number + 1)
                answer = {name: array[own] for name, array in rows.items()}
                facts = {name: answer[name].astype("<f4") for name in ("gold_logprob", "entropy", "tail_logmass")}
                facts |= {"top1": top1_N[own], "gold_listed": listed_N[own]}
                writer.write(index, Answer(fields=answer), Answer(fields=facts))
            writer.commit(Fidelity())


if __name__ == "__main__":
    shutil.rmtree(CACHE, ignore_errors=True)
    write(CACHE)
    sys.stdout.write(f"{CACHE} is written anew; read the difference before you commit it.\n")
