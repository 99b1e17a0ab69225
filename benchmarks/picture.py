"""Draws docs/presets.svg from results/codec.json: `pip install matplotlib && python benchmarks/picture.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "codec.json"
PICTURE = Path(__file__).parent.parent / "docs" / "presets.svg"
PRESETS = ("small", "faithful", "exact", "topk", "archive")


def main() -> None:
    try:
        import matplotlib  # noqa: PLC0415  the picture is drawn by hand, once a benchmark has run; nobody else needs this
    except ImportError:
        sys.exit("drawing needs matplotlib: pip install matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "logitstore"
    plot: Any = __import__("matplotlib.pyplot", fromlist=["pyplot"])
    lines = json.loads(RESULTS.read_text())["lines"]
    figure, panels = plot.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for panel, (key, temperature) in zip(panels, (("kl_t1", 1), ("kl_t2", 2)), strict=True):
        draw(panel, [line for line in lines if line[key]], key)
        panel.set_title(f"temperature {temperature}")
        panel.set_xlabel("bytes per row")
    panels[0].set_ylabel("KL to the teacher, nats")
    figure.tight_layout()
    figure.savefig(PICTURE, metadata={"Date": None})


def draw(panel: Any, lines: list[dict[str, Any]], key: str) -> None:
    """One panel: our presets, the sketch at other sizes, and everything else."""
    groups = {
        "presets": [line for line in lines if line["name"] in PRESETS],
        "other sketches": [line for line in lines if "sketch" in line["name"]],
        "raw top-k, prior tail": [line for line in lines if line["name"].startswith("raw") and "prior" in line["name"]],
        "raw top-k, uniform tail": [
            line for line in lines if line["name"].startswith("raw") and "uniform" in line["name"]
        ],
        "DistillKit polynomial, prior tail": [
            line for line in lines if "polynomial" in line["name"] and "prior" in line["name"]
        ],
        "DistillKit polynomial, uniform tail": [
            line for line in lines if "polynomial" in line["name"] and "uniform" in line["name"]
        ],
    }
    for (label, some), marker in zip(groups.items(), "o.sv^D", strict=True):
        panel.plot([line["bytes_per_row"] for line in some], [line[key] for line in some], marker, label=label)
    for line in groups["presets"]:
        panel.annotate(line["name"], (line["bytes_per_row"], line[key]), textcoords="offset points", xytext=(6, 4))
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.grid(True, which="major", alpha=0.3)
    panel.legend(fontsize=7)


if __name__ == "__main__":
    main()
