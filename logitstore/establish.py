"""Beginning a cache, or going on with one: `cache.json` and the shared files, written once and compared ever after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from logitstore.cache import layout
from logitstore.cache.verify import shared_problems
from logitstore.draft import Draft
from logitstore.errors import CacheMismatch, storage_errors
from logitstore.manifest import MANIFEST_NAME, Manifest
from logitstore.pilot import fit_tail, kept_pilot
from logitstore.plans import DumpPlan
from logitstore.sealed import seal, seal_of_bytes, unseal
from logitstore.teachers.teacher import Teacher
from logitstore.types import Progress, Step


def existing_manifest(plan: DumpPlan, drafted: Manifest) -> Manifest | None:
    """The manifest that is there, after comparing it with what this plan would write."""
    if not (plan.out / MANIFEST_NAME).exists():
        return None
    found = unseal(Manifest, plan.out / MANIFEST_NAME)
    refuse_other_plan(plan.out, found, drafted, but={"fingerprint"})
    return found


def refuse_other_plan(out: Path, found: Manifest, wanted: Manifest, but: set[str] | None = None) -> None:
    """Compare two plans, except for what the pilot gave (each machine's may differ in the last bits) and `but`.

    Raises:
        CacheMismatch: they differ.
    """
    there, here = found.essence(), wanted.essence()
    for essence in (there, here):
        del essence["shared"], essence["tail"]["file"], essence["tail"]["pilot_rows"]
        for name in but or ():
            del essence["teacher"][name]
    difference = _first_difference(there, here)
    if difference is not None:
        name, old, new = difference
        raise CacheMismatch(
            f"--out {out}: the cache there has {name} = {old!s:.80}, this command asks for {new!s:.80}. "
            "Choose another folder, or give the same options as before."
        )


def _telling_first(key: str) -> tuple[bool, str]:
    """Sorts what the user set before what only follows from it."""
    return key in ("fields", "fingerprint", "pilot_rows", "samples", "rows", "tokens"), key


def _first_difference(there: Any, here: Any, name: str = "") -> tuple[str, Any, Any] | None:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys(), key=_telling_first):
            if (found := _first_difference(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))) is not None:
                return found
        return None
    return None if there == here else (name, there, here)


def establish(
    plan: DumpPlan, drafted: Draft, existing: Manifest | None, teacher: Teacher, progress: Progress
) -> Manifest:
    """Write the shared files and then `cache.json`, or make sure that those which are there are this plan's."""
    progress(Step(stage="fingerprint", done=0, total=1))
    teacher_info = drafted.manifest.teacher.model_copy(update={"fingerprint": teacher.fingerprint()})
    wanted = drafted.manifest.model_copy(update={"teacher": teacher_info})
    if existing is not None:
        refuse_other_plan(plan.out, existing, wanted)
        if not shared_problems(plan.out, existing):
            return with_views(plan.out, wanted.views)
    if (kept := kept_pilot(plan.out, wanted)) is not None:
        shared, rows = kept
        wanted = wanted.model_copy(update={"tail": wanted.tail.model_copy(update={"pilot_rows": rows})})
    else:
        shared = fit_tail(wanted, drafted.pilot(plan.pilot_rows), drafted.batches, teacher, progress)
    manifest, contents = with_shared(wanted, drafted.files(), shared)
    if existing is not None and existing.shared != manifest.shared:
        raise CacheMismatch(
            f"--out {plan.out}: a shared file is damaged, and fitting it again here gives other bits. "
            "Run this on the kind of machine that began the cache, or dump into a new folder."
        )
    with storage_errors(plan.out):
        for name, content in contents.items():
            layout.write_whole(plan.out / name, content)
        if existing is not None:
            return with_views(plan.out, manifest.views)
        if layout.write_first(plan.out / MANIFEST_NAME, seal(manifest)):
            return manifest
        first = unseal(Manifest, plan.out / MANIFEST_NAME)
        refuse_other_plan(plan.out, first, manifest)
        for name in contents.keys() - first.shared.keys():
            (plan.out / name).unlink(missing_ok=True)
    return with_views(plan.out, manifest.views)


def with_views(root: Path, views: int) -> Manifest:
    """The manifest of a cache that is to have at least so many views; written anew where it has fewer."""
    with storage_errors(root), layout.alone(root):
        found = unseal(Manifest, root / MANIFEST_NAME)
        if found.views >= views:
            return found
        more = found.model_copy(update={"views": views})
        layout.write_whole(root / MANIFEST_NAME, seal(more))
    return more


def with_shared(
    wanted: Manifest, contents: dict[str, bytes], tail_tensors: dict[str, torch.Tensor]
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with its shared files, the tail's among them, and their contents by their paths.

    Names carry the contents' hash, so writers never collide.
    """
    tail = wanted.tail
    if tail_tensors:
        content = safetensors.torch.save(tail_tensors)
        tail = tail.model_copy(update={"file": layout.shared_name("tail", content, ".safetensors")})
        contents = contents | {str(tail.file): content}
    shared = {name: seal_of_bytes(content) for name, content in contents.items()}
    return wanted.model_copy(update={"tail": tail, "shared": shared}), contents
