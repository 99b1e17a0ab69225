"""Read encoded image files: their pixels and their checksum.

Axes: H height, W width, C red, green and blue.
"""

from __future__ import annotations

import io

import numpy as np
import xxhash
from PIL import Image, ImageOps, UnidentifiedImageError

from logitstore.core.types import Array
from logitstore.errors import BadInput, one_line, refusal_of

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
"""The endings of the names of image files, in lower case."""


# only these formats: Pillow would run Ghostscript for EPS
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")


def decode(content: bytes, key: str) -> Array:
    """Return the picture in an encoded file, uint8 [H, W, C], as a viewer shows it.

    The EXIF tag turns it upright. Transparent pixels are drawn on white. Of 16 bits the upper 8 are kept. Of several frames
    the first is taken. Colour profiles are not applied.

    Args:
        content: a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000 or PNM file.
        key: name of the image for messages.

    Raises:
        BadInput: the file is not an image of these kinds; it is damaged or truncated; it has more than 179 million pixels
            (Pillow's guard against decompression bombs); its pixels are 32-bit, whose range no file states.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return np.array(_on_white(_eight_bits(image)).convert("RGB"))
    except UnidentifiedImageError as error:
        reason = f"is no {', '.join(_FORMATS)} file" if content else "the file is empty"
        raise BadInput(f"image '{key}': cannot be decoded: {reason}. Put a whole file in its place.") from error
    except Exception as error:
        if refusal_of(error) is not None:
            raise
        # decoders raise many kinds of errors; the message keeps the reason, the traceback is chained
        raise BadInput(
            f"image '{key}': cannot be decoded: {one_line(error)}. Put a whole file in its place."
        ) from error


def content_hash(content: bytes) -> int:
    """Return the xxh3-64 checksum of an encoded file."""
    return xxhash.xxh3_64_intdigest(content)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the image with 8 bits per channel. Pillow would clip 16-bit values at 255 instead of scaling them.

    Raises:
        ValueError: the pixels are 32-bit.
    """
    # Pillow scales PNM files of 9 to 16 bits to 16 bits, but gives them a 32-bit mode
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("its pixels are 32-bit numbers, of which 8 or 16 bits are expected")
    return image


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))
