"""What a cache is, as plain JSON, from the manifest and the commit records alone."""

from __future__ import annotations

from typing import Any

from logitstore.format.part_record import entropy_edges, fidelity_of
from logitstore.store.cache import Cache
from logitstore.store.layout import ROWS_FOLDER, SAMPLES_FILE
from logitstore.store.taps import Tap


def summarise(cache: Cache) -> dict[str, Any]:
    """Return a summary of a cache as plain JSON; everything comes from the manifest and the commit records.

    Figures of gold tokens or labels are None where there are none.
    """
    manifest, sums, rows = cache.manifest, cache.sums, cache.rows
    counted, judged = max(rows, 1), rows - sums.no_gold
    # of lists it is told of all rows how many list the gold token; its logprob is known of those alone, which is no mean
    named = judged if manifest.knows_gold else rows
    kind = manifest.sparsifier.kind
    disk = {
        "rows": cache.index.bytes_below(f"{ROWS_FOLDER}/"),
        "samples": cache.index.bytes_below(SAMPLES_FILE),
        "shared": sum(seal.bytes for seal in manifest.shared.values()),
    }
    return {
        "path": str(cache.path),
        "complete": cache.complete,
        "parts": {"committed": cache.index.parts, "planned": manifest.parts},
        "recoded_from": manifest.recoded_from,
        "imported": manifest.imported and manifest.imported.model_dump(mode="json"),
        "merged_from": _members(cache),
        "chosen_by": manifest.chosen_by,
        "teacher": manifest.teacher.model_dump(mode="json", exclude={"config"}),
        "task": manifest.task,
        "tokenizer": manifest.tokenizer.model_dump(mode="json") if manifest.tokenizer else None,
        "data": manifest.data.model_dump(mode="json"),
        "view": manifest.view and manifest.view.model_dump(mode="json") | {"spelled": manifest.view.spelled},
        "images": manifest.view and manifest.samples,
        "views": manifest.views,
        "samples": len(cache),
        "rows": rows,
        "tokens": int(cache.index.facts()["tokens"].sum()),
        "bytes": sum(disk.values()),
        "disk": disk,
        "bytes_per_row": manifest.bytes_per_row,
        "target_bytes_per_row": manifest.target_bytes_per_row,
        "preset": manifest.preset,
        "sparsifier": manifest.sparsifier.model_dump(mode="json"),
        "tail": manifest.tail.model_dump(mode="json"),
        "codec": manifest.codec.model_dump(mode="json"),
        "fidelity": fidelity_of(cache.fidelity),
        "mean_tail_mass": sums.tail_mass / counted if kind.keeps_rows else None,
        "mean_entropy": sums.entropy / counted,
        "gold_cross_entropy": -sums.gold_logprob / max(judged - sums.gold_impossible, 1)
        if judged and manifest.knows_gold
        else None,
        "gold_impossible": sums.gold_impossible,
        "no_gold": sums.no_gold,
        "gold_is_top1": sums.gold_is_top1 / named if named else None,
        "gold_is_listed": sums.gold_is_listed / named if named and kind.keeps_logprobs else None,
        "entropy_histogram": {
            "edges": [round(float(edge), 4) for edge in entropy_edges(manifest.teacher.vocabulary)],
            "rows": sums.entropy_histogram,
        },
        "fields": {name: info.model_dump(mode="json") for name, info in manifest.fields.items()},
        "taps": {name: _tap(tap) for name, tap in cache.taps.items()},
        "created_by": manifest.created_by,
    }


def _members(cache: Cache) -> list[dict[str, Any]] | None:
    """Return the caches that were merged into this one; where rows were chosen among them, with the rows from each."""
    if cache.manifest.merged_from is None:
        return None
    members = [member.model_dump(mode="json") for member in cache.manifest.merged_from]
    if cache.manifest.chosen_by is not None:
        counts = [record.chosen or [0] * len(members) for record in cache.records]
        for place, member in enumerate(members):
            member["rows"] = sum(each[place] for each in counts)
    return members


def _tap(tap: Tap) -> dict[str, Any]:
    """Return a summary of a tap as plain JSON."""
    return {
        "codec": tap.info.codec,
        "width": tap.info.width,
        "bytes_per_row": tap.info.bytes_per_row,
        "places": tap.info.places,
        "unit": tap.info.unit,
        "layout": tap.info.layout,
        "parts": tap.index.parts,
        "bytes": tap.index.bytes_below("") + sum(seal.bytes for seal in tap.info.shared.values()),
    }
