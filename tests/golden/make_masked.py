"""Writes the golden cache of masked texts anew: `python tests/golden/make_masked.py`. Only for a meant change of the format.

Three windows of two documents under two masks, parts of two and one: two of eight tokens listed.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

from logitstore.core.types import Answer, Array
from logitstore.format.data import TeacherInfo
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import Fidelity
from logitstore.format.row import CodecInfo, SparsifierInfo, TailInfo, row_fields
from logitstore.format.sealed import seal, seal_of_bytes
from logitstore.format.tasks.masked import MaskedInfo, MaskInfo
from logitstore.masked.mask import Masker
from logitstore.masked.sample import MaskedText, Window
from logitstore.store import layout
from logitstore.store.local_disk import LocalDisk, write_first, write_whole
from logitstore.store.vocabulary import Vocabulary
from logitstore.store.writer import PartWriter

CACHE = Path(__file__).parent / "masked"
PIECES = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "one", "two", "Grüße", "你好"]
RULE = MaskInfo(share=0.5, random=0.25, unchanged=0.25, token=3, kept=(0, 1, 2, 3), seed=7)
WINDOWS = [([1, 4, 5, 6, 7, 2], 0, 0, 0), ([1, 5, 2], 0, 1, 4), ([1, 7, 6, 5, 4, 2], 2, 0, 0)]
"""Tokens, document, number and offset of each; document 1 has nothing to mask."""


def samples() -> list[MaskedText]:
    """All samples of the cache: three windows under one mask, then under the next."""
    masker = Masker(RULE, len(PIECES))
    windows = [
        Window(tokens_T=np.array(tokens), document=document, window=window, start=start)
        for tokens, document, window, start in WINDOWS
    ]
    return [masker.masked(windows[number], number, view) for view in range(2) for number in range(3)]


def fields() -> dict[str, Array]:
    """Every row of the cache, in the stored dtypes: the gold token first, and the next id second."""
    gold_N = np.concatenate([text.gold_N for text in samples()])
    probs_NK = np.array([[0.5, 0.25], [0.75, 0.125]])[np.arange(len(gold_N)) % 2]
    return {
        "ids": np.stack([gold_N, (gold_N + 1) % len(PIECES)], 1).astype("<u2"),
        "logprobs": np.log(probs_NK).astype("<f2"),
        "tail_logmass": np.log(1 - probs_NK.sum(1)).astype("<f4"),
        "gold_logprob": np.log(probs_NK[:, 0]).astype("<f2"),
        "entropy": np.full(len(gold_N), 1.25, "<f2"),
    }


def shared() -> dict[str, bytes]:
    """The shared files, by their paths."""
    pieces = Vocabulary(pieces=PIECES).arrow()
    return {layout.shared_name("vocabulary", pieces, ".arrow"): pieces}


def manifest() -> Manifest:
    """The plan of the cache."""
    sparsifier, tail, codec = SparsifierInfo(name="topk", k=2), TailInfo(shape="uniform"), CodecInfo()
    asked = samples()[:3]
    return Manifest(
        created_by={"logitstore": "0.1.0"},
        task="masked-lm",
        teacher=TeacherInfo(
            name="a guesser by hand",
            fingerprint="00112233445566778899aabbccddeeff",
            dtype="float32",
            vocabulary=len(PIECES),
            architecture="Nobody",
            config={"model_type": "none"},
        ),
        tokenizer=Vocabulary(pieces=PIECES).info(),
        data=MaskedInfo(
            source="by hand",
            split="train",
            kind="masked",
            column="text",
            fingerprint="ffeeddccbbaa99887766554433221100",
            documents=3,
            skipped=1,
            max_length=6,
            pad=0,
            mask=RULE,
        ),
        views=2,
        samples=3,
        rows=sum(text.rows for text in asked),
        tokens=sum(text.length for text in asked),
        samples_per_part=2,
        batch_tokens=32,
        sparsifier=sparsifier,
        tail=tail,
        codec=codec,
        fields=row_fields(sparsifier, tail, codec, len(PIECES)),
        shared={name: seal_of_bytes(content) for name, content in shared().items()},
    )


def write(folder: Path) -> None:
    """Write the cache into `folder` as a dump would: shared files, plan, parts."""
    plan, asked, rows = manifest(), samples(), fields()
    for name, content in shared().items():
        write_whole(folder / name, content)
    write_first(folder / MANIFEST_NAME, seal(plan))
    begins = np.cumsum([0, *(text.rows for text in asked)])
    for part in range(plan.parts):
        span = plan.span(part)
        with PartWriter(LocalDisk(folder), plan, part, asked[span]) as writer:
            for index, number in enumerate(range(span.start, span.stop)):
                own = slice(begins[number], begins[number + 1])
                answer = {name: array[own] for name, array in rows.items()}
                facts = {name: answer[name].astype("<f4") for name in ("gold_logprob", "entropy", "tail_logmass")}
                facts |= {
                    "top1": answer["ids"][:, 0].astype(np.int64),
                    "gold_listed": np.ones(asked[number].rows, np.bool_),
                }
                writer.write(index, Answer(fields=answer), Answer(fields=facts))
            writer.commit(Fidelity())


if __name__ == "__main__":
    shutil.rmtree(CACHE, ignore_errors=True)
    write(CACHE)
    sys.stdout.write(f"{CACHE} is written anew; read the difference before you commit it.\n")
