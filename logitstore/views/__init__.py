"""Views: what a model is shown of an image, the same to the last bit whenever and wherever it is made again.

One transform a file, its fields the options of `view_info`. A framing is called with the height and width of a picture, the
aspect of a view and uniform numbers, and gives a box; a mixing is called with the size of a view and uniform numbers, and gives
what is left of it; the others are called with a picture and uniform numbers, and give a picture. A picture is 8-bit before
and after every one.
"""

from logitstore.registry import Table

TRANSFORMS = Table(
    "transform",
    {
        "whole": "logitstore.views.framing:Whole",
        "center": "logitstore.views.framing:Center",
        "crop": "logitstore.views.framing:Crop",
        "flip": "logitstore.views.flip:Flip",
        "jitter": "logitstore.views.jitter:Jitter",
        "grayscale": "logitstore.views.grayscale:Grayscale",
        "randaugment": "logitstore.views.randaugment:RandAugment",
        "erase": "logitstore.views.erase:Erase",
        "mixup": "logitstore.views.mix:Mixup",
        "cutmix": "logitstore.views.mix:Cutmix",
    },
)
"""Imported only when named, so that views without colours do without kornia."""
