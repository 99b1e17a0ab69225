"""Keep beside a student how it was made, and find the checkpoint from which an interrupted run resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from logitstore.core.methods import method_of
from logitstore.core.schedule import scheduled
from logitstore.core.tasks import task_of
from logitstore.errors import BadInput
from logitstore.models.load import pick_dtype
from logitstore.settings.train import TermSettings, TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.local_disk import write_whole
from logitstore.train.loop.checkpoints import SUMMARY_NAME, checkpoints, is_whole
from logitstore.train.loop.names import HONOURED

ARITHMETIC = 2
"""Raised when the same settings come to stand for other numbers. Runs that do not say it began with 1."""


CHANGED = {"dkd": "non_target_weight", "square_head": "eps", "one_for_all": None, "standardised_kl": None}
"""Objectives that arithmetic 2 computes otherwise; where there is an option, only without it."""


OF_TRAINING = (*HONOURED["schedule"], *HONOURED["optimiser"])
"""Arguments of the `trainer:` section that decide how training goes; the others say how a run is watched, kept and sped up."""


ADDED: dict[str, Any] = {
    "lora": None,
    "lora_merge": False,
    "freeze": [],
    "recover_head": None,
    "hooks": [],
    "score": None,
    "pairs": None,
    "window_parts": None,
    "weights": None,
    "pooling": None,
    "own_answers": None,
    "mix": None,
}
"""Settings that older runs do not have, with what they stand for there."""


def conditions(settings: TrainSettings, world_size: int) -> dict[str, Any]:
    """Return what decides how training goes; a run resumes only under the same conditions."""
    freely_changed = {
        "cache",
        "also",
        "contexts",
        "out",
        "select",
        "resume",
        "images",
        "fsdp",
        "workers",
        "evaluate_every",
        "early_stopping",
        "report_to",
        "save_every",
        "keep_checkpoints",
        "trust_remote_code",
    }
    plan = settings.model_dump(mode="json", exclude=freely_changed)
    plan["trainer"] = {name: value for name, value in plan["trainer"].items() if name in OF_TRAINING}
    return {"world_size": world_size, "arithmetic": ARITHMETIC, "plan": plan}


def with_precision(settings: TrainSettings) -> TrainSettings:
    """Return the settings with a number format in place of `auto`: that of the run that is resumed, else what fits the
    device."""
    if settings.precision != "auto":
        return settings
    before = _read_summary(settings.out / SUMMARY_NAME).get("plan", {}).get("precision") if settings.resume else None
    return settings.model_copy(update={"precision": before or pick_dtype("auto", settings.device)})


def with_objective(settings: TrainSettings, cache: Cache) -> TrainSettings:
    """Return the settings with an objective in place of `auto`: that of the run that is resumed, else what suits the cache and
    every further one; forward_kl where they differ, as it leaves out nothing that a cache says."""
    task = task_of(cache.manifest.task)
    if task.keeps is not None:
        return _with_terms(settings, task.pulls)
    if settings.objective != "auto":
        return settings
    before = _summary_of(settings.out).get("plan", {}).get("objective") if settings.resume else None
    if before is None:
        suiting = {_objective_for(settings, each) for each in (cache, *map(Cache, settings.also))}
        before = suiting.pop() if len(suiting) == 1 else "forward_kl"
    return settings.model_copy(update={"objective": before})


def _with_terms(settings: TrainSettings, usual: str | None) -> TrainSettings:
    """Return the settings with an objective on what a cache keeps in place of distributions as the first of `terms`.

    Args:
        settings: of the run.
        usual: what is meant by `auto` where there are no terms.
    """
    for option in ("temperature", "alpha"):
        value = getattr(settings, option)
        if value != TrainSettings.model_fields[option].default:
            raise BadInput(
                f"--{option} {value}: it has no effect on vectors, as {settings.cache} keeps them: it belongs to objectives on "
                "distributions. Leave it out."
            )
    name = (None if settings.terms else usual) if settings.objective == "auto" else settings.objective
    if name in (None, "none"):
        return settings.model_copy(update={"objective": "none"})
    if method_of(name).form != "features":
        raise BadInput(
            f"--objective {name}: it compares distributions, and {settings.cache} keeps a vector of each text. Give "
            "embedding_cosine, embedding_mse, similarity_kl, similarity_mse or relational_distance."
        )
    first = TermSettings(name=name, weight=1.0, options=settings.options)
    return settings.model_copy(update={"objective": "none", "options": {}, "terms": [first, *settings.terms]})


def _objective_for(settings: TrainSettings, cache: Cache) -> str:
    """Return what teaches most from the rows of a cache.

    A student that learns well learns a tail that all rows share with its errors, and is nearer to its teacher without it; at
    temperature 1 only (docs/benchmarks.md, "What students gain").
    """
    row = cache.manifest.row
    if not row.sparsifier.kind.is_distribution:
        return "list_kl"
    is_cut = (
        row.sparsifier.kind.lists.is_chosen and not row.sparsifier.is_estimate and row.sparsifier.k < row.vocabulary
    )
    shares_tail = row.tail.shape in ("prior", "uniform")
    is_plain = settings.alpha != 0 and scheduled(settings.temperature).span == (1.0, 1.0)
    if task_of(cache.manifest.task).learns_lists_alone and is_cut and shares_tail and is_plain:
        return "renormalised_kl"
    return "forward_kl"


def arithmetic_of(out: Path) -> int:
    """Return the arithmetic with which the run of a folder began."""
    return int(_summary_of(out).get("arithmetic", 1))


def _summary_of(out: Path) -> dict[str, Any]:
    """Return what is known of a run: from its folder, else from its newest whole checkpoint; empty for nothing."""
    newest = _newest(out)
    return _read_summary(out / SUMMARY_NAME) or ({} if newest is None else _read_summary(newest / SUMMARY_NAME))


def _newest(out: Path) -> Path | None:
    return next((folder for folder in reversed(checkpoints(out)) if is_whole(folder)), None)


def _refuse_other_arithmetic(settings: TrainSettings) -> None:
    used = [(settings.objective, settings.options), *((term.name, term.options) for term in settings.terms)]
    changed = next((name for name, options in used if name in CHANGED and CHANGED[name] not in options), None)
    if arithmetic_of(settings.out) < ARITHMETIC and changed is not None:
        raise BadInput(
            f"--resume: the run in {settings.out} was begun by a version of logitstore that computes {changed} otherwise. "
            "Finish it with that version, or train again in another folder."
        )


def checkpoint_of(
    settings: TrainSettings, world_size: int, cache: Cache, selection: str | None = None, also: Sequence[Cache] = ()
) -> str | None:
    """Return the checkpoint to resume from, if the plan asks for that; without --resume, refuse a folder with a run in it.

    A checkpoint that was cut off while it was written is passed over for the one before it.
    """
    newest, summary = _newest(settings.out), _summary_of(settings.out)
    if not settings.resume:
        if newest is not None or "figures" in summary:
            raise BadInput(
                f"--out {settings.out}: a run is there already. Choose another folder, or add --resume to continue it."
            )
        return None
    longer = "figures" in summary and (
        is_longer(settings, summary.get("plan", {})) or is_more_patient(settings, summary)
    )
    if "figures" in summary and not longer:
        patience = " or --early-stopping" if "stopped_early" in summary else ""
        raise BadInput(
            f"--resume: the run in {settings.out} is finished. Give a higher --max-steps or --epochs{patience} to go on with "
            "it, or choose another --out to train again."
        )
    if newest is None and longer:
        raise BadInput(
            f"--resume: the run in {settings.out} is finished and has kept no checkpoint to go on from. Train what it saved: "
            f"--student {settings.out}, with another --out."
        )
    if newest is None:
        raise BadInput(f"--resume: no whole checkpoint in {settings.out}. Leave --resume out to start again.")
    if not any(path.name.startswith(("optimizer", "global_step")) for path in newest.iterdir()):
        raise BadInput(
            f"--resume: {newest} holds the student alone, without the state of its optimizer (save_only_model). Train it anew: "
            f"--student {newest}, with another --out."
        )
    _refuse_other_arithmetic(settings)
    _refuse_other_steps(settings, summary, world_size)
    for name, now in conditions(settings, world_size)["plan"].items():
        if (
            name != "accumulate"
            and (before := summary.get("plan", {}).get(name, ADDED.get(name, now))) != now
            and not (longer and name in LENGTH)
        ):
            later = " It can be made longer once it is finished." if name in LENGTH else ""
            raise BadInput(
                f"--resume: the run in {settings.out} began with {name} = {before}, not {now}. Give the same options.{later}"
            )
    read = {"cache": cache.manifest.identity, "samples": len(cache), "selection": selection}
    for name, now in (read | {"also": [each.manifest.identity for each in also]}).items():
        if (before := summary.get(name, [] if name == "also" else now)) != now:
            what = "caches" if name == "also" else "selection" if name == "selection" else "cache"
            raise BadInput(
                f"--resume: the run in {settings.out} began with {name} = {before}, not {now}. Give the same {what}."
            )
    return str(newest)


def refuse_other_features(settings: TrainSettings, taps: list[str]) -> None:
    """Refuse to resume a run that compared other features, because the cache has others now. Raises BadInput."""
    before = _summary_of(settings.out).get("features", taps)
    if before != taps:
        raise BadInput(
            f"--resume: the run in {settings.out} compares {', '.join(before)}, and would now compare {', '.join(taps)}, which "
            f"{settings.cache} has got since. Train again in another folder."
        )


def refuse_other_facts(settings: TrainSettings, facts: Mapping[str, str]) -> None:
    """Refuse to resume a run that read something else besides its cache. Raises BadInput."""
    if not settings.resume:
        return
    before = _summary_of(settings.out)
    for name in facts.keys() | (before.keys() & {"contexts"}):
        if facts.get(name) != before.get(name):
            raise BadInput(
                f"--resume: the run in {settings.out} began with other {name}. Give the same --{name} as before, or none if "
                "there was none."
            )


def _refuse_other_steps(settings: TrainSettings, summary: dict[str, Any], world_size: int) -> None:
    """Refuse processes and an accumulation that together make steps of more or fewer batches than before."""
    ranks = summary.get("world_size", world_size)
    accumulate = summary.get("plan", {}).get("accumulate", settings.accumulate)
    step = ranks * accumulate
    if step == world_size * settings.accumulate:
        return
    began = (
        f"--resume: the run in {settings.out} began with steps of {step} batches (--accumulate {accumulate} on {ranks} "
    )
    began += "process)" if ranks == 1 else "processes)"
    if step % world_size:
        raise BadInput(
            f"{began}, which {world_size} processes cannot share equally. Use a number of processes that divides {step}."
        )
    raise BadInput(
        f"{began}, not {world_size * settings.accumulate}. On {world_size} {'process' if world_size == 1 else 'processes'} "
        f"give --accumulate {step // world_size}."
    )


LENGTH = ("max_steps", "epochs")
"""Settings that say how long a run is."""


def is_longer(settings: TrainSettings, before: dict[str, Any]) -> bool:
    """Return whether a run goes on where one of a plan ended."""
    steps, epochs = before.get("max_steps", -1), before.get("epochs", settings.epochs)
    if settings.max_steps > 0:
        return bool(settings.max_steps > steps)
    return bool(steps < 0 and settings.epochs > epochs)


def is_more_patient(settings: TrainSettings, summary: dict[str, Any]) -> bool:
    """Return whether a run goes on where one of a summary was stopped early."""
    patience = summary.get("stopped_early")
    return patience is not None and (settings.early_stopping is None or settings.early_stopping > patience)


def _read_summary(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_summary(out: Path, summary: dict[str, Any]) -> None:
    """Write beside the student how it was made, and, once training is done, its figures."""
    write_whole(out / SUMMARY_NAME, json.dumps(_plain(summary), indent=1).encode())


def _plain(value: Any) -> Any:
    """Return a value with null in place of NaN, which JSON does not have; figures about labels are NaN where there are
    none."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
