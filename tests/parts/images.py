"""Images for the tests: real digits as PNG files, small classifiers of them, and the dump that most tests use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, interpolate
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from logitstore.core.types import Array
from logitstore.settings.dump import DumpSettings

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
"""The classes; sorted by name they come in another order, so labels must go by names."""

CLASSES: dict[str, Any] = {"id2label": dict(enumerate(WORDS)), "label2id": {word: n for n, word in enumerate(WORDS)}}
SIZE = 16

PROCESSOR: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIZE, "width": SIZE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}
"""An image processor, as transformers saves it."""


@cache
def _digits() -> Any:
    return load_digits()


def label_of(number: int) -> int:
    """The class of a digit."""
    return int(_digits().target[number])


def picture_of(number: int) -> Array:
    """uint8[24, 20, 3]: one of 1,797 digits that people wrote (Alpaydin and Kaynak 1998), in a colour of its own."""
    levels_HW = np.kron(_digits().images[number], np.ones((3, 3)))[:, 2:-2]
    colour_3 = np.random.default_rng(number).integers(8, 16, 3)
    return np.asarray(levels_HW[:, :, None] * colour_3, np.uint8)


def digits(folder: Path, numbers: Iterable[int], labelled: bool = True) -> Path:
    """Some digits as PNG files named by their numbers, in a folder a class, or all in one."""
    for number in numbers:
        path = folder / (WORDS[label_of(number)] if labelled else "") / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture_of(number)).save(path)
    return folder


def small_vit(seed: int = 0, **changes: Any) -> ViTForImageClassification:
    """A classifier with random weights, sharp enough to have opinions."""
    torch.manual_seed(seed)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": SIZE,
        "patch_size": 4,
        "initializer_range": 0.3,
    }
    return ViTForImageClassification(ViTConfig(**shape | CLASSES | changes))


def small_resnet(seed: int = 0, **changes: Any) -> ResNetForImageClassification:
    """One that learns digits in seconds."""
    torch.manual_seed(seed)
    shape = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**shape | CLASSES | changes))


def taught(model: PreTrainedModel, numbers: Sequence[int], epochs: int = 8) -> PreTrainedModel:
    """The model, trained on the labels of some digits."""
    mean_311, std_311 = (torch.tensor(PROCESSOR[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    pictures_N3HW = torch.from_numpy(np.stack([picture_of(number) for number in numbers])).permute(0, 3, 1, 2)
    pixels_N3HW = (
        interpolate(pictures_N3HW.float(), (SIZE, SIZE), antialias=True, mode="bilinear") / 255 - mean_311
    ) / std_311
    labels_N = torch.tensor([label_of(number) for number in numbers])
    optimizer = torch.optim.AdamW(model.train().parameters(), 3e-3)
    for _ in range(epochs):
        for some in torch.randperm(len(labels_N)).split(32):
            loss = cross_entropy(model(pixel_values=pixels_N3HW[some]).logits, labels_N[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def save_classifier(folder: Path, model: PreTrainedModel, **processor: Any) -> Path:
    """A model with the image processor that its images go through."""
    model.save_pretrained(folder)
    save_processor(folder, **processor)
    return folder


def save_processor(folder: Path, **changes: Any) -> None:
    """Write the image processor of a model."""
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | changes))


def images_plan(teacher: Path, images: Path, out: Path, **changes: Any) -> DumpSettings:
    """The dump that most tests of images use: float32, three views, eight of ten classes listed, several parts a view."""
    usual: dict[str, Any] = {
        "task": "image-classification",
        "teacher": str(teacher),
        "data": str(images),
        "out": out,
        "views": 3,
        "augment": "crop,flip",
        "k": 8,
        "dtype": "float32",
        "device": "cpu",
        "samples_per_part": 25,
        "batch_images": 8,
    }
    return DumpSettings(**usual | changes)
