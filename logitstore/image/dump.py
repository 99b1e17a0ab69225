"""Images for a teacher: the prepared dump, and the same for a cache whose teacher is asked again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xxhash
from transformers import PretrainedConfig

from logitstore.core.order import spread
from logitstore.core.progress import Progress, no_progress
from logitstore.core.types import Array, ModelRef
from logitstore.dump.task import Prepared, created_by, refuse_options, teacher_info
from logitstore.dump.teachers.image_classifier import ImageTeacher
from logitstore.dump.teachers.teacher import Teacher
from logitstore.dump.teachers.zero_shot import ZeroShotTeacher
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.data import ImagesInfo
from logitstore.format.manifest import Manifest
from logitstore.format.presets import row_of
from logitstore.format.row import row_fields
from logitstore.image.data.images import Images, ImageSpec, open_images
from logitstore.image.labels import FEW_CLASSES, _classes, _is_zero_shot, _labels, _width
from logitstore.image.pictures import Pictures, pictures_of, view_batches
from logitstore.image.processor import load_processor, view_info
from logitstore.image.stored import images_arrow
from logitstore.image.view import Views
from logitstore.models.load import load_config
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache, views_of
from logitstore.store.vocabulary import Vocabulary, read_pieces

SAMPLES_PER_PART = 8192
"""A view is one row, a few hundred bytes: parts of as many as a text has samples would be small files without end."""


ABOUT_TEXT = ("max_length", "overlap", "batch_tokens", "domain_column", "qkv")


PROMPT = "a photo of a {}."


@dataclass(frozen=True, kw_only=True)
class AskAgain:
    """Where teacher and images are, when a cache's teacher is asked again; None where they were."""

    teacher: str | None
    images: str | None
    device: str
    workers: int = 2


def prepare_images(settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
    """The draft of images; see `logitstore.dump.task`."""
    refuse_options(settings, ABOUT_TEXT)
    model = ModelRef.parse(settings.teacher)
    config = load_config(model)
    is_zero_shot = _is_zero_shot(config)
    names = _classes(settings, config, is_zero_shot)
    images = open_images(image_spec(settings), progress)
    labels = _labels(images, names, str(model)) if settings.labels else np.full(len(images), -1)
    processor = load_processor(model)
    view = view_info(settings, processor, settings.teacher)
    unlabelled = len(images) if view.mixes else int((labels < 0).sum())
    width = _width(config, is_zero_shot)
    preset = settings.preset or ("topk" if len(names) <= FEW_CLASSES or width is None else "small")
    row = row_of(preset, settings.choices(), len(names), width)
    pilot = (
        spread(len(images), len(images), settings.pilot_rows) if row.tail.shape in ("prior", "sketch", "head") else []
    )
    tail = row.tail.model_copy(update={"pilot_rows": len(pilot)})
    prompt = settings.prompt or PROMPT
    views = partial(Views, images.keys, np.full(len(images), -1) if view.mixes else labels, settings.views)
    manifest = Manifest(
        created_by=created_by(),
        task="image-classification",
        teacher=teacher_info(settings, config, len(names), width),
        data=ImagesInfo(
            source=settings.data,
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
        ),
        views=settings.views,
        view=view,
        samples=len(images),
        rows=len(images),
        tokens=len(images),
        samples_per_part=settings.samples_per_part or SAMPLES_PER_PART,
        batch_tokens=settings.batch_images,
        fidelity_rows=settings.fidelity_rows if row.sparsifier.keeps_rows else 0,
        preset=preset,
        sparsifier=row.sparsifier,
        tail=tail,
        codec=row.codec,
        fields=row_fields(row.sparsifier, row.tail, row.codec, len(names)),
        shared={},
    )
    return Prepared(
        manifest=manifest,
        samples=views(),
        known=lambda cache: views(_contents(cache)),
        config=config,
        batches=partial(
            view_batches, pictures=Pictures(images, view), size=settings.batch_images, workers=settings.workers
        ),
        files=partial(_files, images, labels, names, processor),
        load=_loader(model, config, settings.dtype, settings.device, [prompt.replace("{}", name) for name in names]),
    )


def reopened(where: AskAgain, cache: Cache, views: int, progress: Progress = no_progress) -> Prepared:
    """The draft of a cache that is there, to ask its teacher about its views again, or about more of them.

    Args:
        where: teacher and images are now.
        cache: of images.
        views: how many of each image.
        progress: receives the steps.

    Raises:
        BadInput, CacheMismatch: the images are not there, or the libraries are others; see `pictures_of`. The teacher is of
            another kind.
        ModelError: the teacher's configuration cannot be loaded.
    """
    manifest = cache.manifest
    if not isinstance(manifest.data, ImagesInfo) or manifest.view is None:
        raise BadInput(f"{cache.path}: a cache of text holds no images.")
    model = ModelRef.parse(where.teacher or manifest.teacher.name)
    config = load_config(model)
    classes = [str(name) for name in read_pieces(cache).to_pylist()]
    texts = [manifest.data.prompt.replace("{}", name) for name in classes] if manifest.data.prompt else []
    if _is_zero_shot(config) != bool(texts):
        raise CacheMismatch(
            f"{model}: it is no teacher of the kind that {cache.path} was made with. Give that teacher."
        )
    images = cache.images
    return Prepared(
        manifest=manifest,
        samples=Views(
            images.names(), np.full(len(images), -1) if manifest.view.mixes else images.labels, views, _contents(cache)
        ),
        config=config,
        batches=partial(
            view_batches,
            pictures=pictures_of(cache, where.images, None, progress),
            size=manifest.batch_tokens,
            workers=where.workers,
        ),
        files=dict,
        load=_loader(model, config, manifest.teacher.dtype, where.device, texts),
    )


def _contents(cache: Cache) -> Array:
    """uint64: checksums of the images' files, as the first part about each has it; 0 where there is none."""
    manifest = cache.manifest
    found = np.zeros(manifest.samples, np.uint64)
    first_parts = {part % manifest.parts_of_view: part for part in reversed(cache.part_numbers)}
    for part in first_parts.values():
        views = views_of(cache.samples_of(part))
        found[views.document_S] = views.content_S
    return found


def _loader(
    model: ModelRef, config: PretrainedConfig, dtype: str, device: str, texts: Sequence[str]
) -> Callable[[], Teacher]:
    if _is_zero_shot(config):
        return partial(ZeroShotTeacher, model, config, dtype, device, texts)
    return partial(ImageTeacher, model, config, dtype, device)


def image_spec(settings: DumpSettings) -> ImageSpec:
    """Which images a plan names."""
    return ImageSpec(
        source=settings.data,
        split=settings.split,
        column=settings.column,
        label_column=settings.label_column,
        key_column=settings.key_column,
        limit=settings.limit,
    )


def _files(images: Images, labels: Array, names: list[str], processor: dict[str, Any]) -> dict[str, bytes]:
    """Names of the classes, the images, and the teacher's image processor, by their paths in the cache."""
    classes = Vocabulary(pieces=names).arrow()
    table = images_arrow(images.keys, labels)
    told = json.dumps(processor, indent=1, sort_keys=True).encode() + b"\n"
    return {
        layout.shared_name("vocabulary", classes, ".arrow"): classes,
        layout.shared_name("images", table, ".arrow"): table,
        f"{layout.shared_name('processor', told)}/preprocessor_config.json": told,
    }
