"""Dumps of images, teachers of many kinds, and what they say of views."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
)

from logitstore.image.view import View
from logitstore.settings.dump import DumpSettings
from logitstore.store.cache import Cache
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import Targets
from tests.parts.images import CLASSES, SIZE, WORDS, images_plan, small_resnet, small_vit

Told = Callable[..., str]


def without_pilot(teacher: Path, images: Path, out: Path, augment: str, **changes: Any) -> DumpSettings:
    """A dump that asks the teacher about each view once; of an odd number of images, so that batches are cut."""
    usual = {"tail": "uniform", "limit": 7, "views": 2, "samples_per_part": 5, "batch_images": 3}
    return images_plan(teacher, images, out, augment=augment, **usual | changes)


def given(cache: Cache, **options: Any) -> dict[int, Tensor]:
    """By its number, each view as a loader gives it."""
    found: dict[int, Tensor] = {}
    for batch in cache.loader(**options):
        assert batch.pixel_values is not None
        assert batch.pixel_values.dtype == torch.float32
        found |= dict(zip(batch.samples.tolist(), batch.pixel_values, strict=True))
    return found


def viewed(cache: Cache) -> list[View]:
    return [each.sample for each in cache]


LAST = "zero/0055.png"
"""Of the images; by the order of their names all others come before it."""


@torch.inference_mode()
def direct(teacher: Path, cache: Cache, samples: Iterable[int]) -> tuple[Tensor, Tensor]:
    """What a model says of views, float32[B, C], and the labels of their images, by the folders that they are in."""
    model = AutoModelForImageClassification.from_pretrained(teacher, dtype=torch.float32).eval()
    chosen = np.array(list(samples))
    views = [cache[int(number)].sample for number in chosen]
    batch = next(iter(cache.loader(samples=chosen, batch_size=len(chosen), shuffle=False)))
    names = [view.name.split("/")[0] for view in views]
    labels_B = torch.tensor([WORDS.index(name) if name in WORDS else -1 for name in names])
    assert torch.equal(batch.gold, labels_B)
    return model(pixel_values=batch.pixel_values).logits, labels_B


def small_teacher(name: str) -> PreTrainedModel:
    """A classifier with random weights."""
    torch.manual_seed(7)
    stack = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    square: dict[str, Any] = {"image_size": SIZE, "patch_size": 4, "initializer_range": 0.3}
    stages = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 2, "initializer_range": 0.3}
    windows = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
    made: dict[str, Callable[[], PreTrainedModel]] = {
        "vit": small_vit,
        "deit": lambda: DeiTForImageClassification(DeiTConfig(**stack | square | CLASSES)),
        "deit with teacher": lambda: DeiTForImageClassificationWithTeacher(DeiTConfig(**stack | square | CLASSES)),
        "swin": lambda: SwinForImageClassification(SwinConfig(**windows | square | {"patch_size": 2} | CLASSES)),
        "convnext": lambda: ConvNextForImageClassification(ConvNextConfig(**stages | CLASSES)),
        "resnet": small_resnet,
    }
    return made[name]()


EXACTLY: dict[str, Any] = {"k": 10, "logprobs": "float32", "tail": "uniform", "limit": 20, "views": 2}
"""Everything that the teacher says of a few views, in float32."""


def stored(cache: Cache) -> Tensor:
    """float32[B, C]: logprobs of all views, as the cache has them."""
    loader = cache.loader(batch_size=len(cache), shuffle=False)
    targets = loader.targets(next(iter(loader)))
    assert isinstance(targets, Targets)
    return dense_logprobs(targets)
