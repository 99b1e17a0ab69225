"""Begin or resume the taps of a cache, and write their parts.

Axes: N rows, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import safetensors.torch
import torch
from transformers import PretrainedConfig

from logitstore.core.progress import NO_STOPWATCH, Progress, Step, Stopwatch
from logitstore.core.tasks import task_of
from logitstore.core.types import Array, Asked
from logitstore.dump.ask import FINITE, Encode, ask_features
from logitstore.dump.fit import moments_for, shared_of
from logitstore.dump.task import dump_task
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import BadInput, CacheMismatch, ModelError, storage_errors
from logitstore.format.manifest import Manifest
from logitstore.format.sealed import seal, seal_of_bytes
from logitstore.format.tap import DEFAULT_CODEC, TAP_NAME, TapInfo, directions_of, needs_pilot, tap_fields, tap_folder
from logitstore.format.tap_names import FINAL
from logitstore.models.moments import Moments
from logitstore.models.shape import shape_of
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import shared_problems
from logitstore.store.storage import Storage, read_sealed
from logitstore.store.taps import Tap, read_tap, tap_folders
from logitstore.store.writer import StagedPart
from logitstore.targets.rows import split


@dataclass(frozen=True, kw_only=True)
class TapRequest:
    """A request for taps.

    Attributes:
        names: names of the taps.
        codec: name of the codec. None stands for the codec of an existing tap, and bfloat16 for a new tap.
    """

    names: Sequence[str]
    codec: str | None


def taps_wanted(settings: DumpSettings, config: PretrainedConfig) -> TapRequest:
    """Return the features of the teacher that are kept beside its answers. Raises BadInput: see `DumpTask.taps`."""
    names = dump_task(settings.task).taps(lambda: config, settings.hidden, settings.qkv)
    return TapRequest(names=names, codec=settings.tap_codec)


def tap_bytes(settings: DumpSettings, config: PretrainedConfig, places: float = 1.0) -> int:
    """Return the bytes per row of the taps that are asked for, estimated from the teacher's configuration; `places` is how
    many vectors all but `final` have for each row."""
    wanted = taps_wanted(settings, config)
    if not wanted.names:
        return 0
    text = config.get_text_config()
    if wanted.names == [FINAL]:
        width = int(shape_of(config)["hidden_size"])
        return sum(info.bytes for info in tap_fields(wanted.codec or DEFAULT_CODEC, width).values())
    heads = int(getattr(text, "num_attention_heads", None) or 1)
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    widths = {"query": heads * head_width, "key": key_heads * head_width, "value": key_heads * head_width}
    fields = (
        tap_fields(wanted.codec or DEFAULT_CODEC, int(widths.get(name.partition("-")[0], text.hidden_size)))
        for name in wanted.names
    )
    sizes = (sum(info.bytes for info in each.values()) for each in fields)
    return math.ceil(
        sum(size * (1.0 if name == FINAL else places) for name, size in zip(wanted.names, sizes, strict=True))
    )


def taps_are_begun(storage: Storage, manifest: Manifest, wanted: TapRequest) -> bool:
    """Return True if all requested taps have a plan and sound shared files.

    Raises:
        CacheMismatch: an existing tap is stored in another way, or belongs to another cache.
    """
    plans = _found(storage, manifest, wanted)
    return len(plans) == len(wanted.names) and not any(
        shared_problems(storage.within(tap_folder(name)), info) for name, info in plans.items()
    )


def _found(storage: Storage, manifest: Manifest, wanted: TapRequest) -> dict[str, TapInfo]:
    """Return the plans of the requested taps that exist already, by name."""
    names = [name for name in tap_folders(storage) if name in wanted.names]
    plans = {name: read_tap(storage, manifest, name).info for name in names}
    for name, info in plans.items():
        if wanted.codec not in (None, info.codec):
            raise CacheMismatch(
                f"--tap-codec {wanted.codec}: {storage} has the tap '{name}' as {info.codec}. Leave out --tap-codec, or remove "
                f"{storage}/{tap_folder(name)} to begin it again."
            )
    return plans


def widths_of(teacher: Teacher, names: Sequence[str], codec: str | None) -> dict[str, int]:
    """Return the count of channels of each named feature.

    Raises:
        BadInput: the codec does not fit a feature.
        ModelError: the teacher does not have a feature.
    """
    widths = teacher.widths(names) if names else {}
    for name, width in widths.items():
        if directions_of(codec or DEFAULT_CODEC) > width:
            raise BadInput(f"--tap-codec {codec}: {name} has {width} channels. Give at most pca-{width}.")
    return widths


def begin_taps(
    storage: Storage,
    manifest: Manifest,
    wanted: TapRequest,
    teacher: Teacher,
    pilot: Callable[[], Iterable[TeacherBatch]],
    progress: Progress,
) -> list[Tap]:
    """Begin the requested taps that do not exist yet, and repair the shared files of the others. Return all requested taps.

    A new tap gets its shared file first, then `tap.json`.

    Args:
        root: folder of the cache.
        manifest: manifest of the cache.
        wanted: the requested taps.
        teacher: shows its features.
        pilot: returns batches of the samples that the codecs are fitted on.
        progress: receives the steps.

    Raises:
        BadInput, ModelError: see `widths_of`.
        CacheMismatch: see `taps_are_begun`; or a damaged shared file cannot be made again with the same bytes.
    """
    existing = _found(storage, manifest, wanted)
    sound = {name for name, info in existing.items() if not shared_problems(storage.within(tap_folder(name)), info)}
    names = [name for name in wanted.names if name not in sound]
    widths = widths_of(teacher, names, wanted.codec)
    codecs = {name: existing[name].codec if name in existing else wanted.codec or DEFAULT_CODEC for name in names}
    moments = {name: moments_for(codec, widths[name]) for name, codec in codecs.items() if needs_pilot(codec)}
    if moments:
        _observe_pilot(moments, list(pilot()), teacher, manifest.teacher.vocabulary, progress)
    for name, codec in codecs.items():
        fit = moments.get(name)
        content = safetensors.torch.save(shared_of(codec, fit)) if fit else b""
        file = layout.shared_name("codec", content, ".safetensors")
        info = TapInfo(
            plan=manifest.identity,
            name=name,
            width=widths[name],
            codec=codec,
            pilot_rows=fit.rows if fit else 0,
            fields=tap_fields(codec, widths[name]),
            shared={file: seal_of_bytes(content)} if fit else {},
            places=teacher.places(name),
            layout=existing[name].layout if name in existing else layout_for(manifest, name),
        )
        _write(storage.within(tap_folder(name)), info, {file: content} if fit else {}, existing.get(name))
    return [Tap(storage, manifest, name) for name in wanted.names]


def begin_given(storage: Storage, manifest: Manifest, widths: Mapping[str, int], codec: str | None) -> list[Tap]:
    """Begin taps whose values are at hand, or find those that are there. Return all of them.

    Args:
        storage: of the cache.
        manifest: of the cache.
        widths: channels of each, by name.
        codec: one that needs no pilot; None for that of a tap that is there, and bfloat16 for a new one.

    Raises:
        BadInput: the codec needs a pilot, or a tap has another count of channels.
        CacheMismatch: an existing tap is stored in another way.
    """
    if needs_pilot(codec or DEFAULT_CODEC):
        raise BadInput(f"--tap-codec {codec}: it is fitted on a teacher's answers. Give bfloat16, float16 or float32.")
    existing = _found(storage, manifest, TapRequest(names=list(widths), codec=codec))
    for name, width in widths.items():
        if name in existing and existing[name].width != width:
            raise BadInput(f"{storage}: its tap '{name}' has {existing[name].width} channels, and the source {width}.")
        if name not in existing:
            chosen = codec or DEFAULT_CODEC
            fields = tap_fields(chosen, width)
            info = TapInfo(
                plan=manifest.identity,
                name=name,
                width=width,
                codec=chosen,
                fields=fields,
                shared={},
                layout=layout_for(manifest, name),
            )
            _write(storage.within(tap_folder(name)), info, {}, None)
    return [Tap(storage, manifest, name) for name in widths]


def layout_for(manifest: Manifest, name: str) -> Literal["mapped", "archive"]:
    """Return how a new tap lies on disk: as rows do where it stands in their place, else as bare bytes.

    A part of a wide feature beside the rows is too large to decompress as a whole for a few of its vectors.
    """
    return manifest.codec.layout if task_of(manifest.task).keeps == name else "mapped"


def _observe_pilot(
    moments: dict[str, Moments], batches: list[TeacherBatch], teacher: Teacher, vocabulary: int, progress: Progress
) -> None:
    """Add the teacher's features on the pilot samples to `moments`.

    Raises:
        ModelError: see `check_finite`.
    """
    total, done = sum(sum(batch.counts) for batch in batches), 0
    encode: dict[str, Encode] = dict.fromkeys(moments, lambda rows_ND: {"all": rows_ND})
    for batch, values in ask_features(teacher, batches, encode, vocabulary):
        kept = values()
        for name, each in moments.items():
            check_finite(name, kept)
            each.add(torch.from_numpy(kept[f"{name}/all"]))
        done += len(batch.rows_N)
        progress(Step(stage="pilot of taps", done=done, total=total))


def _write(storage: Storage, info: TapInfo, contents: dict[str, bytes], existing: TapInfo | None) -> None:
    """Write the files of a tap. The first writer wins, as for a cache, because pilots may differ in the last bits.

    Raises:
        CacheMismatch: the tap exists, and its damaged shared file cannot be made again with the same bytes.
        StorageError: the storage cannot be written.
    """
    if existing not in (None, info):
        raise CacheMismatch(
            f"{storage}: its shared file is damaged, and fitting it again here gives other bits. Run this on the kind of "
            "machine that began the tap, or remove that folder to begin it again."
        )
    with storage_errors(storage):
        for name, content in contents.items():
            storage.put(name, content)
        if existing is None and not storage.put_first(TAP_NAME, seal(info)):
            first = read_sealed(TapInfo, storage, TAP_NAME)
            for name in contents.keys() - first.shared.keys():
                storage.remove(name)


def check_finite(name: str, kept: dict[str, Array]) -> None:
    """Raise ModelError if a row of a feature holds NaN or infinity."""
    if not kept[f"{name}/{FINITE}"].all():
        raise ModelError(f"the teacher's {name} holds NaN or infinity; another number format of its weights may help.")


def encoders(taps: Iterable[Tap]) -> dict[str, Encode]:
    """Return the functions that encode the features of some taps, by name."""
    return {tap.name: tap.codec.encode for tap in taps}


def finish_taps(cache: Cache, names: Sequence[str], parts: Collection[int]) -> None:
    """Refuse parts of taps that belong to another plan or are not whole; sweep complete taps.

    Args:
        cache: of the taps.
        names: of the taps.
        parts: the parts that were to be written; of a tap that lacks others, they alone are looked at.

    Raises:
        CacheDamaged, CacheMismatch: the message names the first such part.
    """
    for name in names:
        tap = cache.taps[name]
        tap.index.check_sizes(None if tap.complete else parts)
        if tap.complete:
            with storage_errors(tap.storage):
                tap.storage.sweep()


class TapOut:
    """One part of a tap that is being written: stores and commits the encoded feature."""

    def __init__(self, tap: Tap, part: int, samples: Sequence[Asked], watch: Stopwatch = NO_STOPWATCH) -> None:
        """Stage the part. Raises PartTaken, StorageError: see `StagedPart`."""
        self._watch = watch
        self.name = tap.name
        self._fields = list(tap.plan.fields)
        self._vectors_of = tap.info.vectors_of
        counts_S = [self._vectors_of(sample) for sample in samples]
        self._staged = StagedPart(tap.storage, tap.plan, part, samples, counts_S)

    def __enter__(self) -> TapOut:
        return self

    def __exit__(self, *error: object) -> None:
        self._staged.__exit__(None, None, None)

    def store(self, batch: TeacherBatch, kept: dict[str, Array]) -> None:
        """Write each sample's vectors of a batch into the part. Raises ModelError: see `check_finite`."""
        check_finite(self.name, kept)
        counts = [self._vectors_of(sample) for sample in batch.samples]
        with self._watch("write taps"):
            for index, rows in split(batch, {field: kept[f"{self.name}/{field}"] for field in self._fields}, counts):
                self._staged.write(index, rows.fields)

    def commit(self) -> bool:
        """Make the part visible; see `PartOut`."""
        self._staged.commit()
        return True
