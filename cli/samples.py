"""One sample on the terminal: what the teacher says of it, as a table."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from logitstore.format.manifest import Manifest
    from logitstore.report.tokens import Mixed, TokenView

_CELL = 24


def _short(text: str) -> str:
    """Return text that fits a cell: runs of spaces are counted, long tokens are cut."""
    counted = re.sub(r" {4,}", lambda run: f"\u2423\u00d7{len(run[0])}", text)
    return counted if len(counted) <= _CELL else counted[: _CELL - 1] + "\u2026"


def sample_table(views: list[TokenView], manifest: Manifest) -> Table:
    """Return a table of what the teacher says of a sample: distributions, scores of documents, or a vector."""
    if views and views[0].vector is not None:
        table = Table("text", "channels", "codec", "length", "first channels", box=None, pad_edge=False)
        for each in views:
            if (vector := each.vector) is not None:
                first = "  ".join(f"{value:.4g}" for value in vector.first)
                more = " ..." if len(vector.first) < vector.channels else ""
                length = f"{vector.length:.4g}"
                table.add_row(Text(each.text), f"{vector.channels:,}", vector.codec, length, f"{first}{more}")
        return table
    if not manifest.sparsifier.kind.is_distribution:
        table = Table("document", "rank", "score", box=None, pad_edge=False)
        for each in views:
            table.add_row(Text(each.text), str(each.rank), "  ".join(f"{score:.4g}" for _, score in each.alternatives))
        return table
    return _token_table(views, manifest.tokenizer is not None)


def _token_table(views: list[TokenView], is_text: bool) -> Table:
    table = Table(
        "token" if is_text else "sample", "p", "rank", "entropy", "the teacher's top", box=None, pad_edge=False
    )
    for each in views:
        if each.left_out:
            table.add_row(
                Text("\u2026", "dim"), "", "", "", Text(f"{each.left_out:,} tokens of context left out", "dim")
            )
        text = _short(each.text) if is_text else each.text
        if each.entropy is None:
            table.add_row(Text(text), "", "", "", Text("context", "dim"))
            continue
        others = "  ".join(f"{_short(text)}\u00a0{probability:.2f}" for text, probability in each.alternatives)
        if each.probability is None:  # a view without a label
            table.add_row(Text(text), "", "", f"{each.entropy:.2f}", Text(others))
        else:
            style = "green" if each.rank == 1 else "yellow" if each.rank else "red"
            rank = str(each.rank) if each.rank else ">k"
            table.add_row(Text(text, style), f"{each.probability:.3f}", rank, f"{each.entropy:.2f}", Text(others))
    return table


def parts_of_mix(mixed: Mixed) -> str:
    """Say which images a view shows, and the share of each."""
    where = "" if mixed.box is None else ", in a box"
    own, other = (f" ({label})" if label else "" for label in (mixed.label, mixed.partner_label))
    return f"mixed: {mixed.weight:.3f} of its own image{own}, {1 - mixed.weight:.3f} of {mixed.partner}{other}{where}"
