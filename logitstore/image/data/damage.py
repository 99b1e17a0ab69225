"""Find the images of a data set that cannot be read or decoded, all of them, before a teacher is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from logitstore.core.background import Workers
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.errors import BadInput
from logitstore.image.data.images import Images

NAMED = 10
"""Most images that a message names."""

_AT_ONCE = 256


def damaged(images: Images, places: Iterable[int], workers: int, progress: Progress = no_progress) -> dict[int, str]:
    """Return which of some images cannot be used, and why, in their order. Every one of them is decoded.

    Args:
        images: the data set.
        places: the images to look at.
        workers: threads that decode.
        progress: receives the steps.
    """
    asked, found = list(places), dict[int, str]()
    threads = Workers(workers)
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        waiting = [threads.submit(_reason, images, place) for place in some]
        for place, pending in zip(some, waiting, strict=True):
            if (reason := pending.result()) is not None:
                found[place] = reason
        progress(Step(stage="check the images", done=start + len(some), total=len(asked)))
    return found


def refuse_damaged(images: Images, found: dict[int, str], source: str) -> None:
    """Refuse images that cannot be used, with the names of the first of them. Raises BadInput."""
    if not found:
        return
    first = "; ".join(_shortened(reason) for reason in list(found.values())[:NAMED])
    more = f"; and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
    raise BadInput(
        f"--data {source}: {len(found):,} of {len(images):,} images cannot be used: {first}{more}. Put whole files in their "
        "places and give the same command again, which goes on; or leave them out with --skip-damaged. A cache that was "
        "begun without it needs a new --out then."
    )


def left_out(found: dict[int, str]) -> Iterator[str]:
    """Yield a line for each of the first images that are left out, and one for the others."""
    for reason in list(found.values())[:NAMED]:
        yield _shortened(reason)
    if len(found) > NAMED:
        yield f"{len(found) - NAMED:,} more images"


def _reason(images: Images, place: int) -> str | None:
    try:
        images.picture(place)
    except BadInput as error:
        return str(error)
    return None


def _shortened(reason: str) -> str:
    """Return a message about one image without its way out."""
    return reason.rpartition(". ")[0] or reason
