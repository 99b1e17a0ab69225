"""What other commands of this machine write at the same time, so that nobody does work twice without knowing."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from logitstore.core.progress import Progress, Step
from logitstore.errors import LogitstoreError
from logitstore.store.layout import parse_share
from logitstore.store.storage import Storage

_SHOWN = 5


def share_of(parts: str | None, count: int, progress: Progress) -> list[int]:
    """Return the parts that a command is to write, and say so where a range of them ends beyond the last part.

    Args:
        parts: the list of `--parts`; None for all.
        count: of the parts of the plan.
        progress: receives the note.

    Raises:
        BadInput: it is no list of parts, or names a single part that is not there.
        NoShare: all of it lies beyond the last part.
    """
    found, is_cut = parse_share(parts, count)
    if is_cut:
        text = f"--parts {parts}: the last part is {count - 1}; what lies beyond it is left out."
        progress(Step(stage="note", done=1, total=1, note=text))
    return found


def tell_of_others(storages: Iterable[Storage], parts: Collection[int], progress: Progress) -> None:
    """Report those of some parts that another command on this machine is writing now.

    Args:
        storages: where the parts would be written: of the cache, and of its taps.
        parts: numbers of the parts.
        progress: receives one note, if there are any.
    """
    found = sorted({number for storage in storages for number in _being_written(storage)}.intersection(parts))
    if found:
        names = ", ".join(f"{number:05d}" for number in found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
        text = (
            f"another command writes {'part' if len(found) == 1 else 'parts'} {names} of it now. Who finishes a part first "
            "writes it, and the other one's work on it is lost. Give each its own --parts, or one command --processes."
        )
        progress(Step(stage="note", done=1, total=1, note=text))


def _being_written(storage: Storage) -> list[int]:
    """Return the parts that living writers have staged, as far as the storage can say, or is able to look."""
    try:
        return storage.being_written() if hasattr(storage, "being_written") else []
    except (OSError, LogitstoreError):
        return []
