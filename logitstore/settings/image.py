"""Settings about images: the views of a dump, and where the images are now."""

from __future__ import annotations

from pydantic import Field

from logitstore.core.record import Record


class ViewChoices(Record):
    """What `dump` is told about images."""

    views: int = Field(1, ge=1, le=100_000, description="Views of each image: what a student sees in so many epochs.")
    augment: str | None = Field(
        None,
        description="What makes one view unlike another: names with their options, such as "
        "crop:scale=0.2-1,flip,jitter:hue=0,randaugment,erase,mixup,cutmix. Without it every view is the image as the "
        "teacher's processor takes it.",
    )
    image_size: int | None = Field(
        None, ge=1, le=4096, description="Edge of a view in pixels, where it is not what the teacher's processor says."
    )
    seed: int = Field(0, ge=0, lt=1 << 63, description="Seed of the views.")
    label_column: str | None = Field(
        None,
        description="Column of the classes, where it is not found by itself; a folder's classes are its subfolders.",
    )
    key_column: str | None = Field(None, description="Column that names the images; without it they are numbered.")
    labels: bool = Field(True, description="Keep the labels that the data have; --no-labels leaves them out.")
    classes: str | None = Field(
        None,
        description="Names of the classes, separated by commas, for teachers that compare images with texts (CLIP).",
    )
    prompt: str | None = Field(
        None,
        description="The text that names a class to such a teacher; {} is the name. Without it 'a photo of a {}.'.",
    )
    batch_images: int = Field(32, ge=1, description="Images the teacher sees at once.")
    workers: int = Field(2, ge=1, description="Threads that read images and make their views.")


class ImagesPlace(Record):
    """What every command that reads a cache's images again may be told of them."""

    images: str | None = Field(
        None,
        description="Where the images are, if not where they were when the cache was made (caches of images only).",
    )


class StudentsImages(ImagesPlace):
    """What the commands that show them to a student may be told."""

    image_size: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Edge of the views in pixels: the teacher's crops at another resolution. Without it what the student's "
        "configuration or image processor says, or the teacher's.",
    )
