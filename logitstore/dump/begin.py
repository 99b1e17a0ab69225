"""Begin a cache, or continue one: `cache.json` and the shared files are written once, and compared ever after."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from logitstore.errors import BadInput, CacheMismatch, storage_errors
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.sealed import seal, seal_of_bytes, unseal
from logitstore.format.tap import TAPS
from logitstore.store import layout, storage
from logitstore.store.checks.verify import shared_problems
from logitstore.targets.shared import load_shared

Fit = tuple[dict[str, Tensor], int]
"""The shared tensors of a tail, and the count of rows on which they were fitted."""


@contextmanager
def target_folder(out: Path, sources: Sequence[Path] = (), *, resume: bool = True) -> Iterator[None]:
    """Refuse, before any work, a folder that cannot become or is not the cache; remove a new one if the work fails at once.

    Args:
        out: the cache to be.
        sources: caches that are read meanwhile.
        resume: whether a cache that is there may be continued.

    Raises:
        BadInput: `out` is a source or lies inside of one, is a file, holds something else, or may not be continued.
        StorageError: the folder cannot be written.
    """
    for source in sources:
        if out.resolve() == source.resolve():
            raise BadInput(f"--out {out}: it is the source itself. Choose another folder.")
        if out.resolve().is_relative_to(source.resolve()):
            raise BadInput(f"--out {out}: it lies inside of {source}. Choose a folder outside of it.")
    if out.exists() and not out.is_dir():
        raise BadInput(f"--out {out}: a file stands there. Choose another folder.")
    is_new = not out.exists()
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        names = {name for name in os.listdir(out) if not name.startswith(".")}
        (probe := out / f".probe.{os.getpid()}").touch()
        probe.unlink(missing_ok=True)
    if MANIFEST_NAME in names:
        if not resume:
            raise BadInput(f"--out {out}: a cache is there already. Choose another folder, or leave out --no-resume.")
    elif names - {layout.PARTS, layout.SHARED, layout.PILOT, TAPS, "lost+found"}:
        raise BadInput(f"--out {out}: the folder holds other files. Choose an empty or new one.")
    try:
        yield
    except BaseException:
        if is_new:
            with suppress(OSError):
                out.rmdir()  # only an empty folder goes
        raise


def existing_manifest(root: Path, wanted: Manifest, but: set[str] | None = None) -> Manifest | None:
    """Return the manifest that is there, or None.

    Args:
        root: folder of the cache.
        wanted: what this command would write.
        but: entries of the teacher that are not known yet.

    Raises:
        CacheMismatch: it is another plan.
    """
    if not (root / MANIFEST_NAME).exists():
        return None
    manifest = unseal(Manifest, root / MANIFEST_NAME)
    refuse_other_plan(root, manifest, wanted, but)
    return manifest


def refuse_other_plan(out: Path, there: Manifest, wanted: Manifest, but: set[str] | None = None) -> None:
    """Compare two plans, except for what the pilot gave (each machine's may differ in the last bits) and `but`.

    Raises:
        CacheMismatch: the two plans differ.
    """
    old, new = there.identity_fields(), wanted.identity_fields()
    for fields in (old, new):
        del fields["shared"], fields["tail"]["file"], fields["tail"]["pilot_rows"]
        for name in but or ():
            del fields["teacher"][name]
    difference = _first_difference(old, new)
    if difference is not None:
        name, before, now = difference
        raise CacheMismatch(
            f"--out {out}: the cache there has {name} = {before!s:.80}, this command asks for {now!s:.80}. "
            "Choose another folder, or give the same options as before."
        )


def _choices_first(key: str) -> tuple[bool, str]:
    """Sort what the user chose before what only follows from it."""
    return key in ("fields", "fingerprint", "pilot_rows", "samples", "rows", "tokens"), key


def _first_difference(there: Any, here: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return the name and both values of the first entry that differs."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys(), key=_choices_first):
            difference = _first_difference(there.get(key), here.get(key), f"{name}.{key}".lstrip("."))
            if difference is not None:
                return difference
        return None
    return None if there == here else (name, there, here)


def begin(root: Path, wanted: Manifest, files: Callable[[], dict[str, bytes]], fit: Callable[[], Fit]) -> Manifest:
    """Write the shared files and then `cache.json`, or make sure that those that are there belong to the same plan.

    Args:
        root: the cache to be.
        wanted: its manifest, but for the shared files.
        files: gives the shared files that no pilot decides, by their paths in the cache.
        fit: gives what the rows share of their tails. What is stored decides, so it is called once in the life of a cache.

    Raises:
        CacheMismatch: another plan's cache is there, or a shared file is damaged and cannot be made again.
        StorageError: the disk is full or the folder cannot be written.
    """
    existing = existing_manifest(root, wanted)
    if existing is None:
        return _written_first(root, *_with_shared(wanted, files(), *fit()))
    damaged = {problem.file for problem in shared_problems(root, existing)}
    if damaged:
        tail = fit() if existing.tail.file in damaged else (load_shared(root, existing), existing.tail.pilot_rows)
        manifest, contents = _with_shared(wanted, files(), *tail)
        with storage_errors(root):
            for name in sorted(damaged & existing.shared.keys()):
                if existing.shared[name] != manifest.shared.get(name):
                    raise CacheMismatch(
                        f"--out {root}: {name} is damaged, and making it again here gives other bits. "
                        "Run this on the kind of machine that began the cache, or choose a new folder."
                    )
                storage.write_whole(root / name, contents[name])
    return ensure_views(root, wanted.views)


def _written_first(root: Path, manifest: Manifest, contents: dict[str, bytes]) -> Manifest:
    """Write the shared files and the manifest; if another writer was first, its manifest decides."""
    with storage_errors(root):
        for name, content in contents.items():
            storage.write_whole(root / name, content)
        if storage.write_first(root / MANIFEST_NAME, seal(manifest)):
            return manifest
        first = unseal(Manifest, root / MANIFEST_NAME)
        refuse_other_plan(root, first, manifest)
        for name in contents.keys() - first.shared.keys():
            (root / name).unlink(missing_ok=True)
    return ensure_views(root, manifest.views)


def ensure_views(root: Path, views: int) -> Manifest:
    """Return the manifest of a cache with at least `views` views of its data; write it again if it has fewer."""
    with storage_errors(root), storage.alone(root):
        manifest = unseal(Manifest, root / MANIFEST_NAME)
        if manifest.views >= views:
            return manifest
        more = manifest.model_copy(update={"views": views})
        storage.write_whole(root / MANIFEST_NAME, seal(more))
    return more


def _with_shared(
    wanted: Manifest, contents: dict[str, bytes], tail_tensors: dict[str, Tensor], pilot_rows: int
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest with its shared files, the tail's among them, and their contents by their paths.

    The file of the tail is added to `contents`. Its name contains a hash of its contents, so writers never collide.
    """
    tail = wanted.tail.model_copy(update={"file": None, "pilot_rows": pilot_rows})
    if tail_tensors:
        content = safetensors.torch.save(tail_tensors)
        tail = tail.model_copy(update={"file": layout.shared_name("tail", content, ".safetensors")})
        contents = contents | {str(tail.file): content}
    shared = {name: seal_of_bytes(content) for name, content in contents.items()}
    return wanted.model_copy(update={"tail": tail, "shared": shared}), contents
