"""The presets: named ways to keep a row, for `--preset`. docs/presets.md shows what each costs and loses."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from logitstore.core.registry import suggest
from logitstore.errors import BadInput
from logitstore.format.row import CodecInfo, RowInfo, SparsifierInfo, TailInfo
from logitstore.format.row_kinds import ARGUMENTS, RowKind, row_kind

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"sparsifier": "topk", "k": 1, "tail": "sketch", "sketch_bytes": 6, "logprobs": "levels-8"},
    "small": {"sparsifier": "topk", "k": 4, "tail": "sketch", "sketch_bytes": 43, "logprobs": "levels-8"},
    "faithful": {"sparsifier": "topk", "k": 8, "tail": "sketch", "sketch_bytes": 103, "logprobs": "levels-8"},
    "exact": {"sparsifier": "hidden"},
    "topk": {"sparsifier": "topk", "k": 16, "tail": "prior", "logprobs": "float16", "tail_mass": "float32"},
    "sampled": {"sparsifier": "sampled", "draws": 12, "logprobs": "float16"},
    "archive": {"sparsifier": "topk", "k": 4, "tail": "sketch", "sketch_bytes": 43, "logprobs": "levels-8",
                "layout": "archive"},
    "scores": {"sparsifier": "none"},
}  # fmt: skip
"""The settings of each preset; what the user sets comes before them."""


TYPICAL_KL = {
    "tiny": (0.60, 0.46),
    "small": (0.078, 0.14),
    "faithful": (0.022, 0.056),
    "exact": (0.00039, 0.00018),
    "topk": (0.44, 0.85),
    "archive": (0.078, 0.14),
}
"""Nats of KL to the teacher at temperatures 1 and 2, measured on SmolLM2-135M (docs/benchmarks.md)."""


USUAL: dict[str, Any] = {
    "k": 16,
    "top_p": 0.95,
    "draws": 12,
    "exponent": 1.0,
    "sketch_bytes": 31,
    "rounding": "row",
    "logprobs": "float16",
    "tail_mass": "log2-8",
    "layout": "mapped",
}
"""The settings that hold where neither the preset nor the user gives one."""


def row_of(preset: str, chosen: dict[str, Any], vocabulary: int, width: int | None) -> RowInfo:
    """Return what a row holds.

    Args:
        preset: a name from PRESETS.
        chosen: `RowChoices.choices()` of the command's settings; None where the user chose nothing.
        vocabulary: of the teacher.
        width: channels of its final hidden state, if they are known.

    Raises:
        BadInput: settings that do not go together.
    """
    if preset not in PRESETS:
        raise BadInput(f"--preset {preset}: {suggest(preset, list(PRESETS))}")
    chosen = {name: value for name, value in chosen.items() if value is not None}
    base = dict(PRESETS[preset])
    if chosen.get("sparsifier", base["sparsifier"]) != base["sparsifier"]:
        # with another sparsifier nothing of the preset carries over but how its bytes lie
        base = {name: base[name] for name in ("layout",) if name in base}
    settings = USUAL | base | chosen
    name = settings["sparsifier"]
    kind = row_kind(name)
    tail = settings.get("tail") or kind.tails[0]
    if tail not in kind.tails:
        raise BadInput(f"--tail {tail}: the sparsifier '{name}' goes with {' or '.join(kind.tails)}.")
    _refuse_idle(preset, name, tail, chosen)
    if tail == "head" and width is None:
        raise BadInput(
            "--tail head: the teacher does not say how wide its hidden states are. Use --preset small, or --preset topk "
            "--tail uniform for a teacher that gives lists."
        )
    return _row(
        sparsifier=SparsifierInfo(
            name=name,
            k=_k(kind, settings["k"], "k" in chosen, vocabulary),
            **{argument: settings[argument] for argument in kind.arguments},
        ),
        tail=TailInfo(
            shape=tail,
            bytes=settings["sketch_bytes"] if tail == "sketch" else None,
            width=width if tail == "head" else None,
            rounding="row" if tail == "sketch" and settings["rounding"] == "row" else None,
        ),
        codec=CodecInfo(
            ids="packed" if kind.keeps_ids and vocabulary > 1 << 16 else "plain",
            logprobs=settings["logprobs"] if kind.keeps_logprobs else "float16",
            tail=settings["tail_mass"] if kind.keeps_tail_mass else "float32",
            layout=settings["layout"],
        ),
        vocabulary=vocabulary,
    )


def _k(kind: RowKind, k: int, is_chosen: bool, vocabulary: int) -> int:
    """Return how many tokens a row lists; a k that nobody chose gives way to a small vocabulary."""
    fixed = kind.lists.fixed(vocabulary)
    if fixed is not None:
        return fixed
    k = k if is_chosen else min(k, vocabulary)
    if not 0 <= k <= vocabulary:
        raise BadInput(f"-k {k}: the teacher's vocabulary has {vocabulary} tokens. Give at most that many.")
    return k


def _row(**parts: Any) -> RowInfo:
    try:
        return RowInfo(**parts)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise BadInput(f"these settings do not go together: {reason}.") from error


def _refuse_idle(preset: str, sparsifier: str, tail: str, chosen: dict[str, Any]) -> None:
    """Refuse a setting that would change nothing: it is a misunderstanding."""
    kind = row_kind(sparsifier)
    counts: dict[str, bool] = {
        "k": kind.lists.is_chosen,
        "sketch_bytes": tail == "sketch",
        "rounding": tail == "sketch",
        "logprobs": kind.keeps_logprobs,
        "tail_mass": kind.keeps_tail_mass,
    }
    counts |= {argument: argument in kind.arguments for argument in ARGUMENTS}
    idle = next((name for name in chosen if not counts.get(name, True)), None)
    if idle is not None:
        flag = "-k" if idle == "k" else "--" + idle.replace("_", "-")
        raise BadInput(
            f"{flag} {chosen[idle]}: it changes nothing with the sparsifier '{sparsifier}' and the tail '{tail}' "
            f"(preset '{preset}'). Leave it out."
        )
