"""Fill the tables of the README and of the pages in docs/ from results/*.json, and draw docs/frontier.svg; with --check only
compare them.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import arithmetic
import methods_page
from frontier import FRONTIER, Point, picture

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

CODEC_TARGETS = {"small": (58, 0.29, 0.42), "faithful": (130, 0.075, 0.095), "exact": (580, 0.001, 0.001)}
"""Most bytes a row, and nats of KL at temperatures 1 and 2."""

SHARE_TARGETS = {
    ("small", 1.0): 1.0,
    ("small", 2.0): 0.97,
    ("topk", 1.0): 0.92,
    ("faithful", 1.0): 0.98,
    ("faithful", 2.0): 0.99,
}
"""Least share of what live distillation gains over gold tokens, by (targets, temperature)."""

GOLD, LIVE = "gold tokens only", "live, whole distribution"


def main(arguments: list[str]) -> None:
    """Write the pages; with --check exit with 1 and one line where a page would change."""
    if arguments not in ([], ["--check"]):
        sys.exit("usage: python benchmarks/page.py [--check]")
    missing = set(TABLES)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = page.read_text(encoding="utf-8")
        names = [found["name"] for found in MARKED.finditer(old)]
        if unknown := set(names) - set(TABLES):
            sys.exit(f"{page}: no table is named {', '.join(unknown)}. There are: {', '.join(TABLES)}.")
        missing -= set(names)
        new = MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found['name']]()}\n\n{found[3]}", old)
        if new != old and arguments:
            sys.exit(f"{page}: not what benchmarks/results says. Run `python benchmarks/page.py` and commit the page.")
        page.write_text(new, encoding="utf-8")
    for name, draw in PICTURES.items():
        file, new = ROOT / "docs" / name, draw()
        if arguments and (not file.exists() or file.read_text(encoding="utf-8") != new):
            sys.exit(
                f"{file}: not what benchmarks/results says. Run `python benchmarks/page.py` and commit the picture."
            )
        if not arguments:
            file.write_text(new, encoding="utf-8")
    if missing:
        sys.exit(
            f"{ROOT}: no page has a place for the table {', '.join(missing)}: `<!-- table: NAME -->`, `<!-- end -->`."
        )


def codec() -> str:
    """Every way to keep a row: bytes, KL, and what else it gets right."""
    rows = []
    for line in _load("codec")["lines"]:
        figures = {
            "bytes_per_row": f"{line['bytes_per_row']:g}",
            "kl_t1": _kl(line["kl_t1"]),
            "kl_t2": _kl(line["kl_t2"]),
        }
        for key, most in zip(figures, CODEC_TARGETS.get(line["name"], ()), strict=False):
            figures[key] += _mark(line[key] is not None and line[key] <= most)
        others = (f"{line['top1']:.1%}", f"{line['rare_mass']:.3g}", f"{line['gradient_error']:.2%}")
        rows.append((line["name"], *figures.values(), _kl(line["kl_t4"]), *others))
    head = ("kept", "B/row", "KL T = 1", "KL T = 2", "KL T = 4", "top-1", "rare mass", "gradient error")
    return _table(head, rows)


def speeds() -> str:
    """Encoding and decoding of the presets."""
    rows = []
    for line in _load("codec")["lines"]:
        decoded, encoded = line.get("decode_listed_mrows_per_second"), line.get("encode_share_of_teacher")
        if decoded is not None or encoded is not None:
            cells = "" if decoded is None else f"{decoded:.1f}", "" if encoded is None else f"{encoded:.2%}"
            rows.append((line["name"], *cells))
    return _table(("preset", "decoding, million rows/s on one core", "encoding, share of the teacher's time"), rows)


WHY = (
    ("**small**, the default: 4 tokens and a sketch of all others", "small", "small"),
    ("**faithful**: 8 tokens and a larger sketch", "faithful", "faithful"),
    ("**exact**: the final hidden state in 8 bits", "exact", "exact"),
    ("*for comparison:* top 16, renormalised", "raw top-16, none tail", "top-16, renormalised"),
    ("*for comparison:* top 50, renormalised", "raw top-50, none tail", "top-50, renormalised"),
)
"""Ways to keep a row that the README compares: label, name in the results of codec, name in those of quality."""


def why() -> str:
    """The first table of the README: what is stored of a row, how exact that is, and what students gain from it."""
    kept = {line["name"]: line for line in _load("codec")["lines"]}
    rows = []
    for label, stored, targets in WHY:
        line = kept[stored]
        gained = (f"{mean(gains(targets, temperature)):.0%}" for temperature in (1.0, 2.0))
        rows.append((label, f"{line['bytes_per_row']:g}", _kl(line["kl_t1"]), _kl(line["kl_t2"]), *gained))
    head = ("stored of a row", "bytes", "KL, T = 1", "KL, T = 2", "student's gain, T = 1", "student's gain, T = 2")
    return _table(head, rows)


def quality() -> str:
    """What students gained: held-out KL at both temperatures, cross-entropy, and the share of what live distillation gains."""
    lines = _load("quality")["lines"]
    rows = []
    for name, trained in dict.fromkeys((each["objective"], each["train_temperature"]) for each in lines):
        if name in STUDY:
            continue
        own = [each for each in lines if (each["objective"], each["train_temperature"]) == (name, trained)]
        share = ""
        if name not in (GOLD, LIVE):
            gained = gains(name, trained)
            share = f"{mean(gained):.1%} ± {stdev(gained):.1%}"
            if (name, trained) in SHARE_TARGETS:
                share += _mark(mean(gained) >= SHARE_TARGETS[name, trained])
        rows.append(
            (
                name,
                "" if name == GOLD else f"{trained:g}",
                *(_spread([each["kl"] for each in own if each["temperature"] == at]) for at in (1.0, 2.0)),
                _spread([each["cross_entropy"] for each in own if each["temperature"] == 1.0]),
                share,
            )
        )
    head = ("learns from", "trained at T", "KL at T = 1", "KL at T = 2", "cross-entropy", "share of the gain of live")
    return _table(head, rows)


def gains(targets: str, temperature: float) -> list[float]:
    """For each seed, the share of the gain of live distillation: 0 as on gold tokens, 1 as with the live teacher."""
    return _gains(targets, temperature, temperature)


STUDY = (
    "top-16, uniform tail",
    "top-20, renormalised",
    "top-20, renormalised, 0.1 gold",
    "top-20, renormalised, 0.3 gold",
    "top-20, half renormalised, half lumped",
    "top-20, renormalised, at last lumped",
    "top-20, renormalised, tail from gold",
    "top-20, tail from gold",
    "top-20, within at T, tail from gold",
    "former small",
    "former faithful",
    "small, directions from logits",
    "top-12, renormalised",
    "top-40, renormalised",
    "top-80, renormalised",
    "top-20, prior",
    "top-20, prior by the first token",
    "small, from 64 probes",
    "hybrid",
    "top-8, prior corrected by 8 draws of the tail",
    "top-8, prior corrected by 14 draws of the error",
    "top-8, 13 B sketch, corrected by 5 draws of the tail",
    "top-8, 13 B sketch, corrected by 8 draws of the error",
    "8 bytes",
    "tiny",
    "former tiny",
    "former tiny, nearest levels",
    "former tiny, 0.1 gold",
    "former tiny, half gold, random:0.2",
    "former tiny, corrected by 4 draws of the error",
    "24 bytes",
    "24 bytes, nearest levels",
)
"""Ways of the study of what a teacher's list, its logits alone, and a few bytes can give."""


def study() -> str:
    """What students of the study gained: the share of the gain of live at both temperatures, and cross-entropy."""
    lines = _load("quality")["lines"]
    rows = []
    for name in STUDY:
        for trained in sorted({each["train_temperature"] for each in lines if each["objective"] == name}):
            own = [each for each in lines if (each["objective"], each["train_temperature"]) == (name, trained)]
            shares = (_shares(_gains(name, trained, judged)) for judged in (1.0, 2.0))
            rows.append(
                (
                    name,
                    f"{trained:g}",
                    f"{len(own) // 2}",
                    *shares,
                    *(_spread([each["kl"] for each in own if each["temperature"] == at]) for at in (1.0, 2.0)),
                    _spread([each["cross_entropy"] for each in own if each["temperature"] == 1.0]),
                )
            )
    head = (
        "learns from",
        "trained at T",
        "seeds",
        "share, judged at T = 1",
        "share, judged at T = 2",
        "KL at T = 1",
        "KL at T = 2",
        "cross-entropy",
    )
    return _table(head, rows)


def frontier() -> str:
    """Bytes for each token of training against the share of the gain of live distillation."""
    lines = _load("quality")["lines"]
    rows = []
    for name, (size, _) in FRONTIER.items():
        own = [each for each in lines if each["objective"] == name]
        if not own:
            continue
        temperatures = {each["train_temperature"] for each in own}
        shares = (_shares(_gains(name, at, at)) if at in temperatures else "" for at in (1.0, 2.0))
        rows.append((name, f"{size:g}", *shares, f"{len({each['seed'] for each in own})}"))
    return _table(("kept of each row", "bytes a training token", "share, T = 1", "share, T = 2", "seeds"), rows)


def frontier_picture() -> str:
    """The same as a picture."""
    lines = _load("quality")["lines"]
    found = {(line["objective"], line["train_temperature"]) for line in lines} & {
        (name, at) for name in FRONTIER for at in (1.0, 2.0)
    }
    return picture([Point(name, at, mean(_gains(name, at, at))) for name, at in sorted(found)])


def _gains(name: str, trained: float, judged: float) -> list[float]:
    """For each seed, the share of the gain of live, which is trained at the temperature that both are judged at."""
    gold, live, found = (
        {
            line["seed"]: line["kl"]
            for line in _load("quality")["lines"]
            if (line["objective"], line["train_temperature"], line["temperature"]) == (way, at, judged)
        }
        for way, at in ((GOLD, 1.0), (LIVE, judged), (name, trained))
    )
    return [(gold[seed] - found[seed]) / (gold[seed] - live[seed]) for seed in sorted(found)]


def _shares(values: list[float]) -> str:
    return f"{mean(values):.1%}" + (f" ± {stdev(values):.1%}" if len(values) > 1 else "")


FAST = ("readers", "scale", "dump", "losses", "train_step")
"""The scripts of `make bench`."""

_OPEN_SMALL = "open and first batch, 2 million rows, bucketed"
_OPEN_LARGE = "open and first batch, 1,000 million to 2 million rows, bucketed"

SPEED = (
    (
        "`dump --rounding nearest`: time on top of the teacher's forward pass, bfloat16",
        "dump",
        ("dump without the comparison over bare forward, bfloat16",),
    ),
    ("the same, float32", "dump", ("dump without the comparison over bare forward, float32",)),
    (
        "`train`: time of a step from the cache, to one with the live teacher",
        "train_step",
        ("a step from the cache, sketch tail, to one with the live teacher",),
    ),
    (
        "the same, to one on text alone",
        "train_step",
        ("a step from the cache, sketch tail, to one on gold tokens",),
    ),
    (
        "the loss: time of the KL, to PyTorch's cross-entropy",
        "losses",
        ("sparse KL from logits in place, time to cross-entropy",),
    ),
    ("the same, peak memory", "losses", ("sparse KL from logits in place, peak to cross-entropy",)),
    ("read one random document, median", "readers", ("one random document, median",)),
    ("open a cache of 1,000 million rows and prepare the first batch", "scale", (_OPEN_SMALL, _OPEN_LARGE)),
)
"""Speeds that the README shows: label, script, and the names of the lines whose product is the figure."""


def fast() -> str:
    """Every line of `make bench`."""
    rows = [(name, *_cells(line)) for name in FAST for line in _load(name)["lines"]]
    return _table(("script", "what", "measured", "target"), rows)


def speed() -> str:
    """The speeds that a user decides by, without targets; `fast` has all lines with theirs."""
    rows = []
    for label, script, names in SPEED:
        lines = {line["name"]: line for line in _load(script)["lines"]}
        value = math.prod(lines[name]["measured"] for name in names)
        rows.append((label, _shown(float(f"{value:.4g}"), lines[names[0]]["unit"])))
    return _table(("what", "measured"), rows)


def gpu() -> str:
    """What was found on a GPU, or that nothing was measured yet."""
    if not (RESULTS / "gpu.json").is_file():
        return "Not yet run: no machine with a GPU was at hand."
    found = _load("gpu")
    card, failed, broken = found["card"], found["failed"], found["broken"]
    said = [
        f"{card['device']}, {card['memory_gib']:g} GiB, CUDA {card['cuda']}, PyTorch {found['versions']['torch']}. "
        f"{found['checks']:,} results compared with the CPU's: {'all are' if not failed else f'{len(failed)} are not'} "
        f"within the expected noise. The teacher had {found['teacher_layers']} layers, a batch {found['batch_tokens']:,} "
        "tokens."
    ]
    said += [
        f"- *{each['name']}*: expected {each['expected']:.3g}, found {each['found']:.3g} {each['error']}".rstrip()
        for each in failed
    ]
    said += [f"- *{name}* did not end: {reason}" for name, reason in broken.items()]
    rows = [_cells(line)[:2] for line in found["lines"]]
    return "\n".join(said) + "\n\n" + _table(("what", "measured"), rows)


def _cells(line: dict[str, Any]) -> tuple[str, str, str]:
    """The cells of a line: its name, what was measured with the mark of its target, and the target."""
    unit = line["unit"]
    shown = _shown(line["measured"], unit)
    if line["target"] is None:
        return line["name"], shown, ""
    sign, _, limit = line["target"].partition(" ")
    target = f"{float(limit):.1%}" if unit.startswith("of") else limit
    return line["name"], shown + _mark(line["met"]), f"{'≤' if sign == '<=' else '≥'} {target}"


def _shown(value: float, unit: str) -> str:
    """A figure with its unit."""
    return f"{value:.2%} {unit}" if unit.startswith("of") else f"{value:g} {unit}"


def costs() -> str:
    """Every objective: the cost of a step to one on gold tokens, the loss at both ends, and the figures of its student."""
    rows = [
        (
            line["name"],
            f"{line['time']:.2f}",
            f"{line['memory']:.2f}",
            f"{line['first_loss']:.3g}",
            f"{line['last_loss']:.3g}",
            f"{line['kl']:.3f}",
            f"{line['cross_entropy']:.3f}",
            f"{line['agreement']:.1%}",
        )
        for line in _load("objectives")["lines"]
    ]
    head = ("run", "time", "memory", "loss at first", "at last", "held-out KL", "cross-entropy", "agreement")
    return _table(head, rows)


def miniplm() -> str:
    """Students of the two halves of the corpus on held-out documents: mean and deviation over the seeds."""
    lines = _load("miniplm")["lines"]
    names = {"difference": "chosen by the difference", "random": "random"}
    groups = ("all", "reference", "others")
    rows = []
    for name, called in names.items():
        own = [[line[group] for line in lines if line["name"] == name] for group in groups]
        rows.append((called, *(f"{mean(values):.3f} ± {stdev(values):.3f}" for values in own)))
    return _table(("half", "all held-out documents", "the language reference", "all others"), rows)


def shares() -> str:
    """How much of each kind of document the difference keeps."""
    line = next(line for line in _load("miniplm")["lines"] if line["name"] == "difference")
    return _table(tuple(line["shares"]), [tuple(f"{share:.0%}" for share in line["shares"].values())])


def vision() -> str:
    """The figures of students of images, by where the teacher's answers came from: mean and deviation over the seeds."""
    students = _load("vision")["students"]
    rows = []
    for way in dict.fromkeys(line["way"] for line in students):
        own = [line for line in students if line["way"] == way]
        right = [100 * line["accuracy"] for line in own]
        figures = (_spread([line[name] for line in own]) for name in ("kl", "calibration_error"))
        rows.append((way, f"{mean(right):.2f} ± {stdev(right):.2f}%", *figures))
    return _table(("learns from", "top-1", "KL to the teacher", "calibration error"), rows)


def hooks() -> str:
    """The figures of students whose weights follow a rule: mean and deviation over the seeds."""
    students = _load("hooks")["students"]
    rows = []
    for way in dict.fromkeys(line["way"] for line in students):
        own = [line for line in students if line["way"] == way]
        right = [100 * line["accuracy"] for line in own]
        zeros = mean(line["zeros"] for line in own)
        rows.append(
            (way, f"{mean(right):.1f} ± {stdev(right):.1f}%", _spread([line["kl"] for line in own]), f"{zeros:.0%}")
        )
    return _table(("student", "top-1", "KL to the teacher", "weights that are 0"), rows)


def classifiers() -> str:
    """The figures of teachers that classify texts, of their mean, and of students of it and others."""
    content = _load("classifiers")
    lines = content["models"] + content["students"]
    rows = []
    for way in dict.fromkeys(line["way"] for line in lines):
        own = [line for line in lines if line["way"] == way]
        shown = way if "seed" not in own[0] else f"student: {way}"
        rows.append((shown, *(_spread([line[name] for line in own]) if name in own[0] else "" for name in _OF_CLASSES)))
    head = ("model", "accuracy", "macro F1", "Matthews", "label loyalty", "probability loyalty", "KL to the mean")
    return _table(head, rows)


_OF_CLASSES = ("accuracy", "macro_f1", "matthews", "agreement", "probability_loyalty", "kl")


def candidates() -> str:
    """How the orders of students before training agree with the one after it: mean over the seeds, and each."""
    rows = [
        (
            _SCORES.get(line["name"], line["name"]),
            f"{line['measured']:.2f}",
            ", ".join(f"{each:.2f}" for each in line["of_seeds"]),
        )
        for line in _load("candidates")["lines"]
    ]
    return _table(("order by", "rank correlation with the order after training", "seeds"), rows)


_SCORES = {name: f"`{name}`" for name in ("kl", "relations", "diswot_rows", "diswot_classes")} | {
    "weights": "number of weights, the more the better"
}


def replay() -> str:
    """The figures of students that learn from gold tokens, from answers about them, or about their own texts."""
    students = _load("replay")["students"]
    rows = []
    for way in dict.fromkeys(line["way"] for line in students):
        own = [line for line in students if line["way"] == way]
        figures = (_spread([line[name] for line in own]) for name in ("cross_entropy", "kl", "kl_on_own_texts"))
        rows.append((way, *figures))
    return _table(("learns from", "cross-entropy, unseen texts", "KL, unseen texts", "KL, its own texts"), rows)


def ranking() -> str:
    """How rankers order the documents of queries that no model learned from: mean and deviation over the seeds."""
    found = _load("ranking")
    students, begun, names = found["students"], found["begun"], ("ndcg", "mrr", "kendall")
    rows = [
        ("BM25", f"{found['bm25']['ndcg']:.3f}", f"{found['bm25']['mrr']:.3f}", ""),
        ("the teacher", f"{begun['teacher_ndcg']:.3f}", f"{begun['teacher_mrr']:.3f}", ""),
        ("the student before training", *(f"{begun[name]:.3f}" for name in names)),
    ]
    for way in dict.fromkeys(line["way"] for line in students):
        own = [line for line in students if line["way"] == way]
        rows.append((f"the student from {way}", *(_spread([line[name] for line in own]) for name in names)))
    return _table(("ranker", "nDCG@10", "MRR@10", "Kendall's tau to the teacher"), rows)


def view_bytes() -> str:
    """Ways to keep a view of many classes."""
    rows = [
        (line["name"].partition(": ")[2], f"{line['measured']:g}", _kl(line["kl_t1"]), _kl(line["kl_t2"]))
        for line in _load("vision")["lines"]
        if "kl_t1" in line
    ]
    return _table(("kept", "B/view", "KL T = 1", "KL T = 2"), rows)


def vision_targets() -> str:
    """The other lines of `vision.py`."""
    rows = [_cells(line) for line in _load("vision")["lines"] if "kl_t1" not in line]
    return _table(("what", "measured", "target"), rows)


def growth() -> str:
    """Every line of `growth.py`."""
    return _table(("what", "measured", "target"), [_cells(line) for line in _load("growth")["lines"]])


def remote() -> str:
    """Every line of `remote.py`."""
    return _table(("what", "measured", "target"), [_cells(line) for line in _load("remote")["lines"]])


def workers() -> str:
    """Every line of `workers.py`."""
    return _table(("what", "measured", "target"), [_cells(line) for line in _load("workers")["lines"]])


def engines() -> str:
    """How far engines are from transformers in float32."""
    rows = []
    for line in _load("engines")["lines"]:
        if "same_first" in line:
            name, apart = line["name"].partition(":")[0], f"{line['measured']:.2g}"
            figures = [f"{line[key]:.2g}" for key in ("p99", "most")]
            rows.append((name, apart, *figures, f"{line['same_first']:.1%}", f"{max(line['kl'], 0.0):.4f}"))
    head = (
        "what answered",
        "mean difference, nats",
        "99% are below",
        "largest",
        "same first token",
        "sum over the listed tokens, nats",
    )
    return _table(head, rows)


def engine_times() -> str:
    """A dump over the time of its engine."""
    lines = [line for line in _load("engines")["lines"] if "same_first" not in line]
    return _table(("what", "measured", "target"), [_cells(line) for line in lines])


def windows() -> str:
    """Every line of `windows.py`."""
    return _table(("what", "measured", "target"), [_cells(line) for line in _load("windows")["lines"]])


ARCHIVED = ("ids", "logprobs", "sketch", "gold_logprob", "entropy")
"""The fields of small whose ways the page compares; of the tail mass all ways make the same."""


def archives() -> str:
    """Bytes of a row in each preset, bare, in the first archives and in those of today; and how fast they are read."""
    rows = [
        (
            line["preset"],
            f"{line['bare']:g}",
            f"{line['first']:.2f}",
            f"{line['today']:.2f}",
            f"{1 - line['today'] / line['first']:.1%}",
            f"{1 - line['today'] / line['bare']:.1%}",
            f"{line['first_mb_per_second']:g}",
            f"{line['today_mb_per_second']:g}",
        )
        for line in _load("archive")["presets"]
    ]
    head = (
        "preset",
        "bare",
        "first archives",
        "archives",
        "less than the first",
        "less than bare",
        "MB/s, first",
        "MB/s",
    )
    return _table(head, rows)


def compressors() -> str:
    """Bytes of each field of a row of small by every way that was measured, and MB/s of reading back."""
    lines = [line for line in _load("archive")["lines"] if line["preset"] == "small"]
    found = {(line["way"], line["field"]): line for line in lines}
    rows = []
    for way in dict.fromkeys(line["way"] for line in lines):
        cells = []
        for name in ARCHIVED:
            line = found.get((way, name))
            speed = f" ({line['mb_per_second']:,.0f})" if line and "mb_per_second" in line else ""
            cells.append(f"{line['bytes']:.2f}{speed}" if line else "")
        rows.append((way, *cells))
    return _table(("way", *(f"`{name}`" for name in ARCHIVED)), rows)


def sizes() -> str:
    """What caches of several sizes take, by arithmetic."""
    rows = []
    for count in arithmetic.ROWS:
        for preset in arithmetic.PRESETS:
            parts = arithmetic.parts_of(preset, count)
            files = parts * arithmetic.files_of_part(preset)
            hours = count / arithmetic.rows_per_second() / 3600
            size = arithmetic.bytes_of(preset, count)
            rows.append((f"10^{len(str(count)) - 1}", preset, _size(size), f"{parts:,}", f"{files:,}", f"{hours:,.3g}"))
    head = ("rows", "preset", "bytes", "parts", "files", "hours of one card")
    return _table(head, rows)


def _size(count: float) -> str:
    """A number of bytes with its unit, of three digits."""
    unit, value = next(
        (unit, count / size) for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)) if count >= size
    )
    return f"{value:.3g} {unit}"


TABLES: dict[str, Callable[[], str]] = {
    "why": why,
    "codec": codec,
    "speeds": speeds,
    "quality": quality,
    "study": study,
    "frontier": frontier,
    "fast": fast,
    "speed": speed,
    "gpu": gpu,
    "methods": methods_page.methods,
    "truth": methods_page.truth,
    "recipes": methods_page.recipes,
    "costs": costs,
    "miniplm": miniplm,
    "shares": shares,
    "vision": vision,
    "hooks": hooks,
    "classifiers": classifiers,
    "candidates": candidates,
    "replay": replay,
    "ranking": ranking,
    "view_bytes": view_bytes,
    "vision_targets": vision_targets,
    "growth": growth,
    "remote": remote,
    "windows": windows,
    "engines": engines,
    "engine_times": engine_times,
    "workers": workers,
    "archives": archives,
    "compressors": compressors,
    "sizes": sizes,
}
"""The tables by the name that marks their place on a page."""

PICTURES: dict[str, Callable[[], str]] = {"frontier.svg": frontier_picture}
"""The pictures in docs/ that are written here, by file name."""


def _load(name: str) -> dict[str, Any]:
    file = RESULTS / f"{name}.json"
    if not file.exists():
        sys.exit(f"{file}: it is not there. Run `python benchmarks/{name}.py`, which measures it.")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _mark(is_met: bool) -> str:
    """The sign that a target was met or missed."""
    return " ✓" if is_met else " ✗"


def _kl(value: float | None) -> str:
    if value is None:
        return "infinite"
    return "below 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _spread(values: list[float]) -> str:
    """Mean and standard deviation over the seeds; the value alone of one seed."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))


if __name__ == "__main__":
    main(sys.argv[1:])
