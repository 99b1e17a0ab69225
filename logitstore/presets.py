"""Named ways to keep a row: what `--preset` stands for. docs/presets.md shows what each costs and loses."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from logitstore.errors import BadInput
from logitstore.fields import TAILS, CodecInfo, RowInfo, SparsifierInfo, TailInfo
from logitstore.registry import suggest

PRESETS: dict[str, dict[str, Any]] = {
    "small": {"sparsifier": "topk", "k": 8, "tail": "sketch", "sketch_bytes": 31, "logprobs": "levels-8"},
    "faithful": {"sparsifier": "topk", "k": 12, "tail": "sketch", "sketch_bytes": 91, "logprobs": "levels-8"},
    "exact": {"sparsifier": "hidden"},
    "topk": {"sparsifier": "topk", "k": 16, "tail": "prior", "logprobs": "float16", "tail_mass": "float32"},
    "sampled": {"sparsifier": "sampled", "draws": 12, "logprobs": "float16"},
    "archive": {"sparsifier": "topk", "k": 8, "tail": "sketch", "sketch_bytes": 31, "logprobs": "levels-8",
                "layout": "archive"},
    "scores": {"sparsifier": "none"},
}  # fmt: skip
"""What each preset sets; whatever the user sets comes before it."""

TYPICAL_KL = {
    "small": (0.14, 0.18),
    "faithful": (0.046, 0.072),
    "exact": (0.00039, 0.00018),
    "topk": (0.44, 0.85),
    "archive": (0.14, 0.18),
}
"""Nats of KL to the teacher at temperatures 1 and 2, measured on SmolLM2-135M (docs/benchmarks.md)."""

USUAL: dict[str, Any] = {
    "k": 16,
    "top_p": 0.95,
    "draws": 12,
    "exponent": 1.0,
    "sketch_bytes": 31,
    "logprobs": "float16",
    "tail_mass": "log2-8",
    "layout": "mapped",
}
"""Where neither the preset nor the user says anything."""


def row_of(preset: str, chosen: dict[str, Any], vocabulary: int, width: int | None) -> RowInfo:
    """What a row holds.

    Args:
        preset: a name from PRESETS.
        chosen: `RowChoices.choices()` of the plan; None where nothing was said.
        vocabulary: of the teacher.
        width: channels of its final hidden state, if they are known.

    Raises:
        BadInput: settings that do not go together.
    """
    if preset not in PRESETS:
        raise BadInput(f"--preset {preset}: {suggest(preset, list(PRESETS))}")
    said = {name: value for name, value in chosen.items() if value is not None}
    base = dict(PRESETS[preset])
    if said.get("sparsifier", base["sparsifier"]) != base["sparsifier"]:
        # another sparsifier is another thing: nothing of the preset carries over but how its bytes lie
        base = {name: base[name] for name in ("layout",) if name in base}
    asked = USUAL | base | said
    name = asked["sparsifier"]
    tail = asked.get("tail") or TAILS[name][0]
    if tail not in TAILS[name]:
        raise BadInput(f"--tail {tail}: the sparsifier '{name}' goes with {' or '.join(TAILS[name])}.")
    _refuse_idle(preset, name, tail, said)
    if tail in ("sketch", "head") and width is None:
        raise BadInput(f"--tail {tail}: the teacher does not say how wide its hidden states are. Use --preset topk.")
    k = {"sampled": 0, "hidden": 0, "none": 0, "dense": vocabulary}.get(name, asked["k"])
    if "k" not in said:
        k = min(k, vocabulary)
    if not 0 <= k <= vocabulary:
        raise BadInput(f"-k {k}: the teacher's vocabulary has {vocabulary} tokens. Give at most that many.")
    draws = name in ("sampled", "hybrid")
    return _row(
        sparsifier=SparsifierInfo(
            name=name,
            k=k,
            top_p=asked["top_p"] if name == "topp" else None,
            draws=asked["draws"] if draws else None,
            exponent=asked["exponent"] if draws else None,
        ),
        tail=TailInfo(
            shape=tail,
            bytes=asked["sketch_bytes"] if tail == "sketch" else None,
            width=width if tail == "head" else None,
        ),
        codec=CodecInfo(
            ids="plain" if vocabulary <= 1 << 16 or name in ("dense", "hidden", "none") else "packed",
            logprobs="float16" if name in ("hidden", "none") else asked["logprobs"],
            tail=asked["tail_mass"] if name in ("topk", "topp") else "float32",
            layout=asked["layout"],
        ),
        vocabulary=vocabulary,
    )


def _row(**parts: Any) -> RowInfo:
    try:
        return RowInfo(**parts)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise BadInput(f"these settings do not go together: {reason}.") from error


def _refuse_idle(preset: str, sparsifier: str, tail: str, said: dict[str, Any]) -> None:
    """A setting that would change nothing is a misunderstanding."""
    where = {
        "k": sparsifier in ("topk", "topp", "hybrid"),
        "top_p": sparsifier == "topp",
        "draws": sparsifier in ("sampled", "hybrid"),
        "exponent": sparsifier in ("sampled", "hybrid"),
        "sketch_bytes": tail == "sketch",
        "logprobs": sparsifier not in ("hidden", "none"),
        "tail_mass": sparsifier in ("topk", "topp"),
    }
    idle = next((name for name in said if not where.get(name, True)), None)
    if idle is not None:
        flag = "-k" if idle == "k" else "--" + idle.replace("_", "-")
        raise BadInput(
            f"{flag} {said[idle]}: it changes nothing with the sparsifier '{sparsifier}' and the tail '{tail}' "
            f"(preset '{preset}'). Leave it out."
        )
