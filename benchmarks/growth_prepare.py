"""Measure preparing texts against the tokenizer alone, and opening what is prepared in a fresh process.

`measure(documents)` gives the figures as plain JSON; as a command, this prints them. The texts are pages of the Python language
reference, in another order each time, of about 200 tokens. Both sides have a process for each core, and take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import pydoc_data.topics
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo import find_teacher
from logitstore.core.processes.crew import usable_cores
from logitstore.core.progress import no_progress
from logitstore.dump.teachers import open_source
from logitstore.text.documents import DataSpec
from logitstore.text.samples import Encoding, Preparing, Samples, open_samples

WORDS = 155
"""Words of a document: about 200 tokens of SmolLM2's."""

ENCODING = Encoding(max_length=1024, overlap=128)


def write_texts(path: Path, documents: int, seed: int = 0) -> None:
    """Write JSON lines of real words, no two documents alike."""
    texts = pydoc_data.topics.topics
    words = "\n".join(texts[name] for name in sorted(texts)).split(" ")
    chance = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(documents):
            start = chance.randrange(len(words) - WORDS)
            file.write(json.dumps({"text": " ".join(words[start : start + WORDS])}) + "\n")


_ALONE = """
import json, os, sys, time
os.environ["TOKENIZERS_PARALLELISM"] = "false"
from logitstore.dump.teachers import open_source
tokenizer = open_source(sys.argv[1]).tokenizer()
lines = open(sys.argv[2], encoding="utf-8").read().splitlines()[int(sys.argv[3])::int(sys.argv[4])]
texts = [json.loads(line)["text"] for line in lines]
print("ready", flush=True)
sys.stdin.readline()
began, worked, tokens = time.monotonic(), time.process_time(), 0
for start in range(0, len(texts), 1000):
    tokens += sum(map(len, tokenizer(texts[start : start + 1000], verbose=False)["input_ids"]))
print(json.dumps([time.monotonic() - began, time.process_time() - worked, tokens]), flush=True)
"""


def tokenizer_alone(teacher: str, path: Path, processes: int) -> tuple[float, float, int]:
    """Return the seconds, and those of the processors, that `tokenizer(texts)` takes in some processes; and the tokens."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _ALONE, teacher, str(path), str(number), str(processes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    for each in started:
        assert each.stdout is not None
        each.stdout.readline()
    for each in started:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    found = [json.loads(each.communicate()[0]) for each in started]
    return max(each[0] for each in found), sum(each[1] for each in found), sum(each[2] for each in found)


_OPENING = """
import json, resource, sys, time
import datasets, torch, transformers
from logitstore.dump.teachers import open_source
from logitstore.text.dump import text_batches
from pathlib import Path
from growth_prepare import opened, memory
tokenizer = open_source(sys.argv[1]).tokenizer()
before, began = memory(), time.monotonic()
samples = opened(tokenizer, Path(sys.argv[2]), Path(sys.argv[3]))
batch = next(iter(text_batches(samples[:1024], 2048)))
print(json.dumps({"seconds": time.monotonic() - began, "bytes": memory() - before, "samples": len(samples)}))
"""


def work() -> float:
    """Return the seconds of processors that this process and those that it has ended have used."""
    used = [resource.getrusage(each) for each in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def memory() -> int:
    """Return the bytes that this process has in memory, its maps among them."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def opened(tokenizer: Any, path: Path, prepared: Path, workers: int | None = None) -> Samples:
    """Open the samples of the texts, prepared in a folder."""
    preparing = Preparing(folder=prepared, workers=workers)
    return open_samples(DataSpec(source=str(path)), ENCODING, tokenizer, "the teacher", no_progress, preparing)


def measure(documents: int, folder: Path | None = None, repeats: int = 3) -> dict[str, Any]:
    """Return the figures for so many documents.

    Args:
        documents: how many.
        folder: where the texts and what is prepared lie; None for a folder that goes afterwards.
        repeats: how often both sides take their turns; the medians are given.
    """
    teacher = find_teacher()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place, cores = Path(name), usable_cores()
        write_texts(place / "texts.jsonl", documents)
        tokenizer = open_source(teacher).tokenizer()
        alone, prepared, tokens = [], [], 0
        alone_work, prepared_work = [], []
        for turn in range(repeats):
            began, worked = time.monotonic(), work()
            opened(tokenizer, place / "texts.jsonl", place / f"prepared-{turn}")
            prepared.append(time.monotonic() - began)
            prepared_work.append(work() - worked)
            seconds, own, tokens = tokenizer_alone(teacher, place / "texts.jsonl", cores)
            alone.append(seconds)
            alone_work.append(own)
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        command = [sys.executable, "-c", _OPENING, teacher, str(place / "texts.jsonl"), str(place / "prepared-0")]
        answers = [
            json.loads(
                subprocess.run(
                    command, env=os.environ | {"PYTHONPATH": path}, check=True, capture_output=True, text=True
                ).stdout
            )
            for _ in range(repeats)
        ]
        files = [file for file in (place / "prepared-0").rglob("*") if file.is_file()]
        return {
            "documents": documents,
            "tokens": tokens,
            "processes": cores,
            "tokenizer_seconds": statistics.median(alone),
            "prepare_seconds": statistics.median(prepared),
            "ratio": statistics.median(one / other for one, other in zip(prepared, alone, strict=True)),
            "tokenizer_processor_seconds": statistics.median(alone_work),
            "prepare_processor_seconds": statistics.median(prepared_work),
            "processor_ratio": statistics.median(
                one / other for one, other in zip(prepared_work, alone_work, strict=True)
            ),
            "open_to_first_batch_seconds": statistics.median(each["seconds"] for each in answers),
            "open_to_first_batch_bytes": statistics.median(each["bytes"] for each in answers),
            "samples": answers[0]["samples"],
            "bytes": sum(file.stat().st_size for file in files),
            "peak_bytes_of_preparing": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the texts and what is prepared lie meanwhile")
    given = parser.parse_args()
    print(json.dumps(measure(given.documents, given.folder, given.repeats), indent=1))


if __name__ == "__main__":
    main()
