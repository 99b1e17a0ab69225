"""Beginning a cache, or continuing one: `cache.json` and the shared files, written once and compared ever after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from logitstore.core.progress import Progress, Step
from logitstore.dump.fit import fit_tail
from logitstore.dump.pilot_file import kept_pilot
from logitstore.dump.task import Prepared
from logitstore.dump.teachers.teacher import Teacher
from logitstore.errors import CacheMismatch, storage_errors
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.sealed import seal, seal_of_bytes, unseal
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout, storage
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import shared_problems
from logitstore.targets.shared import load_shared


def existing_manifest(settings: DumpSettings, prepared: Manifest) -> Manifest | None:
    """The manifest that is there, after comparing it with what this plan would write."""
    if not (settings.out / MANIFEST_NAME).exists():
        return None
    found = unseal(Manifest, settings.out / MANIFEST_NAME)
    refuse_other_plan(settings.out, found, prepared, but={"fingerprint"})
    return found


def refuse_other_plan(out: Path, found: Manifest, wanted: Manifest, but: set[str] | None = None) -> None:
    """Compare two plans, except for what the pilot gave (each machine's may differ in the last bits) and `but`.

    Raises:
        CacheMismatch: they differ.
    """
    there, here = found.identity_fields(), wanted.identity_fields()
    for identity_fields in (there, here):
        del identity_fields["shared"], identity_fields["tail"]["file"], identity_fields["tail"]["pilot_rows"]
        for name in but or ():
            del identity_fields["teacher"][name]
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
    settings: DumpSettings, prepared: Prepared, existing: Manifest | None, teacher: Teacher, progress: Progress
) -> Manifest:
    """Write the shared files and then `cache.json`, or make sure that those which are there are this plan's."""
    progress(Step(stage="fingerprint", done=0, total=1))
    teacher_info = prepared.manifest.teacher.model_copy(update={"fingerprint": teacher.fingerprint()})
    wanted = prepared.manifest.model_copy(update={"teacher": teacher_info})
    if existing is not None:
        refuse_other_plan(settings.out, existing, wanted)
        if not shared_problems(settings.out, existing):
            return ensure_views(settings.out, wanted.views)
    if (kept := kept_pilot(settings.out, wanted)) is not None:
        shared, rows = kept
        wanted = wanted.model_copy(update={"tail": wanted.tail.model_copy(update={"pilot_rows": rows})})
    else:
        shared = fit_tail(wanted, prepared.pilot(settings.pilot_rows), prepared.batches, teacher, progress)
    manifest, contents = with_shared(wanted, prepared.files(), shared)
    if existing is not None and existing.shared != manifest.shared:
        raise CacheMismatch(
            f"--out {settings.out}: a shared file is damaged, and fitting it again here gives other bits. "
            "Run this on the kind of machine that began the cache, or dump into a new folder."
        )
    with storage_errors(settings.out):
        for name, content in contents.items():
            storage.write_whole(settings.out / name, content)
        if existing is not None:
            return ensure_views(settings.out, manifest.views)
        if storage.write_first(settings.out / MANIFEST_NAME, seal(manifest)):
            return manifest
        first = unseal(Manifest, settings.out / MANIFEST_NAME)
        refuse_other_plan(settings.out, first, manifest)
        for name in contents.keys() - first.shared.keys():
            (settings.out / name).unlink(missing_ok=True)
    return ensure_views(settings.out, manifest.views)


def ensure_views(root: Path, views: int) -> Manifest:
    """The manifest of a cache that is to have at least so many views; written anew where it has fewer."""
    with storage_errors(root), storage.alone(root):
        found = unseal(Manifest, root / MANIFEST_NAME)
        if found.views >= views:
            return found
        more = found.model_copy(update={"views": views})
        storage.write_whole(root / MANIFEST_NAME, seal(more))
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


Fit = tuple[dict[str, Tensor], int]
"""The shared tensors of a tail, and the rows they were fitted on."""


def begin(out: Path, source: Cache, wanted: Manifest, fit: Callable[[], Fit]) -> Manifest:
    """Write the shared files and then `cache.json`, or make sure that those which are there are this plan's.

    Args:
        out: the cache to be.
        source: the cache whose vocabulary and tokenizer it has.
        wanted: its plan, but for the shared files.
        fit: gives what its rows share; what is stored decides, so this is called once in the life of a cache.

    Raises:
        CacheMismatch: another plan's cache is there, or a shared file of it is damaged and cannot be made again.
        StorageError: the disk is full or the folder cannot be written.
    """
    found, broken = None, set()
    if (out / MANIFEST_NAME).exists():
        found = unseal(Manifest, out / MANIFEST_NAME)
        refuse_other_plan(out, found, wanted)
        broken = {problem.file for problem in shared_problems(out, found)}
        if not broken:
            return ensure_views(out, wanted.views)
    if found is not None and found.tail.file not in broken:
        manifest, contents = _with_shared(wanted, source, load_shared(out, found), found.tail.pilot_rows)
    else:
        manifest, contents = _with_shared(wanted, source, *fit())
    with storage_errors(out):
        if found is not None:
            for name in sorted(broken & found.shared.keys()):
                if found.shared[name] != manifest.shared.get(name):
                    raise CacheMismatch(
                        f"--out {out}: {name} is damaged, and other bytes would be written now. Choose a new folder."
                    )
                storage.write_whole(out / name, contents[name])
            return ensure_views(out, wanted.views)
        for name, content in contents.items():
            storage.write_whole(out / name, content)
        if storage.write_first(out / MANIFEST_NAME, seal(manifest)):
            return manifest
        first = unseal(Manifest, out / MANIFEST_NAME)
        refuse_other_plan(out, first, manifest)
        for name in contents.keys() - first.shared.keys():
            (out / name).unlink(missing_ok=True)
    return ensure_views(out, wanted.views)


def _with_shared(
    wanted: Manifest, source: Cache, tensors: dict[str, Tensor], pilot_rows: int
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with its shared files, and their contents: the source's, but for the tail's."""
    old = source.manifest
    contents = {name: layout.inside(source.path, name).read_bytes() for name in old.shared if name != old.tail.file}
    tail = wanted.tail.model_copy(update={"file": None, "pilot_rows": pilot_rows})
    return with_shared(wanted.model_copy(update={"tail": tail}), contents, tensors)
