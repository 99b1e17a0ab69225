"""Views that every process must make alike; run as a program, it tells their digests and those of their mixes as JSON."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import torch

from logitstore.core.types import Array
from logitstore.format.views import ViewInfo, parse_transforms
from logitstore.image.views.mix import mixing
from logitstore.image.views.proof import digest, versions
from logitstore.image.views.replay import replay

FULL = "crop,flip,jitter:p=0.8,grayscale,randaugment,erase:p=0.5,mixup:p=0.7,cutmix"
CASES = {
    "whole": "whole",
    "center": "center:share=0.7",
    "crop": "crop",
    "flip": "whole,flip:p=1",
    "jitter": "whole,jitter",
    "grayscale": "whole,grayscale:p=1",
    "randaugment": "whole,randaugment",
    "erase": "whole,erase:p=1",
    "mask": "whole,mask:grid=8",
    "mixup": "crop,mixup",
    "cutmix": "crop,cutmix",
    "full": FULL,
}
IMAGES = 4
VIEWS = 6


def picture(image: int = 0, height: int = 61, width: int = 83) -> Array:
    """uint8[H, W, 3], from whole numbers alone: slopes, stripes, a dark corner, and some texture."""
    y_H1, x_1W = np.arange(height)[:, None], np.arange(width)[None]
    red_HW = (x_1W * 255 // max(width - 1, 1) + y_H1 * (image + 1)) % 256
    green_HW = (y_H1 * 255 // max(height - 1, 1) + 40 * (x_1W // 9 % 3) + 17 * image) % 256
    blue_HW = (x_1W * x_1W * 3 + y_H1 * y_H1 * (5 + image)) % 251 * (x_1W + y_H1 > 30)
    return np.stack([red_HW, green_HW, blue_HW], -1).astype(np.uint8)


def info_of(text: str, **changes: Any) -> ViewInfo:
    """Views of 32 by 32, with the versions that are installed."""
    transforms = parse_transforms(text)
    usual = {
        "size": (32, 32),
        "transforms": transforms,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "seed": 5,
        "versions": versions(transforms),
    }
    return ViewInfo(**usual | changes)


def digests(case: str) -> list[list[int]]:
    """Of views by image, the last made first."""
    info = info_of(CASES[case])
    return [
        [
            digest(replay(picture(image), info, image, view), mixing(info, image, IMAGES, view))
            for view in reversed(range(VIEWS))
        ]
        for image in reversed(range(IMAGES))
    ]


if __name__ == "__main__":
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    print(json.dumps({case: digests(case) for case in reversed(CASES)}))
