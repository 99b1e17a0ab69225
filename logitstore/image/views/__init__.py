"""Make views: what a model is shown of an image, the same to the last bit whenever and wherever it is made again.

The fields of a transform are the options of `view_info`. A framing gets a picture of any size and uniform numbers, and returns
one of the size of a view. A mixing gets the size of a view and uniform numbers, and
returns the weight of the view, and the box of its partner if there is one. Every other transform gets a picture and uniform
numbers, and returns a picture. A picture is 8-bit before and after every transform.
"""

from __future__ import annotations

from logitstore.core.registry import Table

TRANSFORMS = Table(
    "transform",
    {
        "whole": "logitstore.image.views.framing.boxed:Whole",
        "center": "logitstore.image.views.framing.boxed:Center",
        "crop": "logitstore.image.views.framing.boxed:Crop",
        "middle": "logitstore.image.views.framing.prepared:Middle",
        "shortest": "logitstore.image.views.framing.prepared:Shortest",
        "squash": "logitstore.image.views.framing.prepared:Squash",
        "native": "logitstore.image.views.framing.prepared:Native",
        "flip": "logitstore.image.views.pixels:Flip",
        "jitter": "logitstore.image.views.jitter:Jitter",
        "grayscale": "logitstore.image.views.pixels:Grayscale",
        "randaugment": "logitstore.image.views.randaugment:RandAugment",
        "erase": "logitstore.image.views.pixels:Erase",
        "mask": "logitstore.image.views.mask:Mask",
        "mixup": "logitstore.image.views.mix:Mixup",
        "cutmix": "logitstore.image.views.mix:Cutmix",
    },
)
"""A transform is imported only when it is named, so that views without colour transforms need no kornia."""
