"""Images for a teacher: the prepared dump, and the same for a cache whose teacher is asked again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

import numpy as np
import xxhash
from transformers import PretrainedConfig

from logitstore.core.order import spread
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import Array, ModelRef
from logitstore.dump.files.class_names import labels_for
from logitstore.dump.parts import ANSWERS, missing_work
from logitstore.dump.task import AskAgain, CommittedSamples, Prepared, check_teacher, row_entries, teacher_info
from logitstore.dump.teachers import model_of
from logitstore.dump.teachers.classifier import features_asked
from logitstore.dump.teachers.image_classifier import ImageTeacher
from logitstore.dump.teachers.teacher import Teacher
from logitstore.dump.teachers.zero_shot import ZeroShotTeacher
from logitstore.errors import BadInput, CacheMismatch, LogitstoreError
from logitstore.format.data import ImagesInfo
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.needs import Gives
from logitstore.format.presets import row_of
from logitstore.format.views import ViewInfo
from logitstore.image.data.damage import damaged, left_out, refuse_damaged
from logitstore.image.data.images import Images, ImageSpec, open_images
from logitstore.image.labels import FEW_CLASSES, classes_of, output_width
from logitstore.image.pictures import Pictures, pictures_of, view_batches
from logitstore.image.processors.chosen import prove_data, recorded, view_info
from logitstore.image.processors.saved import Processor, load_processor
from logitstore.image.stored import images_arrow, images_of, views_of
from logitstore.image.view import Views
from logitstore.models.contrastive import compares_texts, is_classifier
from logitstore.models.load import load_config
from logitstore.models.placing.placement import Placement, refuse_impossible
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.settings.tasks import refuse_other_tasks
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.storage import open_storage, read_sealed
from logitstore.store.vocabulary import Vocabulary, read_pieces

SAMPLES_PER_PART = 8192
"""Larger than for texts: a view is one row of a few hundred bytes, so smaller parts would be very many small files."""


PROMPT = "a photo of a {}."


class ImageDump:
    """What a teacher is shown of images; see `logitstore.dump.task.DumpTask`."""

    no_plan = "it measures teachers of texts. `dump --dry-run` says what a dump of images costs"

    def prepare(self, settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
        self.taps(lambda: load_config(model_of(settings.teacher)), settings.hidden, settings.qkv)
        return _prepared(settings, progress)

    def reopen(self, cache: Cache, again: AskAgain, progress: Progress = no_progress) -> Prepared:
        """Prepare asking again; also refuse other libraries than those that made the views, see `pictures_of`."""
        return _reopened(cache, again, progress)

    def check_add(self, settings: AddSettings, cache: Cache) -> None:
        if settings.views is None and settings.hidden is None and settings.qkv is None:
            more = cache.manifest.views
            raise BadInput(
                f"{settings.cache}: a cache of images takes more --views, such as {more}-{2 * more - 1}, or --hidden or --qkv."
            )

    def taps(self, config: Callable[[], PretrainedConfig], hidden: str | None, qkv: str | None) -> list[str]:
        return features_asked(config, hidden, qkv)


def _prepared(settings: DumpSettings, progress: Progress) -> Prepared:
    """Prepare a dump of views of images. Options come first, then the data, from their names to their pixels."""
    refuse_other_tasks(settings, "dump", settings.task, f"--task {settings.task}")
    model = model_of(settings.teacher, trust_remote_code=settings.trust_remote_code)
    config = load_config(model)
    placement = Placement.of(settings, settings.quantization)
    refuse_impossible(placement, config, model)
    is_zero_shot = compares_texts(config)
    names = classes_of(settings, config, is_zero_shot)
    width = output_width(config, is_zero_shot)
    preset = settings.preset or ("topk" if len(names) <= FEW_CLASSES or width is None else "small")
    row = row_of(preset, settings.choices(), len(names), width)
    gives = _gives(config)
    check_teacher(settings, row, gives)
    processor = load_processor(model, config)
    view = recorded(view_info(settings, processor), _view_there(settings), processor)
    found = open_images(image_spec(settings), progress)
    labels, matched = np.full(len(found), -1), ""
    if settings.labels:
        labels, matched = labels_for(found.labels, found.label_names, names, str(model))
    if matched:
        progress(Step(stage="labels", done=1, total=1, note=matched))
    prove_data(settings, processor, _some(found))
    without = _left_out(found, settings, progress)
    images, labels = found.without(without) if without else found, np.delete(labels, list(without))
    unlabelled = len(images) if view.mixes else int((labels < 0).sum())
    prompt = settings.prompt or PROMPT
    views = partial(Views, images.keys, np.full(len(images), -1) if view.mixes else labels, settings.views)
    manifest = Manifest(
        task="image-classification",
        teacher=teacher_info(settings, config, len(names), width),
        data=ImagesInfo(
            source=settings.source,
            split=settings.split,
            kind="images",
            column=settings.column,
            label_column=settings.label_column,
            key_column=settings.key_column,
            limit=settings.limit,
            fingerprint=images.fingerprint,
            classes=xxhash.xxh3_128_hexdigest("\0".join(names).encode()),
            prompt=prompt if is_zero_shot else None,
            unlabelled=unlabelled,
            skipped=tuple(found.keys[place] for place in without),
        ),
        views=settings.views,
        view=view,
        samples=len(images),
        rows=len(images),
        tokens=len(images),
        samples_per_part=settings.samples_per_part or SAMPLES_PER_PART,
        batch_tokens=settings.batch_images,
        **row_entries(settings, preset, row, lambda: len(spread(len(images), len(images), settings.pilot_rows))),
    )
    _refuse_other_labels(settings, manifest, labels)
    texts = [prompt.replace("{}", name) for name in names]
    load = _loader(model, config, settings.dtype, settings.device, placement, texts, view.size)
    return Prepared(
        manifest=manifest,
        samples=views(),
        stored=lambda cache: views(_contents(cache)),
        config=config,
        gives=gives,
        batches=partial(
            view_batches, pictures=Pictures(images, view), size=settings.batch_images, workers=settings.workers
        ),
        files=partial(_files, images, labels, names, processor),
        load=load,
        places=_places(config, view.size),
        check=partial(_check_images, images, settings, manifest, progress),
    )


def _left_out(images: Images, settings: DumpSettings, progress: Progress) -> dict[int, str]:
    """Return which images are left out, by their places, and why. Raises BadInput: nothing would be left."""
    if not settings.skip_damaged:
        return {}
    found = damaged(images, range(len(images)), settings.workers, progress)
    for line in left_out(found):
        progress(Step(stage="left out", done=1, total=1, note=line))
    if len(found) == len(images):
        refuse_damaged(images, found, settings.source)
    return found


def _check_images(images: Images, settings: DumpSettings, manifest: Manifest, progress: Progress) -> None:
    """Look at every image that is still to be shown to the teacher. Raises BadInput: some cannot be used."""
    if settings.skip_damaged:
        return
    wanted = layout.parse_share(settings.parts, manifest.parts)[0]
    spans = [manifest.span(part) for part in missing_work(open_storage(settings.out), wanted, [ANSWERS])]
    places = {sample % len(images) for span in spans for sample in range(span.start, span.stop)}
    refuse_damaged(images, damaged(images, sorted(places), settings.workers, progress), settings.source)


def _some(images: Images) -> list[Array]:
    """Return the first picture of the data that can be read, of a few."""
    for place in range(min(len(images), 8)):
        with suppress(BadInput):
            return [images.picture(place)]
    return []


def _view_there(settings: DumpSettings) -> ViewInfo | None:
    """Return how the views of the cache are made that the dump goes on with; None where there is none."""
    storage = open_storage(settings.out)
    try:
        return read_sealed(Manifest, storage, MANIFEST_NAME).view
    except LogitstoreError:
        return None


def _refuse_other_labels(settings: DumpSettings, wanted: Manifest, labels: Array) -> None:
    """Refuse to go on with a cache whose images have other labels, as an older version may have given them.

    Raises:
        CacheMismatch: they have.
    """
    try:
        there = Cache(settings.out)
        if there.manifest.data != wanted.data:
            return  # which is named later
        kept = images_of(there).labels
    except LogitstoreError:
        return
    if not np.array_equal(kept, labels):
        place = int(np.flatnonzero(kept != labels)[0])
        raise CacheMismatch(
            f"--out {settings.out}: the cache there gives image '{images_of(there).name(place)}' the class {kept[place]}, this "
            f"command {labels[place]}. Choose another folder."
        )


def _reopened(cache: Cache, again: AskAgain, progress: Progress) -> Prepared:
    """Prepare asking the teacher of a cache of views again."""
    manifest = cache.manifest
    data, view = manifest.images
    model = model_of(again.teacher or manifest.teacher.name, trust_remote_code=again.trust_remote_code)
    config = load_config(model)
    placement = Placement.of(again.placing, manifest.teacher.quantization)
    refuse_impossible(placement, config, model)
    classes = [str(name) for name in read_pieces(cache).to_pylist()]
    texts = [data.prompt.replace("{}", name) for name in classes] if data.prompt else []
    if compares_texts(config) != bool(texts) or not (texts or is_classifier(config)):
        raise CacheMismatch(
            f"{model}: it is not a teacher of the kind that {cache.path} was made with. Give that teacher."
        )
    if not texts and config.num_labels != len(classes):
        raise CacheMismatch(
            f"{model}: it does not have the {len(classes)} classes of {cache.path}. Give the teacher that made it."
        )
    images = images_of(cache)
    labels = np.full(len(images), -1) if view.mixes else images.labels
    return Prepared(
        manifest=manifest,
        samples=CommittedSamples(cache)
        if again.views is None
        else Views(images.names(), labels, again.views, _contents(cache)),
        config=config,
        gives=_gives(config),
        batches=partial(
            view_batches,
            pictures=pictures_of(cache, again.images, None, progress),
            size=manifest.batch_tokens,
            workers=again.workers,
        ),
        load=_loader(model, config, manifest.teacher.dtype, again.placing.device, placement, texts, view.size),
    )


def _contents(cache: Cache) -> Array:
    """Return uint64: the checksum of each image's file, from the first part about the image; 0 if there is no part."""
    manifest = cache.manifest
    checksums = np.zeros(manifest.samples, np.uint64)
    first_parts = {part % manifest.parts_of_view: part for part in reversed(cache.part_numbers)}
    for part in first_parts.values():
        views = views_of(cache.samples_of(part))
        checksums[views.document_S] = views.content_S
    return checksums


def _loader(
    model: ModelRef,
    config: PretrainedConfig,
    dtype: str,
    device: str,
    placement: Placement,
    texts: Sequence[str],
    size: tuple[int, int],
) -> Callable[[], Teacher]:
    if compares_texts(config):
        return partial(ZeroShotTeacher, model, config, dtype, device, texts, size, placement)
    return partial(ImageTeacher, model, config, dtype, device, placement, size)


def _places(config: PretrainedConfig, size: tuple[int, int]) -> float:
    """Return about how many patches a picture has."""
    patch = getattr(config, "patch_size", None)
    return max(size[0] * size[1] // patch**2 + 1, 1) if isinstance(patch, int) else 1.0


def _gives(config: PretrainedConfig) -> Gives:
    return ZeroShotTeacher.gives if compares_texts(config) else ImageTeacher.gives


def image_spec(settings: DumpSettings) -> ImageSpec:
    """Return the specification of the images that a plan names."""
    return ImageSpec(
        source=settings.source,
        split=settings.split,
        column=settings.column,
        label_column=settings.label_column,
        key_column=settings.key_column,
        limit=settings.limit,
    )


def _files(images: Images, labels: Array, names: list[str], processor: Processor) -> dict[str, bytes]:
    """Return the shared files by path: names of the classes, the images, and the teacher's image processor."""
    classes = Vocabulary(pieces=names).arrow()
    table = images_arrow(images.keys, labels)
    processor_json = json.dumps(processor.said, indent=1, sort_keys=True).encode() + b"\n"
    return {
        layout.shared_name("vocabulary", classes, ".arrow"): classes,
        layout.shared_name("images", table, ".arrow"): table,
        f"{layout.shared_name('processor', processor_json)}/preprocessor_config.json": processor_json,
    }
