"""Compare bytes and fidelity of our presets and of other formats: `python benchmarks/codec.py`. With names of
lines, such as `python benchmarks/codec.py tiny`, these alone are judged, without speeds unless `--speeds` is given, and take
the place of their earlier lines.

Teacher: SmolLM2-135M-Instruct in float32. Text: the Python language reference. Every line is judged on the same rows, of
documents that neither prior nor sketch has seen, against the teacher's whole distribution. The presets go through the
codecs and the files of a dump; the other formats are made again here from their public descriptions.

Axes: N rows, K listed, D channels, V vocabulary.
"""

from __future__ import annotations

import argparse
import json
import pydoc_data.topics
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo import find_teacher
from logitstore.core.random import DRAWS, uniform
from logitstore.core.types import Array, ModelRef
from logitstore.dump.fit import head_tensors
from logitstore.dump.sparsify.fidelity import Truth, compare
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.rounding.codes import rounding_of
from logitstore.dump.sparsify.sketch import TailPilot
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.format.part_record import FIDELITY_NAMES
from logitstore.format.presets import row_of
from logitstore.format.row import SCORES
from logitstore.models.head import LinearHead
from logitstore.models.load import load_config, load_tokenizer
from logitstore.store.staged.rows_writer import open_writer
from logitstore.targets.chunks import chunk_rows
from logitstore.targets.decoder import Decoder
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.shared import latents_of
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import SampledTargets, Targets
from logitstore.text.sample import key_of
from machine import describe_run
from students import use_threads

RESULTS = Path(__file__).parent / "results" / "codec.json"
WINDOW, PILOT_ROWS, JUDGED_ROWS = 256, 12288, 30600
SPEED_ROWS, SOME_ROWS = 1 << 19, 4096
RAW = ("none", "uniform", "prior")
MOST_LISTED = 128


@dataclass
class Rows:
    """Rows hold the teacher's final hidden states of some positions, the tokens that follow, and the keys of their windows."""

    hidden_ND: Tensor
    gold_N: Tensor
    keys: list[str]
    seconds: float

    def chunks(self, vocabulary: int) -> Iterator[slice]:
        size = chunk_rows(vocabulary, "cpu")
        return (slice(first, first + size) for first in range(0, len(self.gold_N), size))

    def uniform(self, draws: int) -> Tensor:
        """Return float64[N, draws]: the uniform numbers of every row's draws."""
        return torch.from_numpy(np.concatenate([uniform(key, WINDOW - 1, draws, DRAWS) for key in self.keys]))


@dataclass(frozen=True)
class Question:
    """A question holds a few rows as the teacher saw them: raw logits, gold tokens, hidden states, and numbers to draw
    with."""

    logits_nV: Tensor
    gold_n: Tensor
    hidden_nD: Tensor
    numbers_nU: Tensor

    def top(self, k: int) -> tuple[Tensor, Tensor]:
        """Return ids and logprobs [n, k] of the most probable tokens."""
        ids_nK = self._most_nK[:, :k]
        return ids_nK, self.logprobs_nV.gather(1, ids_nK)

    @cached_property
    def logprobs_nV(self) -> Tensor:
        return torch.log_softmax(self.logits_nV, -1)

    @cached_property
    def _most_nK(self) -> Tensor:
        return self.logprobs_nV.topk(MOST_LISTED).indices


@dataclass
class Line:
    """A line is one way to keep a row.

    Attributes:
        name: the name that is shown; a preset's line has the preset's name.
        bytes_per_row: bytes of the targets of a row.
        stored: maps a question to the logprobs [n, V] as decoded, and the most probable token.
    """

    name: str
    bytes_per_row: float
    stored: Callable[[Question], tuple[Tensor, Tensor]]
    found: list[Tensor] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)

    def result(self) -> dict[str, Any]:
        found_MN = torch.cat(self.found, 1).double()
        figures = dict(zip(FIDELITY_NAMES, found_MN, strict=True))
        line: dict[str, Any] = {"name": self.name, "bytes_per_row": round(self.bytes_per_row, 2)}
        for name in ("kl_t1", "kl_t2", "kl_t4"):
            mean = float(figures[name].mean())
            line[name] = round(mean, 5) if np.isfinite(mean) else None
        line["top1"] = round(float(figures["top1"].mean()), 5)
        line["rare_mass"] = float(f"{figures['rare_stored'].mean() / figures['rare_true'].mean():.4g}")
        line["gradient_error"] = float(f"{abs(figures['gradient_error'].sum() / figures['gradient'].sum()):.4g}")
        return line | self.more


def main(names: list[str], with_speeds: bool) -> None:
    use_threads()
    reference = ModelRef.parse(find_teacher())
    teacher = CausalTeacher(reference, load_config(reference), "float32", "cpu")
    vocabulary = load_config(reference).get_text_config().vocab_size
    pilot_rows, judged = read_rows(reference, teacher, JUDGED_ROWS)
    head = teacher.head(vocabulary)
    pilots = Pilots(pilot_rows, head, vocabulary)
    inputs = Told(pilots, pilot_rows, judged, head, vocabulary, with_speeds=with_speeds or not names)
    ways = ways_of(inputs)
    if unknown := set(names) - set(ways):
        sys.exit(f"no line is called {', '.join(sorted(unknown))}. There are: {'; '.join(ways)}.")
    lines = [ways[name]() for name in names or ways]
    sys.stdout.write(f"{len(lines)} lines are ready to be judged\n")
    sys.stdout.flush()
    numbers = judged.uniform(50)
    for done, some in enumerate(judged.chunks(vocabulary)):
        hidden_nD, gold_n = judged.hidden_ND[some], judged.gold_N[some]
        logits_nV = head.logits(hidden_nD)
        question = Question(logits_nV, gold_n, hidden_nD, numbers[some])
        truth = Truth.of(logits_nV, vocabulary)
        for line in lines:
            stored_nV, first_n = line.stored(question)
            line.found.append(compare(truth, stored_nV, first_n))
        if done % 50 == 0:
            sys.stdout.write(f"{some.stop:,} of {len(judged.gold_N):,} rows\n")
            sys.stdout.flush()
    sizes = {"judged_rows": len(judged.gold_N), "pilot_rows": len(pilot_rows.gold_N), "teacher_rows_per_second": round(
        len(judged.gold_N) / judged.seconds, 1)}  # fmt: skip
    found = [line.result() for line in lines]
    for result in found:
        sys.stdout.write(f"{json.dumps(result)}\n")
    save(found, sizes, list(ways), names)


def save(found: list[dict[str, Any]], sizes: dict[str, Any], every: list[str], names: list[str]) -> None:
    """Write all lines; of some names into the lines that are there, with a record of where these were measured."""
    results = describe_run() | {"size": sizes, "lines": found}
    if names:
        before = json.loads(RESULTS.read_text())
        same = ("judged_rows", "pilot_rows")
        if any(before["size"][size] != sizes[size] for size in same):
            sys.exit(f"{RESULTS}: its lines are of other rows. Measure all lines.")
        lines = [*(line for line in before["lines"] if line["name"] not in names), *found]
        added = [each for each in before.get("added", []) if each["names"] != names]
        added.append(describe_run() | {"names": names})
        order = sorted(lines, key=lambda line: every.index(line["name"]))
        results = before | {"added": added, "lines": order}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def ways_of(inputs: Told) -> dict[str, Callable[[], Line]]:
    """Return how to make each line, by its name, in the order of the results."""
    ways: dict[str, Callable[[], Line]] = {
        name: partial(preset_line, inputs, name, {})
        for name in ("tiny", "small", "faithful", "exact", "topk", "archive", "sampled")
    }
    ways["RS-KD, 50 draws"] = partial(preset_line, inputs, "sampled", {"draws": 50}, "RS-KD, 50 draws")
    for k, size in ((3, 12), (8, 13), (8, 31), (12, 19), (16, 7), (12, 91), (16, 79), (4, 115)):
        name = f"top-{k}, {size} B sketch"
        ways[name] = partial(preset_line, inputs, "small", {"k": k, "sketch_bytes": size}, name)
    for k in (16, 50, 128):
        for tail in RAW:
            ways[f"raw top-{k}, {tail} tail"] = partial(raw_line, k, tail, inputs.pilots)
    for k, exact, powers in ((128, 16, (0, 1, 2, 3, 4, 0.5)), (50, 1, (0, 1, 0.5))):
        for tail in RAW:
            name = f"DistillKit polynomial, k = {k}, {tail} tail"
            ways[name] = partial(polynomial_line, name, k, exact, powers, tail, inputs.pilots)
    return ways


def read_rows(reference: ModelRef, teacher: CausalTeacher, judged_rows: int) -> tuple[Rows, Rows]:
    """Return pilot rows and about so many rows to judge, from different documents."""
    tokenizer = load_tokenizer(reference)
    names = sorted(pydoc_data.topics.topics)
    random.Random(0).shuffle(names)
    groups: list[list[list[int]]] = [[], []]
    for name in names:
        tokens = tokenizer(pydoc_data.topics.topics[name])["input_ids"]
        group = groups[0] if len(groups[0]) * (WINDOW - 1) < PILOT_ROWS else groups[1]
        group += [tokens[at : at + WINDOW] for at in range(0, len(tokens) - WINDOW + 1, WINDOW)]
    pilot, judged = groups
    return answered(teacher, pilot), answered(teacher, judged[: judged_rows // (WINDOW - 1)])


def answered(teacher: CausalTeacher, windows: list[list[int]]) -> Rows:
    """Ask the teacher about some windows."""
    began = time.monotonic()
    states = []
    for some in torch.tensor(windows).split(4):
        _, hidden_BTD = teacher.logits_and_hidden({"input_ids": some, "attention_mask": torch.ones_like(some)})
        states.append(hidden_BTD[:, :-1].flatten(0, 1).float())
    gold_N = torch.tensor(windows)[:, 1:].flatten()
    keys = [key_of(np.array(tokens)) for tokens in windows]
    return Rows(torch.cat(states), gold_N, keys, time.monotonic() - began)


def pilot_of(k: int, rows: Rows, head: LinearHead, vocabulary: int, sketch: bool = False) -> TailPilot:
    """Return what the pilot rows say about tails outside the top k."""
    pilot = TailPilot(vocabulary, head if sketch else None)
    for some in rows.chunks(vocabulary):
        logits_nV = head.logits(rows.hidden_ND[some])
        pilot.add(logits_nV, logits_nV.topk(k).indices, rows.hidden_ND[some])
    return pilot


class Pilots(dict[int, TailPilot]):
    """What the pilot rows say about tails, by k, worked out when it is asked for."""

    def __init__(self, rows: Rows, head: LinearHead, vocabulary: int) -> None:
        super().__init__()
        self._told = rows, head, vocabulary

    def __missing__(self, k: int) -> TailPilot:
        self[k] = pilot_of(k, *self._told, sketch=k <= 16)
        return self[k]


@dataclass(frozen=True)
class Told:
    """This is what every preset gets: the pilots by k, the rows, and the teacher's head; and whether speeds are measured,
    which takes a machine that does nothing else."""

    pilots: Pilots
    pilot_rows: Rows
    judged: Rows
    head: LinearHead
    vocabulary: int
    with_speeds: bool = True


def preset_line(inputs: Told, preset: str, settings: dict[str, Any], name: str = "") -> Line:
    """Return the line of a preset, through its sparsifier, codec and files."""
    judged, head, vocabulary = inputs.judged, inputs.head, inputs.vocabulary
    row = row_of(preset, settings, vocabulary, head.width)
    sparsifier = sparsifier_of(row)
    shared: dict[str, Tensor] = {}
    if row.tail.shape == "sketch":
        shared = inputs.pilots[row.sparsifier.k].sketch(row.tail.bytes or 0)
    elif row.tail.shape == "prior":
        shared = {"prior": inputs.pilots[row.sparsifier.k].prior()}
    elif row.tail.shape == "head":
        shared = head_tensors(head, inputs.pilot_rows.hidden_ND)
    decoder, latents, rounding = Decoder(row, shared), latents_of(row, shared), rounding_of(row, shared)
    draws = row.sparsifier.draws or 0

    def encode(question: Question) -> dict[str, Array]:
        kept = sparsifier(question.logits_nV, question.gold_n, question.numbers_nU[:, :draws])
        if latents is not None:
            kept["latent"] = latents(question.hidden_nD)
        if rounding is not None:
            kept["latent"] = rounding(question.logits_nV, kept, kept["latent"])
        return decoder.codec.encode({name: value.numpy() for name, value in kept.items()})

    def stored(question: Question) -> tuple[Tensor, Tensor]:
        packed = encode(question)
        targets = decoder({name: torch.from_numpy(value) for name, value in packed.items()})
        if isinstance(targets, SampledTargets):
            decoded_nV = (
                torch.zeros(len(question.gold_n), vocabulary).scatter_add_(1, targets.ids_NK, targets.weights_NK).log()
            )
            return decoded_nV, decoded_nV.argmax(-1)
        decoded_nV = dense_logprobs(targets)
        return decoded_nV, targets.ids_NK[:, 0] if targets.is_ranked else decoded_nV.argmax(-1)

    numbers = judged.uniform(50)
    pieces = [
        encode(Question(head.logits(judged.hidden_ND[at]), judged.gold_N[at], judged.hidden_ND[at], numbers[at]))
        for at in (slice(first, first + 64) for first in range(0, SOME_ROWS, 64))
    ]
    packed = {field: np.concatenate([piece[field] for piece in pieces]) for field in pieces[0]}
    on_disk = bytes_on_disk(packed, decoder)
    line = Line(name or preset, on_disk, stored)
    if not name and inputs.with_speeds:
        line.more = speeds(packed, decoder, judged)
    return line


def bytes_on_disk(packed: dict[str, Array], decoder: Decoder) -> float:
    """Return the bytes per row of the chunk files of a part; scores and metadata do not count."""
    count = len(packed["gold_logprob"])
    with tempfile.TemporaryDirectory() as folder:
        writer = open_writer(Path(folder) / "rows.zarr", decoder.codec.fields, count, decoder.row.codec.layout)
        writer.write(0, packed)
        writer.finish()
        chunks = [path for path in Path(folder).rglob("c/**/*") if path.is_file()]
        return sum(path.stat().st_size for path in chunks if path.parts[-3 - _rank(path)] not in SCORES) / count


def _rank(path: Path) -> int:
    """Return how many levels of chunk numbers lie between `c` and the file."""
    return len(path.parts) - 1 - path.parts.index("c", path.parts.index("rows.zarr")) - 1


def speeds(packed: dict[str, Array], decoder: Decoder, judged: Rows) -> dict[str, Any]:
    """Measure the decoding of the listed part on one thread, in million rows a second, and the encoding as a share of the
    teacher's time."""
    figures: dict[str, Any] = {}
    count = len(packed["gold_logprob"])
    answer = decoder.codec.decode({name: torch.from_numpy(value) for name, value in packed.items()})
    plain = {name: value.numpy() for name, value in answer.items()}
    began = time.perf_counter()
    decoder.codec.encode(plain)
    teacher = judged.seconds / len(judged.gold_N)
    figures["encode_share_of_teacher"] = float(f"{(time.perf_counter() - began) / count / teacher:.3g}")
    if "ids" in packed and not decoder.row.sparsifier.is_estimate:
        repeats = -(-SPEED_ROWS // count)
        names = ("ids", "logprobs", "tail_logmass", "gold_logprob", "entropy")
        many = {name: torch.from_numpy(np.concatenate([packed[name]] * repeats)[:SPEED_ROWS]) for name in names}
        torch.set_num_threads(1)
        times = []
        for _ in range(7):
            began = time.perf_counter()
            for first in range(0, SPEED_ROWS, 4096):
                decoder({name: value[first : first + 4096] for name, value in many.items()})
            times.append(time.perf_counter() - began)
        torch.set_num_threads(2)
        figures["decode_listed_mrows_per_second"] = round(SPEED_ROWS / sorted(times)[3] / 1e6, 2)
    return figures


def raw_line(k: int, tail: str, pilots: Pilots) -> Line:
    """Return the line of top-k as 16-bit ids and float16 logprobs, with a tail mass where a tail is made from it."""

    shape = _shape(tail, pilots[k])

    def stored(question: Question) -> tuple[Tensor, Tensor]:
        ids_nK, listed_nK = question.top(k)
        return _with_tail(question, ids_nK, listed_nK.half().float(), shape), ids_nK[:, 0]

    return Line(f"raw top-{k}, {tail} tail", 4 * k + (0 if tail == "none" else 4), stored)


def polynomial_line(name: str, k: int, exact: int, powers: tuple[float, ...], tail: str, pilots: Pilots) -> Line:
    """Return the line of DistillKit's scheme (README of arcee-ai/DistillKit): the first logprobs in bfloat16, a
    least-squares fit for the rest."""
    place_K = torch.arange(1, k - exact + 1, dtype=torch.float64) / (k - exact)
    terms_KP = torch.stack([place_K**power for power in powers], 1)
    solve_PK = torch.linalg.pinv(terms_KP)
    shape = _shape(tail, pilots[k])

    def stored(question: Question) -> tuple[Tensor, Tensor]:
        ids_nK, listed_nK = question.top(k)
        coefficients_nP = (listed_nK[:, exact:].double() @ solve_PK.T).float()
        fitted_nK = (coefficients_nP.double() @ terms_KP.T).float().clamp(max=0)
        listed_nK = torch.cat([listed_nK[:, :exact].bfloat16().float(), fitted_nK], 1)
        return _with_tail(question, ids_nK, listed_nK, shape), ids_nK[:, 0]

    size = 2 * k + 2 * exact + 4 * len(powers)
    return Line(name, size, stored)


def _shape(tail: str, pilot: TailPilot) -> FixedTail | None:
    """Return the tail by its name; None for none."""
    prior_V = pilot.prior()
    return {"none": None, "uniform": FixedTail.uniform(len(prior_V)), "prior": FixedTail.prior(prior_V)}[tail]


def _with_tail(question: Question, ids_nK: Tensor, listed_nK: Tensor, shape: FixedTail | None) -> Tensor:
    """Return whole distributions: the tail gets what the listed tokens leave; without a tail they are renormalised."""
    mass_n = listed_nK.exp().sum(-1)
    left_n = (1 - mass_n).clamp(min=1e-6)
    if shape is None:
        logprobs_nV = torch.full_like(question.logprobs_nV, -torch.inf)
        return logprobs_nV.scatter_(1, ids_nK, torch.log_softmax(listed_nK, -1))
    listed_nK = listed_nK + ((1 - left_n) / mass_n).log()[:, None]
    return dense_logprobs(Targets(ids_nK, listed_nK, left_n.log(), shape))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--speeds", action="store_true", help="for a machine that does nothing else")
    given = parser.parse_args()
    main(given.names, given.speeds)
