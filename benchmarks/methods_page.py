"""Write the tables of docs/methods.md, from the declarations that `train` itself uses, and from the recipes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from logitstore.core.methods import METHODS
from logitstore.core.objectives.method import Method
from logitstore.errors import BadInput
from logitstore.format.presets import row_of
from logitstore.settings.recipe import about, named_recipe, recipe_names
from logitstore.train.objectives.exactness import check_method, exactness

VOCABULARY, WIDTH = 49152, 576
"""Sizes of any teacher; no cell depends on them."""

ON = {
    "exact": ("exact", {}),
    "small, faithful, topk": ("small", {}),
    "topk without a tail": ("topk", {"tail": "none"}),
    "sampled": ("sampled", {}),
}
"""Kinds of caches: the preset, and its changed settings."""


def methods() -> str:
    """Return the table of objectives: where each comes from, and what it needs."""
    rows = [
        (f"`{name}`", method.says, method.paper, _needs(method), _options(method)) for name, method in METHODS.items()
    ]
    return _table(("objective", "loss of a row", "from", "needs", "options"), rows)


def truth() -> str:
    """Return the table of how true every objective on logits is on each kind of cache."""
    rows = [
        (f"`{name}`", *(_standing(name, *kind) for kind in ON.values()))
        for name, method in METHODS.items()
        if method.form == "rows"
    ]
    return _table(("objective", *ON), rows)


def recipes() -> str:
    """Return the table of recipes."""
    rows = [
        (f"`{name}`", header["method"], header["paper"], header["needs"], ", ".join(_uses(name)))
        for name in recipe_names()
        for header in [about(name)]
    ]
    return _table(("recipe", "what it is", "paper", "needs", "objectives"), rows)


def _needs(method: Method) -> str:
    wanted = [
        ("a tail", method.needs_tail),
        ("listed tokens", method.needs_list),
        (
            "the stored distribution whole",
            method.needs_distribution and method.form == "rows" and not (method.needs_tail or method.needs_list),
        ),
        ("gold tokens", method.needs_gold),
        (f"taps: {method.taps}", bool(method.taps)),
        (f"{method.rows_together} rows together", bool(method.rows_together)),
    ]
    return ", ".join(text for text, is_so in wanted if is_so)


def _options(method: Method) -> str:
    return ", ".join(f"`{name}` {'unset' if default is None else default}" for name, default in method.options.items())


def _standing(name: str, preset: str, changes: dict[str, Any]) -> str:
    row = row_of(preset, changes, VOCABULARY, WIDTH)
    try:
        check_method(name, row, 1.0)
    except BadInput:
        return "refused"
    return exactness(name, row)[0]


def _uses(name: str) -> list[str]:
    settings = yaml.safe_load(named_recipe(name).read_text(encoding="utf-8")).get("train", {})
    first = (
        [settings["objective"]] if settings.get("objective", "none") != "none" and settings.get("alpha", 1) != 0 else []
    )
    return [f"`{each}`" for each in [*first, *(term["name"] for term in settings.get("terms", ()))]]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))
