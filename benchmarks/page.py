"""Fills the tables of docs/benchmarks.md from results/*.json; with --check only says whether they are what would be written."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
MARKED = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

CODEC_TARGETS = {"small": (58, 0.29, 0.42), "faithful": (130, 0.075, 0.095), "exact": (580, 0.001, 0.001)}
"""Most bytes a row, and nats of KL at temperatures 1 and 2."""

SHARE_TARGETS = {
    ("small", 1.0): 0.95,
    ("small", 2.0): 0.9,
    ("topk", 1.0): 0.92,
    ("faithful", 1.0): 0.98,
    ("faithful", 2.0): 0.98,
}
"""Least share of what live distillation gains over gold tokens, by (objective, temperature)."""

GOLD, LIVE = "gold tokens only", "live, whole distribution"


def main(arguments: list[str]) -> None:
    """Write the page, or with --check exit with 1 and one line when it is not what would be written."""
    if arguments not in ([], ["--check"]):
        sys.exit("usage: python benchmarks/page.py [--check]")
    old = PAGE.read_text(encoding="utf-8")
    new = MARKED.sub(lambda found: f"{found[1]}\n{TABLES[found['name']]()}\n\n{found[3]}", old)
    if not arguments:
        PAGE.write_text(new, encoding="utf-8")
    elif new != old:
        sys.exit(f"{PAGE}: not what benchmarks/results says. Run `python benchmarks/page.py` and commit the page.")


def codec() -> str:
    """Every way to keep a row: bytes, KL, and what else it gets right."""
    rows = []
    for line in _load("codec")["lines"]:
        size, *most = CODEC_TARGETS.get(line["name"], (None, None, None))
        rows.append(
            (
                line["name"],
                _against(f"{line['bytes_per_row']:g}", line["bytes_per_row"], size),
                *(
                    _against(_kl(line[key]), line[key], limit)
                    for key, limit in zip(("kl_t1", "kl_t2"), most, strict=True)
                ),
                _kl(line["kl_t4"]),
                f"{line['top1']:.1%}",
                f"{line['rare_mass']:.2f}",
                f"{line['gradient_error']:.2%}",
            )
        )
    head = ("kept", "B/row", "KL T = 1", "KL T = 2", "KL T = 4", "top-1", "rare mass", "gradient")
    return _table(head, rows)


def speeds() -> str:
    """Encoding and decoding of the presets."""
    rows = []
    for line in _load("codec")["lines"]:
        if "encode_share_of_teacher" in line:
            decoded = line.get("decode_listed_mrows_per_second")
            rows.append(
                (line["name"], "" if decoded is None else f"{decoded:.1f}", f"{line['encode_share_of_teacher']:.2%}")
            )
    return _table(
        ("preset", "decoding its listed part, million rows/s, one core", "encoding, share of the teacher's time"), rows
    )


def quality() -> str:
    """What students gained: held-out KL at the temperature of their loss, and cross-entropy."""
    lines = _load("quality")["lines"]
    kl = {
        (each["objective"], each["train_temperature"], each["temperature"], each["seed"]): each["kl"] for each in lines
    }
    rows = []
    for name, trained in dict.fromkeys((each["objective"], each["train_temperature"]) for each in lines):
        own = [each for each in lines if (each["objective"], each["train_temperature"]) == (name, trained)]
        shares = [
            (kl[GOLD, 1.0, trained, seed] - kl[name, trained, trained, seed])
            / (kl[GOLD, 1.0, trained, seed] - kl[LIVE, trained, trained, seed])
            for seed in sorted({each["seed"] for each in own})
        ]
        share = f"{statistics.mean(shares):.0%} ± {statistics.stdev(shares):.0%}"
        at = {t: [each for each in own if each["temperature"] == t] for t in (1.0, 2.0)}
        rows.append(
            (
                name,
                "" if name == GOLD else f"{trained:g}",
                *(_spread(each["kl"] for each in at[t]) for t in (1.0, 2.0)),
                _spread(each["cross_entropy"] for each in at[1.0]),
                ""
                if name in (GOLD, LIVE)
                else _against(share, -statistics.mean(shares), _negative(SHARE_TARGETS.get((name, trained)))),
            )
        )
    head = ("told by", "trained at T", "KL at T = 1", "KL at T = 2", "cross-entropy", "share of live's gain")
    return _table(head, rows)


TABLES: dict[str, Callable[[], str]] = {"codec": codec, "speeds": speeds, "quality": quality}
"""The tables by the name that marks their place on the page."""


def _load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _against(text: str, found: float, most: float | None) -> str:
    """The figure, with a sign where there is a target: met or missed."""
    return text if most is None else f"{text} {'✓' if found <= most else '✗'}"


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _kl(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"


def _spread(values: Iterable[float]) -> str:
    """Mean and standard deviation over the seeds."""
    known = list(values)
    return f"{statistics.mean(known):.3f} ± {statistics.stdev(known):.3f}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))


if __name__ == "__main__":
    main(sys.argv[1:])
