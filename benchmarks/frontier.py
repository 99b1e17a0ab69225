"""Bytes of a training token against the share of the gain of live distillation: what the lines of `quality.py` cost, and the
picture of it, docs/frontier.svg, which `page.py` writes. It is plain text, so that it can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

SKETCHES, FEWER, LISTS, DRAWS, PRIORS = (
    "a list and a sketch",
    "fewer rows",
    "a list alone",
    "random draws",
    "a shared tail",
)
GROUPS = {SKETCHES: "#1f77b4", FEWER: "#17a2b8", LISTS: "#d62728", DRAWS: "#2ca02c", PRIORS: "#8c6d31"}
"""The kinds of rows, with their colours."""

FRONTIER: dict[str, tuple[float, str]] = {
    "former tiny, half gold, random:0.2": (2.4, FEWER),
    "8 bytes": (8, SKETCHES),
    "former small, half gold, random:0.2": (11.6, FEWER),
    "former small, half gold, entropy:0.2": (11.6, FEWER),
    "former tiny": (12, SKETCHES),
    "former tiny, nearest levels": (12, SKETCHES),
    "former tiny, 0.1 gold": (12, SKETCHES),
    "tiny": (12, SKETCHES),
    "former tiny, corrected by 4 draws of the error": (22.5, DRAWS),
    "24 bytes": (24, SKETCHES),
    "24 bytes, nearest levels": (24, SKETCHES),
    "top-12, renormalised": (39, LISTS),
    "small": (58, SKETCHES),
    "former small": (58, SKETCHES),
    "small, directions from logits": (58, SKETCHES),
    "small, from 64 probes": (58, SKETCHES),
    "top-8, prior corrected by 14 draws of the error": (59, DRAWS),
    "top-8, prior corrected by 8 draws of the tail": (59, DRAWS),
    "top-8, 13 B sketch, corrected by 8 draws of the error": (59, DRAWS),
    "top-8, 13 B sketch, corrected by 5 draws of the tail": (60, DRAWS),
    "sampled": (62, DRAWS),
    "hybrid": (63, DRAWS),
    "top-20, renormalised": (63, LISTS),
    "top-20, prior by the first token": (63, PRIORS),
    "topk": (70, PRIORS),
    "top-40, renormalised": (123, LISTS),
    "faithful": (130, SKETCHES),
    "former faithful": (130, SKETCHES),
    "top-50, renormalised": (206, LISTS),
    "top-80, renormalised": (243, LISTS),
}
"""Bytes of the targets for each token of training, and the kind. Where a fifth of the rows is kept, a fifth of a row's. A draw
of the tail takes 4 bytes, id and weight; one of the error 17 bits, id and sign, and 2 bytes a row."""

LABELS = {
    "former tiny, half gold, random:0.2": (8, 4, "12 bytes, a fifth of the rows"),
    "8 bytes": (-8, -9, "8 bytes"),
    "former small, half gold, random:0.2": (8, 12, "small, a fifth of the rows"),
    "tiny": (9, 4, "tiny"),
    "24 bytes": (9, 6, "24 bytes"),
    "small": (-26, -11, "small"),
    "faithful": (-20, -11, "faithful"),
    "topk": (9, 4, "topk"),
    "sampled": (-58, 2, "sampled"),
    "hybrid": (9, 4, "hybrid"),
    "top-20, renormalised": (9, 6, "top-20"),
    "top-40, renormalised": (9, 6, "top-40"),
    "top-50, renormalised": (9, 6, "top-50"),
    "top-12, renormalised": (-46, 5, "top-12"),
    "top-80, renormalised": (-20, -9, "top-80"),
}
"""Words beside points at T = 1: how far to the right, how far down, what."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 400, 60, 745, 20, 350
LEAST, MOST, FLOOR, CEILING = 2.0, 300.0, 0.2, 1.08
BYTES, SHARES = (2, 5, 10, 20, 50, 100, 200), (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Point:
    """A line of `quality.py`: its name, the temperature of training and judging, and the mean share of the gain."""

    name: str
    temperature: float
    share: float


def picture(points: Sequence[Point]) -> str:
    """Return an SVG of all points within the axes: full at temperature 1, hollow at 2."""
    body = [_grid()]
    for group, colour in GROUPS.items():
        own = [point for point in points if FRONTIER[point.name][1] == group and FLOOR <= point.share <= CEILING]
        body += [_mark(point, colour) for point in own]
    body.append(_legend())
    style = "font-family: sans-serif; font-size: 12px"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'style="{style}">\n<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _mark(point: Point, colour: str) -> str:
    x, y = _x(FRONTIER[point.name][0]), _y(point.share)
    fill = colour if point.temperature == 1 else "#ffffff"
    title = f"{point.name}, T = {point.temperature:g}: {point.share:.0%}"
    mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="1.5">'
    mark += f"<title>{escape(title)}</title></circle>"
    if point.temperature == 1 and point.name in LABELS:
        right, down, words = LABELS[point.name]
        mark += f'\n<text x="{x + right:.1f}" y="{y + down:.1f}" fill="{colour}">{escape(words)}</text>'
    return mark


def _grid() -> str:
    lines = []
    for size in BYTES:
        x = f"{_x(size):.1f}"
        lines.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{BOTTOM}" stroke="#e4e4e4"/>')
        lines.append(f'<text x="{x}" y="{BOTTOM + 17}" text-anchor="middle">{size}</text>')
    for share in SHARES:
        y = _y(share)
        dashes = ' stroke-dasharray="6 4"' if share == 1 else ""
        colour = "#808080" if share == 1 else "#e4e4e4"
        lines.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}" stroke="{colour}"{dashes}/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    lines.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">bytes a training token</text>')
    middle = (TOP + BOTTOM) / 2
    lines.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        "share of the gain of the live teacher</text>"
    )
    lines.append(f'<text x="{LEFT + 6}" y="{_y(1) - 6:.1f}" fill="#606060">live teacher</text>')
    return "\n".join(lines)


def _legend() -> str:
    rows = [(colour, colour, f"{group}, T = 1") for group, colour in GROUPS.items()]
    rows.append(("#606060", "#ffffff", "hollow: trained and judged at T = 2"))
    out = []
    for place, (stroke, fill, words) in enumerate(rows):
        y = BOTTOM - 16 * (len(rows) - place) + 6
        out.append(
            f'<circle cx="{RIGHT - 230}" cy="{y - 4}" r="4.5" fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
        )
        out.append(f'<text x="{RIGHT - 220}" y="{y}">{escape(words)}</text>')
    return "\n".join(out)


def _x(size: float) -> float:
    return LEFT + (RIGHT - LEFT) * math.log(size / LEAST) / math.log(MOST / LEAST)


def _y(share: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * (share - FLOOR) / (CEILING - FLOOR)
