"""Make views: what a model is shown of an image, the same to the last bit whenever and wherever it is made again.

Each file has one transform; its fields are the options of `view_info`. A framing gets the height and width of a picture,
the aspect of a view and uniform numbers, and returns a box. A mixing gets the size of a view and uniform numbers, and
returns the weight of the view, and the box of its partner if there is one. Every other transform gets a picture and uniform
numbers, and returns a picture. A picture is 8-bit before and after every transform.
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
"""A transform is imported only when it is named, so that views without colour transforms need no kornia."""
