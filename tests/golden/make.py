"""Writes the golden cache anew: `python tests/golden/make.py`. Only for a change of the format that is meant.

Two parts of three and two samples, fixed by hand: two entries a row, a vocabulary of ten, one sample with a mask that
has gaps, one without a domain, one row without a tail, one whose gold token is not listed.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from logitstore.core.types import Answer, Array
from logitstore.format.data import DataInfo, TeacherInfo
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import Fidelity
from logitstore.format.row import CodecInfo, FieldInfo, SparsifierInfo, TailInfo
from logitstore.format.sealed import seal, seal_of_bytes
from logitstore.format.tasks.texts import TokenizerInfo
from logitstore.store.local_disk import LocalDisk, write_first, write_whole
from logitstore.store.writer import PartWriter
from logitstore.text.sample import Sample

CACHE = Path(__file__).parent / "cache"
SAMPLES_PER_PART = 3
NOTES = b"shared bytes\n"

TOKENS = [[1, 2, 3, 4], [5, 6], [7, 8, 9, 0, 1, 2], [3, 3, 3], [9, 0]]
MASKS = [[1, 1, 1, 0], [1, 0], [0, 0, 1, 0, 1, 0], [1, 1, 0], [1, 0]]
DOMAINS = ["prose", None, "prose", "Grüße, 你好", "code"]
DOCUMENTS = [0, 1, 2, 2, 4]
WINDOWS = [0, 0, 0, 1, 0]
STARTS = [0, 0, 0, 4, 0]

# one entry a row, in row order; exp(logprobs) and exp(tail_logmass) sum to 1 within a float16's rounding
IDS = [[2, 0], [3, 1], [0, 4], [6, 9], [5, 7], [2, 1], [3, 0], [3, 5], [0, 1]]
PROBS = [[0.5, 0.25], [0.75, 0.125], [0.5, 0.5], [0.625, 0.25], [0.375, 0.3125], [0.5, 0.125], [0.9, 0.05]]
PROBS += [[0.25, 0.25], [1.0, 0.0]]
GOLD_PROBS = [0.5, 0.75, 0.5, 0.625, 0.125, 0.5, 0.9, 0.25, 1.0]
ENTROPIES = [1.25, 0.75, 0.693359375, 1.0, 1.5, 1.125, 0.5, 2.0, 0.0]


def fields() -> dict[str, Array]:
    """Every row of the cache, in the stored dtypes."""
    with np.errstate(divide="ignore"):
        probs_NK = np.array(PROBS)
        return {
            "ids": np.array(IDS, "<u2"),
            "logprobs": np.log(probs_NK).astype("<f2"),
            "tail_logmass": np.log(np.round(1 - probs_NK.sum(1), 12)).astype("<f4"),
            "gold_logprob": np.log(GOLD_PROBS).astype("<f2"),
            "entropy": np.array(ENTROPIES, "<f2"),
        }


def facts() -> dict[str, Array]:
    """What is counted about every row, as a teacher says it in float32."""
    ids_NK = np.array(IDS)
    gold_N1 = np.concatenate([sample.gold_N for sample in samples()])[:, None]
    with np.errstate(divide="ignore"):
        return {
            "gold_logprob": np.log(GOLD_PROBS).astype("<f4"),
            "entropy": np.array(ENTROPIES, "<f4"),
            "tail_logmass": fields()["tail_logmass"],
            "top1": ids_NK[:, 0],
            "gold_listed": (ids_NK == gold_N1).any(1),
        }


def samples() -> list[Sample]:
    """The five samples of the cache."""
    columns = zip(TOKENS, MASKS, DOMAINS, DOCUMENTS, WINDOWS, STARTS, strict=True)
    return [
        Sample(
            key=xxhash.xxh3_128_hexdigest(np.array(tokens, "<u4").tobytes()),
            tokens_T=np.array(tokens, np.int64),
            mask_T=np.array(mask, np.bool_),
            domain=domain,
            document=document,
            window=window,
            start=start,
        )
        for tokens, mask, domain, document, window, start in columns
    ]


def manifest() -> Manifest:
    """The plan of the cache."""
    return Manifest(
        created_by={"logitstore": "0.1.0"},
        teacher=TeacherInfo(
            name="a teacher by hand – ünïcode",
            fingerprint="00112233445566778899aabbccddeeff",
            dtype="float32",
            vocabulary=10,
            architecture="Nobody",
            config={"model_type": "none", "rope_theta": 10000.0, "epsilon": 1e-05, "layers": [1, 2], "tied": False},
        ),
        tokenizer=TokenizerInfo(fingerprint="ffeeddccbbaa99887766554433221100", size=10, spelling="plain"),
        data=DataInfo(
            source="by hand",
            split="train",
            kind="chat",
            column="messages",
            domain_column="topic",
            fingerprint="0123456789abcdef0123456789abcdef",
            documents=5,
            skipped=1,
            max_length=6,
            overlap=2,
        ),
        samples=len(TOKENS),
        rows=len(IDS),
        tokens=sum(map(len, TOKENS)),
        samples_per_part=SAMPLES_PER_PART,
        batch_tokens=64,
        sparsifier=SparsifierInfo(name="topk", k=2),
        tail=TailInfo(shape="uniform"),
        codec=CodecInfo(),
        fields={
            "ids": FieldInfo(dtype="uint16", shape=(2,), unit="token id"),
            "logprobs": FieldInfo(dtype="float16", shape=(2,), unit="nat"),
            "tail_logmass": FieldInfo(dtype="float32", shape=(), unit="nat"),
            "gold_logprob": FieldInfo(dtype="float16", shape=(), unit="nat"),
            "entropy": FieldInfo(dtype="float16", shape=(), unit="nat"),
        },
        shared={"shared/notes.txt": seal_of_bytes(NOTES)},
    )


def write(folder: Path) -> None:
    """Write the cache into `folder` as a dump would: shared files, plan, parts."""
    plan, asked = manifest(), samples()
    write_whole(folder / "shared" / "notes.txt", NOTES)
    write_first(folder / MANIFEST_NAME, seal(plan))
    done = 0
    for part in range(plan.parts):
        mine = asked[part * SAMPLES_PER_PART : (part + 1) * SAMPLES_PER_PART]
        with PartWriter(LocalDisk(folder), plan, part, mine) as writer:
            for index, sample in enumerate(mine):
                span = slice(done, done + sample.rows)
                answer, counted = (
                    Answer(fields={name: array[span] for name, array in rows.items()}) for rows in (fields(), facts())
                )
                writer.write(index, answer, counted)
                done += sample.rows
            writer.commit(Fidelity())


def reseal(content: dict[str, Any]) -> bytes:
    """A sealed JSON file made from the specification alone, whatever it says: also what the writer would refuse."""
    text = json.dumps(content | {"checksum": "0" * 32}, indent=1, ensure_ascii=False) + "\n"
    digest = xxhash.xxh3_128_hexdigest(text.encode())
    return text.replace('"' + "0" * 32 + '"\n}\n', f'"{digest}"\n}}\n').encode()


if __name__ == "__main__":
    shutil.rmtree(CACHE, ignore_errors=True)
    write(CACHE)
    sys.stdout.write(f"{CACHE} is written anew; read the difference before you commit it.\n")
