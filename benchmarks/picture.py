"""Draw docs/presets.svg, bytes of a row against KL, from results/codec.json. Needs matplotlib: `pip install '.[bench]'`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results" / "codec.json"
PICTURE = Path(__file__).parent.parent / "docs" / "presets.svg"
PRESETS = ("tiny", "small", "faithful", "exact", "topk", "archive")

GROUPS: dict[str, tuple[str, str, str]] = {
    "presets": ("o", "tab:blue", ""),
    "other sketches": (".", "tab:cyan", " B sketch"),
    "raw top-16, 50, 128, prior tail": ("^-", "tab:green", "raw|prior tail"),
    "raw top-16, 50, 128, uniform tail": ("v-", "tab:olive", "raw|uniform tail"),
    "DistillKit k = 50, 128, prior tail": ("D--", "tab:red", "DistillKit|prior tail"),
    "DistillKit k = 50, 128, uniform tail": ("s--", "tab:orange", "DistillKit|uniform tail"),
}
"""Marker, colour, and what the names of the lines have in them; the first group is the presets."""


def main() -> None:
    lines = json.loads(RESULTS.read_text(encoding="utf-8"))["lines"]
    # text stays text, and the same figures give the same file
    matplotlib.rcParams.update({"svg.hashsalt": "logitstore", "svg.fonttype": "none"})
    figure = Figure(figsize=(11, 4.6), layout="tight")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, key, temperature in zip(panels, ("kl_t1", "kl_t2"), (1, 2), strict=True):
        draw(panel, [line for line in lines if line[key]], key)
        panel.set(title=f"temperature {temperature}", xlabel="bytes per row", xscale="log", yscale="log")
        sizes = [12, 24, 40, 60, 100, 200, 300, 500]
        panel.set_xticks(sizes, labels=[str(size) for size in sizes], minor=False)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("KL(teacher || stored), nats")
    panels[0].legend(fontsize=7, loc="lower left")
    figure.savefig(PICTURE, metadata={"Date": None})


def draw(panel: Axes, lines: list[dict[str, Any]], key: str) -> None:
    """Draw one panel: the presets by name, sketches of other sizes, and everything else."""
    for label, (style, colour, words) in GROUPS.items():
        some = [line for line in lines if belongs(line["name"], words)]
        some.sort(key=lambda line: line["bytes_per_row"])
        panel.plot(
            [line["bytes_per_row"] for line in some], [line[key] for line in some], style, color=colour, label=label
        )
        for line in some if not words else []:
            place = {"archive": (-30, -14), "small": (6, -12), "exact": (-38, -4)}.get(line["name"], (6, 5))
            point = (line["bytes_per_row"], line[key])
            panel.annotate(line["name"], point, textcoords="offset points", xytext=place, fontsize=9)


def belongs(name: str, words: str) -> bool:
    """Return whether the name of a line has all of the words; without words, whether it is a preset."""
    return all(word in name for word in words.split("|")) if words else name in PRESETS


if __name__ == "__main__":
    main()
