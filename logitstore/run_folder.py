"""What lies beside a student: how it came about, and the checkpoint that an interrupted run goes on from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from logitstore.cache import layout
from logitstore.cache.reader import Cache
from logitstore.errors import BadInput
from logitstore.plans import TrainPlan

SUMMARY_NAME = "logitstore.json"


def conditions(plan: TrainPlan, world_size: int) -> dict[str, Any]:
    """What decides how training goes; a run is gone on with only under the same."""
    freely_changed = {
        "cache",
        "out",
        "select",
        "resume",
        "images",
        "workers",
        "evaluate_every",
        "save_every",
        "trainer",
    }
    return {"world_size": world_size, "plan": plan.model_dump(mode="json", exclude=freely_changed)}


def checkpoint_of(plan: TrainPlan, world_size: int, cache: Cache, selection: str | None = None) -> str | None:
    """The checkpoint to go on from, if that is asked for; without it, a folder with a run in it is refused."""
    # transformers writes the state last, so a checkpoint without it was cut short
    states = [path for path in plan.out.glob("checkpoint-*/trainer_state.json") if path.parent.name[11:].isdigit()]
    found = max((path.parent for path in states), key=lambda folder: int(folder.name[11:]), default=None)
    summary = _read_summary(plan.out / SUMMARY_NAME)
    if not plan.resume:
        if found is not None or "figures" in summary:
            raise BadInput(
                f"--out {plan.out}: a run is there already. Choose another folder, or add --resume to go on with it."
            )
        return None
    if "figures" in summary:
        raise BadInput(f"--resume: the run in {plan.out} is finished. Choose another --out to train again.")
    if found is None:
        raise BadInput(f"--resume: no checkpoint in {plan.out}. Leave --resume out to begin anew.")
    for name, now in conditions(plan, world_size)["plan"].items():
        if (before := summary.get("plan", {}).get(name, now)) != now:
            raise BadInput(
                f"--resume: the run in {plan.out} began with {name} = {before}, not {now}. Give the same options."
            )
    for name, now in {"cache": cache.manifest.identity, "samples": len(cache), "selection": selection}.items():
        if (before := summary.get(name, now)) != now:
            what = "selection" if name == "selection" else "cache"
            raise BadInput(
                f"--resume: the run in {plan.out} began with {name} = {before}, not {now}. Give the same {what}."
            )
    if (before := summary.get("world_size", world_size)) != world_size:
        raise BadInput(f"--resume: the run in {plan.out} began on {before} processes, not {world_size}. Use as many.")
    return str(found)


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Beside the student: what made it, and once it is done, how it went."""
    layout.write_whole(out / SUMMARY_NAME, json.dumps(_plain(summary), indent=1).encode())


def _plain(value: Any) -> Any:
    """With null for NaN, which is no JSON: figures of labels where there are none."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
