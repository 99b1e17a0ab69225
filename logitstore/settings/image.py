"""Settings about images: the views of a dump, and where the images are now."""

from __future__ import annotations

from pydantic import Field

from logitstore.core.record import Record
from logitstore.settings.data.labelled import LabelChoices


class ViewChoices(LabelChoices):
    """The settings of `dump` about images."""

    views: int = Field(
        1,
        ge=1,
        le=100_000,
        description="Views of each image, or masks of each text. A student sees one view in each epoch.",
    )
    augment: str | None = Field(
        None,
        description="Random changes that make the views differ: names with their options, such as "
        "crop:scale=0.2-1,flip,jitter:hue=0,randaugment,erase,mask,mixup,cutmix. Default: none, every view is the image as "
        "the teacher's processor prepares it.",
    )
    image_size: int | None = Field(
        None, ge=1, le=4096, description="Edge of a view in pixels. Default: as the teacher's processor says."
    )
    seed: int = Field(0, ge=0, lt=1 << 63, description="Seed of the views or masks.")
    key_column: str | None = Field(None, description="Column with a name for each image. Default: images are numbered.")
    skip_damaged: bool = Field(
        False,
        description="Leave out the images that cannot be read or decoded, and name them. Default: the dump is refused.",
    )
    classes: str | None = Field(
        None,
        description="Names of the classes, separated by commas, for teachers that compare images with texts (CLIP).",
    )
    prompt: str | None = Field(
        None,
        description="Text that describes a class to a teacher with --classes; {} is the name. Default: 'a photo of a {}.'.",
    )
    batch_images: int = Field(32, ge=1, description="Images in one batch of the teacher.")
    workers: int = Field(2, ge=1, description="Threads that read images and make their views.")


class ImagesPlace(Record):
    """The setting of every command that reads the images of a cache again."""

    images: str | None = Field(
        None,
        description="Folder or data set with the images, if they have moved since the dump (caches of images only).",
    )


class StudentsImages(ImagesPlace):
    """The settings of the commands that show images to a student."""

    image_size: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Edge of the views in pixels: the teacher's crops at another resolution. Default: as the student's "
        "configuration or image processor says, else as for the teacher.",
    )
