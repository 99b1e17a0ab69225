"""Fill the tables of the README and of the pages in docs/ from results/*.json; with --check, only check that they are
right.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import methods_page

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

CODEC_TARGETS = {"small": (58, 0.29, 0.42), "faithful": (130, 0.075, 0.095), "exact": (580, 0.001, 0.001)}
"""By preset: most bytes a row, and most nats of KL at temperatures 1 and 2."""

SHARE_TARGETS = {
    ("small", 1.0): 0.95,
    ("small", 2.0): 0.9,
    ("topk", 1.0): 0.92,
    ("faithful", 1.0): 0.98,
    ("faithful", 2.0): 0.98,
}
"""By (objective, temperature): least share of what live distillation gains over gold tokens."""

GOLD, LIVE = "gold tokens only", "live, whole distribution"


def main(arguments: list[str]) -> None:
    """Write the pages; with --check, exit with 1 and one line when a page is not what would be written."""
    if arguments not in ([], ["--check"]):
        sys.exit("usage: python benchmarks/page.py [--check]")
    missing = set(TABLES)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        old = page.read_text(encoding="utf-8")
        names = [match["name"] for match in MARKED.finditer(old)]
        if unknown := set(names) - set(TABLES):
            sys.exit(f"{page}: no table is named {', '.join(unknown)}. There are: {', '.join(TABLES)}.")
        missing -= set(names)
        new = MARKED.sub(lambda match: f"{match[1]}\n{TABLES[match['name']]()}\n\n{match[3]}", old)
        if new != old and arguments:
            sys.exit(f"{page}: not what benchmarks/results says. Run `python benchmarks/page.py` and commit the page.")
        page.write_text(new, encoding="utf-8")
    if missing:
        sys.exit(
            f"{ROOT}: no page has a place for the table {', '.join(missing)}: `<!-- table: NAME -->`, `<!-- end -->`."
        )


def codec() -> str:
    """Return the table of every way to keep a row: bytes, KL, and other figures."""
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
    """Return the table of encoding and decoding speeds of the presets."""
    rows = []
    for line in _load("codec")["lines"]:
        if "encode_share_of_teacher" in line:
            decoded = line.get("decode_listed_mrows_per_second")
            cells = "" if decoded is None else f"{decoded:.1f}", f"{line['encode_share_of_teacher']:.2%}"
            rows.append((line["name"], *cells))
    return _table(("preset", "decoding, million rows/s on one core", "encoding, share of the teacher's time"), rows)


def quality() -> str:
    """Return the table of students: held-out KL at both temperatures, cross-entropy, and the share of what live
    distillation gains."""
    lines = _load("quality")["lines"]
    by_run = {(each["objective"], each["train_temperature"], each["temperature"], each["seed"]): each for each in lines}
    seeds = sorted({each["seed"] for each in lines})
    rows = []
    for name, trained in dict.fromkeys((each["objective"], each["train_temperature"]) for each in lines):
        of_way = {at: [by_run[name, trained, at, seed] for seed in seeds] for at in (1.0, 2.0)}
        share = ""
        if name not in (GOLD, LIVE):
            gold, live, reached = (
                [by_run[objective, at, trained, seed]["kl"] for seed in seeds]
                for objective, at in ((GOLD, 1.0), (LIVE, trained), (name, trained))
            )
            shares = [(g - x) / (g - best) for g, x, best in zip(gold, reached, live, strict=True)]
            share = f"{statistics.mean(shares):.1%} ± {statistics.stdev(shares):.1%}"
            if (name, trained) in SHARE_TARGETS:
                share += _mark(statistics.mean(shares) >= SHARE_TARGETS[name, trained])
        rows.append(
            (
                name,
                "" if name == GOLD else f"{trained:g}",
                *(_spread([each["kl"] for each in of_way[at]]) for at in of_way),
                _spread([each["cross_entropy"] for each in of_way[1.0]]),
                share,
            )
        )
    head = ("told", "trained at T", "KL at T = 1", "KL at T = 2", "cross-entropy", "share of the gain of live")
    return _table(head, rows)


FAST = ("readers", "scale", "dump", "losses", "train_step")
"""The scripts of `make bench`."""

SUMMARY = {
    "readers": (
        "16-bit layout to raw gather into one",
        "small to raw",
        "16-bit layout to the best",
        "one random document, med",
    ),
    "scale": ("open and first batch, 1,000 million",),
    "dump": ("dump without", "peak memory"),
    "losses": (
        "sparse KL from logits in place",
        "sparse KL fused with the head, time, float32",
        "sparse KL fused with the head, peak, float32",
    ),
    "train_step": (
        "a step from the cache, prior",
        "a step from the cache, sketch tail, to one on",
        "a step from the cache, sketch tail, to one with",
    ),
}
"""The lines that the README shows, by how they begin."""


def fast() -> str:
    """Return the table of every line of `make bench`."""
    rows = [(name, *_cells(line)) for name in FAST for line in _load(name)["lines"]]
    return _table(("script", "what", "measured", "target"), rows)


def fast_summary() -> str:
    """Return the table of the lines of SUMMARY."""
    rows = [_cells(line) for name in FAST for line in _load(name)["lines"] if line["name"].startswith(SUMMARY[name])]
    return _table(("what", "measured", "target"), rows)


def _cells(line: dict[str, Any]) -> tuple[str, str, str]:
    value, unit = line["measured"], line["unit"]
    shown = (
        f"{value:.2%} of it"
        if unit == "of it"
        else f"{value:.2%} of a step"
        if unit == "of a step"
        else f"{value:g} {unit}"
    )
    if line["target"] is None:
        return line["name"], shown, ""
    sign, _, limit = line["target"].partition(" ")
    target = f"{float(limit):.1%}" if unit.startswith("of") else limit
    return line["name"], shown + _mark(line["met"]), f"{'≤' if sign == '<=' else '≥'} {target}"


def costs() -> str:
    """Return the table of objectives: the cost of a step beside one on gold tokens, whether the loss falls, and figures of
    the student."""
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
    """Return the table of students of either half of the corpus on held-out documents, mean and deviation over the seeds."""
    lines = _load("miniplm")["lines"]
    names = {"difference": "chosen by the difference", "random": "random"}
    groups = ("all", "reference", "others")
    rows = []
    for name, called in names.items():
        by_group = [[line[group] for line in lines if line["name"] == name] for group in groups]
        rows.append((called, *(f"{mean(values):.3f} ± {stdev(values):.3f}" for values in by_group)))
    return _table(("half", "all held-out documents", "the language reference", "all others"), rows)


def shares() -> str:
    """Return the table of how much of each kind of document the difference keeps."""
    line = next(line for line in _load("miniplm")["lines"] if line["name"] == "difference")
    return _table(tuple(line["shares"]), [tuple(f"{share:.0%}" for share in line["shares"].values())])


def vision() -> str:
    """Return the table of students of images by where their answers came from, mean and deviation over the seeds."""
    students = _load("vision")["students"]
    rows = []
    for way in dict.fromkeys(line["way"] for line in students):
        of_way = [line for line in students if line["way"] == way]
        right = [100 * line["accuracy"] for line in of_way]
        figures = (_spread([line[name] for line in of_way]) for name in ("kl", "calibration_error"))
        rows.append((way, f"{mean(right):.2f} ± {stdev(right):.2f}%", *figures))
    return _table(("told", "top-1", "KL to the teacher", "calibration error"), rows)


def view_bytes() -> str:
    """Return the table of ways to keep a view of many classes."""
    rows = [
        (line["name"].partition(": ")[2], f"{line['measured']:g}", _kl(line["kl_t1"]), _kl(line["kl_t2"]))
        for line in _load("vision")["lines"]
        if "kl_t1" in line
    ]
    return _table(("kept", "B/view", "KL T = 1", "KL T = 2"), rows)


def vision_targets() -> str:
    """Return the table of the other lines of the script."""
    rows = [_cells(line) for line in _load("vision")["lines"] if "kl_t1" not in line]
    return _table(("what", "measured", "target"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "codec": codec,
    "speeds": speeds,
    "quality": quality,
    "fast": fast,
    "fast_summary": fast_summary,
    "methods": methods_page.methods,
    "truth": methods_page.truth,
    "recipes": methods_page.recipes,
    "costs": costs,
    "miniplm": miniplm,
    "shares": shares,
    "vision": vision,
    "view_bytes": view_bytes,
    "vision_targets": vision_targets,
}
"""The tables, by the name that marks their place on a page."""


def _load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def _mark(is_met: bool) -> str:
    """Return the mark of a target."""
    return " ✓" if is_met else " ✗"


def _kl(value: float | None) -> str:
    if value is None:
        return "infinite"
    return "below 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _spread(values: list[float]) -> str:
    """Return mean and standard deviation over the seeds."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))


if __name__ == "__main__":
    main(sys.argv[1:])
