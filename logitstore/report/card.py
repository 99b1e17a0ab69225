"""What a published cache shows to people: a data card, and the samples of each part as a table without the teacher's rows."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet

from logitstore.core.progress import amount
from logitstore.format.data import OtherData
from logitstore.format.part_record import fidelity_of
from logitstore.store.cache import Cache
from logitstore.store.samples import PartSamples
from logitstore.store.vocabulary import bytes_of_piece, read_pieces

SAMPLES = "samples"
"""The folder of the tables of samples, beside the parts."""


def samples_table(samples: PartSamples, spell: Callable[[Any], str] | None) -> bytes:
    """Return the samples of a part as a Parquet file: `key`, `domain`, `rows`, `tokens`, `nll`, `text` if there is one, and the
    scores and groups that the data give.

    Args:
        samples: of the part.
        spell: gives the text of the tokens [T] of a sample; None where samples are no text.
    """
    columns: dict[str, Any] = {
        "key": pa.array(samples.keys(), pa.string()),
        "domain": pa.array(samples.domains(), pa.string()),
        "rows": pa.array(samples.row_count_S.astype("int64")),
        "tokens": pa.array(samples.lengths_S.astype("int64")),
        "nll": pa.array(samples.nll_S.astype("float32")),
    }
    columns |= samples.told()
    if spell is not None:
        tokens = (getattr(samples.sample(place), "tokens_T") for place in range(len(samples)))  # noqa: B009
        columns["text"] = pa.array([spell(each) for each in tokens], pa.string())
    sink = io.BytesIO()
    parquet.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def speller(cache: Cache) -> Callable[[Any], str] | None:
    """Return what gives the text of tokens [T], from the vocabulary alone; None for a cache that holds no text."""
    tokenizer = cache.manifest.tokenizer
    if tokenizer is None or isinstance(cache.manifest.data, OtherData):
        return None
    pieces = [bytes_of_piece(str(piece), tokenizer.spelling) for piece in read_pieces(cache).to_pylist()]
    return lambda tokens_T: b"".join(pieces[token] for token in tokens_T.tolist()).decode("utf-8", "replace")


def card(cache: Cache, address: str) -> str:
    """Return the data card of a cache, as Markdown with the header that the Hub and `datasets` read. It names no licence."""
    manifest = cache.manifest
    teacher, data = manifest.teacher, manifest.data
    kept = f"preset `{manifest.preset}`" if manifest.preset else f"sparsifier `{manifest.sparsifier.name}`"
    lines = [
        "---",
        "# license: fill in; it depends on the data and on the teacher",
        "tags: [logitstore, distillation]",
        "configs:",
        f"- config_name: {SAMPLES}",
        f"  data_files: {SAMPLES}/*.parquet",
        "---",
        "",
        f"# The answers of {teacher.name}",
        "",
        "A cache of a teacher's answers, to train students from without the teacher, made by "
        "[logitstore](https://pypi.org/project/logitstore/).",
        "",
        "| | |",
        "|---|---|",
        f"| teacher | {teacher.name} ({teacher.architecture}, {teacher.vocabulary:,} tokens or classes, {teacher.dtype}) |",
        f"| weights | `{teacher.fingerprint}` |",
        f"| data | {getattr(data, 'source', None) or 'not named'} (fingerprint `{data.fingerprint}`) |",
        "| licence | not stated: that of the data and that of the teacher both count |",
        f"| samples, rows | {manifest.samples * manifest.views:,}, {manifest.rows * manifest.views:,} |",
        f"| a row | {kept}, {manifest.bytes_per_row} bytes |",
        f"| plan | `{manifest.identity}` |",
        *_fidelity(cache),
        "",
        "## To open it",
        "",
        "```python",
        "import logitstore",
        f'cache = logitstore.open("{address}")',
        "```",
        "",
        "Without logitstore: each `parts/NNNNN.zip` is an uncompressed ZIP file of one part, with `samples.arrow` (Arrow), "
        "`rows.zarr` (Zarr v3) and `part.json`. `cache.json` describes the fields.",
        "",
        f"`{SAMPLES}/` shows the samples without the teacher's rows:",
        "",
        "```python",
        "import datasets",
        f'datasets.load_dataset("{address.removeprefix("hf://").partition("@")[0]}", "{SAMPLES}")',
        "```",
        "",
    ]
    return "\n".join(lines)


def _fidelity(cache: Cache) -> list[str]:
    found = fidelity_of(cache.fidelity)
    if found is None:
        return ["| fidelity | not measured |"]
    shown = [
        f"{name} {found[name]['mean']:.3g} ± {found[name]['error']:.2g}"
        for name in ("kl_t1", "kl_t2", "top1")
        if found.get(name) is not None
    ]
    return [
        f"| fidelity, {amount(found['rows'], 'row')} against the {found['against']} (KL in nats) | {', '.join(shown)} |"
    ]
