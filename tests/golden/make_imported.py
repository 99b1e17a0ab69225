"""Writes the golden cache of lists that other software kept: `python tests/golden/make_imported.py`. Only for a change of the
format that is meant.

Two parts of two samples and one: three entries a row, a vocabulary of ten, one row whose gold token is not listed, so that its
logprob and the nll of its sample are not known, and one row with an empty slot.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import xxhash

from logitstore.core.types import Answer, Array
from logitstore.format.data import DataInfo, ImportedInfo, TeacherInfo
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import Fidelity
from logitstore.format.row import CodecInfo, SparsifierInfo, TailInfo, row_fields
from logitstore.format.sealed import seal, seal_of_bytes
from logitstore.format.tasks.texts import TokenizerInfo
from logitstore.store.local_disk import LocalDisk, write_first, write_whole
from logitstore.store.writer import PartWriter
from logitstore.text.sample import Sample

CACHE = Path(__file__).parent / "imported"
NOTES = b"shared bytes of lists\n"

TOKENS = [[1, 2, 3], [5, 6, 7], [9, 0]]

# one entry a row, in row order; the gold tokens are 2, 3, 6, 7, 0, and the second one is not listed
IDS = [[2, 0, 5], [4, 1, 0], [6, 9, 1], [7, 5, 6], [0, 3, 4]]
PROBS = [[0.5, 0.25, 0.125], [0.5, 0.25, 0.0], [0.375, 0.3125, 0.125], [0.875, 0.0625, 0.03125], [0.5, 0.25, 0.25]]
GOLD_PROBS = [0.5, np.nan, 0.375, 0.875, 0.5]
ENTROPIES = [1.625, 1.5, 1.75, 0.5625, 1.0400390625]


def fields() -> dict[str, Array]:
    """Every row of the cache, in the stored dtypes."""
    probs_NK = np.array(PROBS)
    with np.errstate(divide="ignore"):
        return {
            "ids": np.array(IDS, "<u2"),
            "logprobs": np.log(probs_NK).astype("<f2"),
            "tail_logmass": np.log(1 - probs_NK.sum(1)).astype("<f4"),
            "gold_logprob": np.log(GOLD_PROBS).astype("<f2"),
            "entropy": np.array(ENTROPIES, "<f2"),
        }


def samples() -> list[Sample]:
    """The samples: every token but the last has a row."""
    return [
        Sample(
            key=xxhash.xxh3_128_hexdigest(np.array(tokens, "<u4").tobytes()),
            tokens_T=np.array(tokens, np.int64),
            mask_T=np.arange(len(tokens)) < len(tokens) - 1,
            document=number,
        )
        for number, tokens in enumerate(TOKENS)
    ]


def manifest() -> Manifest:
    """The plan of the cache."""
    sparsifier, tail, codec = SparsifierInfo(name="topk", k=3), TailInfo(shape="uniform"), CodecInfo()
    return Manifest(
        created_by={"logitstore": "0.1.0"},
        imported=ImportedInfo(format="generic", gold="listed", mass="known"),
        teacher=TeacherInfo(
            name="lists by hand",
            fingerprint="00112233445566778899aabbccddeeff",
            dtype="as served",
            vocabulary=10,
            architecture="unknown",
            config={},
        ),
        tokenizer=TokenizerInfo(fingerprint="ffeeddccbbaa99887766554433221100", size=10, spelling="plain"),
        data=DataInfo(
            source="by hand",
            split="train",
            kind="text",
            column="tokens",
            fingerprint="0123456789abcdef0123456789abcdef",
            documents=len(TOKENS),
            skipped=0,
            max_length=3,
            overlap=0,
        ),
        samples=len(TOKENS),
        rows=len(IDS),
        tokens=sum(map(len, TOKENS)),
        samples_per_part=2,
        batch_tokens=1,
        sparsifier=sparsifier,
        tail=tail,
        codec=codec,
        fields=row_fields(sparsifier, tail, codec, 10),
        shared={"shared/notes.txt": seal_of_bytes(NOTES)},
    )


def write(folder: Path) -> None:
    """Write the cache into `folder` as an import would: shared file, plan, parts."""
    plan, asked, rows = manifest(), samples(), fields()
    write_whole(folder / "shared" / "notes.txt", NOTES)
    write_first(folder / MANIFEST_NAME, seal(plan))
    ids_NK, gold_N = np.array(IDS), np.concatenate([sample.gold_N for sample in asked])
    counted = {name: rows[name].astype("<f4") for name in ("gold_logprob", "entropy", "tail_logmass")}
    counted |= {"top1": ids_NK[:, 0], "gold_listed": (ids_NK == gold_N[:, None]).any(1)}
    done = 0
    for part in range(plan.parts):
        span = plan.span(part)
        with PartWriter(LocalDisk(folder), plan, part, asked[span]) as writer:
            for index, sample in enumerate(asked[span]):
                some = slice(done, done + sample.rows)
                answer, facts = (
                    Answer(fields={name: array[some] for name, array in each.items()}) for each in (rows, counted)
                )
                writer.write(index, answer, facts)
                done += sample.rows
            writer.commit(Fidelity())


if __name__ == "__main__":
    shutil.rmtree(CACHE, ignore_errors=True)
    write(CACHE)
    sys.stdout.write(f"{CACHE} is written anew; read the difference before you commit it.\n")
