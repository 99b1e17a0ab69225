"""Caches of very many parts: the files of one real part, over and over by hard links."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from logitstore.format.manifest import Manifest
from logitstore.format.part_record import RECORD_NAME, PartRecord
from logitstore.format.sealed import seal, unseal
from logitstore.format.tap import TAP_NAME, TapInfo, tap_folder
from logitstore.store.cache import Cache
from logitstore.store.layout import part_folder
from tests.parts.specification import tamper


def linked_cache(source: Path, out: Path, parts: int) -> Cache:
    """Make a cache of as many parts as wanted, with all taps of the source; each part is the first of the source."""
    shutil.copytree(source, out, ignore=lambda folder, names: ["parts"] if "parts" in names else [])
    facts = json.loads((part_folder(source, 0) / RECORD_NAME).read_bytes())
    counts = {name: facts[name] * parts for name in ("samples", "rows", "tokens")}
    tamper(out / "cache.json", lambda plan: plan.update(counts, samples_per_part=facts["samples"]))
    identity = Cache(out).manifest.identity
    _link(source, out, parts, identity)
    for name in os.listdir(out / "taps"):
        folder = tap_folder(name)
        tamper(out / folder / TAP_NAME, lambda tap: tap.update(plan=identity))
        _link(source / folder, out / folder, parts, unseal(TapInfo, out / folder / TAP_NAME).identity)
    assert unseal(Manifest, out / "cache.json").parts == parts
    return Cache(out)


def _link(source: Path, out: Path, parts: int, identity: str) -> None:
    first = part_folder(source, 0)
    record = unseal(PartRecord, first / RECORD_NAME).model_copy(update={"plan": identity})
    for number in range(parts):
        folder = part_folder(out, number)
        for name in record.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(first / name, folder / name)
        (folder / RECORD_NAME).write_bytes(seal(record.model_copy(update={"part": number})))
