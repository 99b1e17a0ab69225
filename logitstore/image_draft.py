"""The plan of a dump of images, worked out as far as it goes without the teacher's weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xxhash
from transformers import PretrainedConfig

from logitstore.cache import layout
from logitstore.cache.images_file import images_arrow
from logitstore.cache.reader import Cache, views_of
from logitstore.cache.vocabulary import read_pieces
from logitstore.data.images import Images, ImageSpec, open_images
from logitstore.data.tokenizer import Vocabulary
from logitstore.draft import Draft, created_by, refuse_options, spread, teacher_info
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.fields import row_fields
from logitstore.image_processor import load_processor, view_info
from logitstore.manifest import ImagesInfo, Manifest
from logitstore.models import load_config, shape_of
from logitstore.pictures import Pictures, pictures_of
from logitstore.plans import DumpPlan
from logitstore.presets import row_of
from logitstore.teachers.image_classifier import ImageTeacher, ZeroShotTeacher
from logitstore.teachers.teacher import Teacher
from logitstore.types import Array, ModelRef, Progress, View, no_progress
from logitstore.view_batches import view_batches

FEW_CLASSES = 16
"""As many as preset topk lists; of more, small is both smaller and nearer to the teacher."""

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


class Views:
    """Every view of every image, made on demand: all images in one view, then all in the next.

    Args:
        names: keys of the images.
        labels: int64, the class of each, or -1.
        views: how many of each.
        contents: uint64, checksums of the files as they were when they were first read, if they were.
    """

    def __init__(self, names: Sequence[str], labels: Array, views: int, contents: Array | None = None) -> None:
        self._names, self._labels, self._views = names, labels, views
        self._contents = np.zeros(len(names), np.uint64) if contents is None else contents

    def __len__(self) -> int:
        return len(self._names) * self._views

    @property
    def rows_S(self) -> Array:
        """int64: 1 for each, which takes no memory however many there are."""
        return np.broadcast_to(np.int64(1), len(self))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        view, image = divmod(int(index), len(self._names))
        return View(
            name=self._names[image],
            image=image,
            view=view,
            label=int(self._labels[image]),
            content=int(self._contents[image]),
        )


def draft_images(plan: DumpPlan, progress: Progress = no_progress) -> Draft:
    """The draft of images; see `logitstore.draft`."""
    refuse_options(plan, ABOUT_TEXT)
    model = ModelRef.parse(plan.teacher)
    config = load_config(model)
    is_zero_shot = _is_zero_shot(config)
    names = _classes(plan, config, is_zero_shot)
    images = open_images(image_spec(plan), progress)
    labels = _labels(images, names, str(model)) if plan.labels else np.full(len(images), -1)
    processor = load_processor(model)
    view = view_info(plan, processor, plan.teacher)
    unlabelled = len(images) if view.mixes else int((labels < 0).sum())
    width = _width(config, is_zero_shot)
    preset = plan.preset or ("topk" if len(names) <= FEW_CLASSES or width is None else "small")
    row = row_of(preset, plan.choices(), len(names), width)
    pilot = spread(len(images), len(images), plan.pilot_rows) if row.tail.shape in ("prior", "sketch", "head") else []
    tail = row.tail.model_copy(update={"pilot_rows": len(pilot)})
    prompt = plan.prompt or PROMPT
    views = partial(Views, images.keys, np.full(len(images), -1) if view.mixes else labels, plan.views)
    manifest = Manifest(
        created_by=created_by(),
        task="image-classification",
        teacher=teacher_info(plan, config, len(names), width),
        data=ImagesInfo(
            source=plan.data,
            split=plan.split,
            kind="images",
            column=plan.column,
            label_column=plan.label_column,
            key_column=plan.key_column,
            limit=plan.limit,
            fingerprint=images.fingerprint,
            classes=xxhash.xxh3_128_hexdigest("\0".join(names).encode()),
            prompt=prompt if is_zero_shot else None,
            unlabelled=unlabelled,
        ),
        views=plan.views,
        view=view,
        samples=len(images),
        rows=len(images),
        tokens=len(images),
        samples_per_part=plan.samples_per_part or SAMPLES_PER_PART,
        batch_tokens=plan.batch_images,
        fidelity_rows=plan.fidelity_rows if row.sparsifier.keeps_rows else 0,
        preset=preset,
        sparsifier=row.sparsifier,
        tail=tail,
        codec=row.codec,
        fields=row_fields(row.sparsifier, row.tail, row.codec, len(names)),
        shared={},
    )
    return Draft(
        manifest=manifest,
        samples=views(),
        known=lambda cache: views(_contents(cache)),
        config=config,
        batches=partial(view_batches, pictures=Pictures(images, view), size=plan.batch_images, workers=plan.workers),
        files=partial(_files, images, labels, names, processor),
        load=_loader(model, config, plan.dtype, plan.device, [prompt.replace("{}", name) for name in names]),
    )


def reopened(where: AskAgain, cache: Cache, views: int, progress: Progress = no_progress) -> Draft:
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
    return Draft(
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


def image_spec(plan: DumpPlan) -> ImageSpec:
    """Which images a plan names."""
    return ImageSpec(
        source=plan.data,
        split=plan.split,
        column=plan.column,
        label_column=plan.label_column,
        key_column=plan.key_column,
        limit=plan.limit,
    )


def _is_zero_shot(config: PretrainedConfig) -> bool:
    """Whether it compares images with texts, as CLIP does."""
    return hasattr(config, "text_config") and hasattr(config, "vision_config")


def _width(config: PretrainedConfig, is_zero_shot: bool) -> int | None:
    """Channels of what the output layer takes, where the configuration says it."""
    width = getattr(config, "projection_dim", None) if is_zero_shot else shape_of(config)["hidden_size"]
    return int(width) if width else None


def _classes(plan: DumpPlan, config: PretrainedConfig, is_zero_shot: bool) -> list[str]:
    if is_zero_shot and plan.classes is None:
        raise BadInput(f"{plan.teacher}: it compares images with texts. Name the classes with --classes cat,dog,...")
    if not is_zero_shot and (plan.classes is not None or plan.prompt is not None):
        raise BadInput("--classes and --prompt are for teachers that compare images with texts. Leave them out.")
    if plan.classes is not None:
        names = [name.strip() for name in plan.classes.split(",")]
        if "" in names or len(set(names)) < len(names) or len(names) < 2:
            raise BadInput(f"--classes {plan.classes}: name two classes or more, each once.")
        if plan.prompt is not None and "{}" not in plan.prompt:
            raise BadInput(f"--prompt '{plan.prompt}': put {{}} where the name of the class goes.")
        return names
    architecture = (config.architectures or [""])[0]
    if "ForImageClassification" not in architecture:
        raise ModelError(f"{plan.teacher}: {architecture or config.model_type} is no image classifier.")
    return [str(config.id2label[number]) for number in range(config.num_labels)]


def _labels(images: Images, names: Sequence[str], teacher: str) -> Array:
    """int64: the teacher's number of each image's class, -1 without one.

    Classes go by their names; by their numbers where the data name none, or as many as the teacher and none as it does.

    Raises:
        BadInput: classes that the teacher does not have.
    """
    own = images.label_names
    if own is not None and set(own) <= set(names):
        number_of = np.array([*(names.index(name) for name in own), -1], np.int64)
        return np.asarray(number_of[images.labels])
    count = len(own) if own is not None else int(images.labels.max(initial=-1)) + 1
    if count > len(names):
        what = f"the data have {count} classes" + (f" ({', '.join(own[:3])}, ...)" if own else "")
        raise BadInput(
            f"{teacher}: {what}, the teacher {len(names)} ({', '.join(names[:3])}, ...). Give a teacher of these classes, or "
            "leave the labels out with --no-labels."
        )
    if own is not None and len(own) < len(names) and not set(own) & set(names):
        # in order of their names only where there are as many: else the third of one is not the third of the other
        raise BadInput(
            f"{teacher}: of the {len(own)} classes of the data ({', '.join(own[:3])}, ...) the teacher knows none by name, "
            f"and it has {len(names)} ({', '.join(names[:3])}, ...). Name the classes as the teacher does, or leave the "
            "labels out with --no-labels."
        )
    if known := set(own or ()) & set(names):
        # by number only where none goes by name: class 3 of one may well be called like class 5 of the other
        unknown = next(name for name in own or () if name not in known)
        raise BadInput(
            f"{teacher}: the data have the class '{unknown}', which the teacher has not, and '{min(known)}', which it has. "
            "Name the classes as the teacher does, or leave the labels out with --no-labels."
        )
    return images.labels


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
